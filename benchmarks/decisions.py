"""Decisions over HTTP: 16 and 64 clients at the API, beside the same API that commits one append per transaction.

Every request bears a real key and an Idempotency-Key, brings a new event, and is answered once its decision is durable:
the event is checked by its schema and recorded, its text embedded (kept by the text's hash; one request in ten brings a
text that nobody sent before), the ten nearest of 10,000 earlier cases looked up with their outcomes, the sample policy
of discounts evaluated, a variant drawn, and everything written to the ledger. The clients are tasks of another process
on the same machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import uvloop
from psycopg.types.json import Jsonb

from benchmarks.studio import Measure, Studio, console, percentile, publish, scratch_studio
from stemma.access.keys import NewKey, create_key
from stemma.access.permissions import Role
from stemma.access.principal import local_principal
from stemma.governance import nodes, policies
from stemma.governance.decisions.similar import text_of
from stemma.governance.events import types
from stemma.knowledge.embedding import load_model
from stemma.knowledge.onnx_query import export_query_encoder, open_query_encoder
from stemma.ledger.service import Ledger
from stemma.store.settings import REPOSITORY

_SAMPLES = REPOSITORY / "samples"
_CASES = 10_000
_NEW_TEXTS = 0.1
_SECONDS = 8.0
_WARM_UP = 2.0
_ROUNDS = 3
_FEW, _MANY = 16, 64
_RATIO_BAR = 2.0

_API = "import sys; from api.__main__ import main; sys.exit(main())"
_ALONE = f"from stemma.ledger import writer; writer.MAX_BATCH = 1; {_API}"


@dataclass
class Load:
    """What clients saw in one round."""

    seconds: float = 0.0
    milliseconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.milliseconds) / self.seconds


def main() -> bool:
    """Run the benchmark; True when every bar is met."""
    with scratch_studio("decisions") as studio:
        key = _prepare(studio)
        ours: list[tuple[Load | None, Load]] = []
        alone: list[tuple[Load | None, Load]] = []
        busy: list[float] = []
        for number in range(_ROUNDS):
            for program, loads in ((_API, ours), (_ALONE, alone)) if number % 2 else ((_ALONE, alone), (_API, ours)):
                with _serving(studio, program) as (port, process):
                    few = _load(port, key, _FEW) if loads is ours else None
                    before = _busy(process)
                    many = _load(port, key, _MANY)
                    loads.append((few, many))
                    if loads is ours:
                        busy.append((_busy(process) - before) / sum(many.statuses.values()))
        with studio.database.snapshot() as connection:
            cases = connection.execute("SELECT count(*) FROM decision_embeddings").fetchone() or (0,)
    return publish("decisions", _measures(ours, alone, busy, cases[0]), verdicts=dict(ours[0][1].verdicts))


def _measures(ours: Sequence[Any], alone: Sequence[Any], busy: Sequence[float], cases: int) -> list[Measure]:
    few = [load for load, _ in ours]
    many = [load for _, load in ours]
    every = [*few, *many, *(load for _, load in alone)]
    refused = sum(count for load in every for status, count in load.statuses.items() if not 200 <= status < 300)

    def middle(loads: Sequence[Load], share: float) -> float:
        return statistics.median(percentile(load.milliseconds, share) for load in loads)

    rate, rate_alone = (statistics.median(load.rate for load in loads) for loads in (many, [one for _, one in alone]))
    return [
        Measure("16 clients: p50", middle(few, 0.5), "ms"),
        Measure("16 clients: p95", middle(few, 0.95), "ms", bar=150, at_least=False),
        Measure("64 clients: p50", middle(many, 0.5), "ms", bar=250, at_least=False),
        Measure("64 clients: p95", middle(many, 0.95), "ms", bar=500, at_least=False),
        Measure("answers other than 2xx", refused, bar=0, at_least=False),
        Measure("decisions, 16 clients", statistics.median(load.rate for load in few), "/s"),
        Measure("decisions, 64 clients", rate, "/s"),
        Measure("one append per transaction, 64 clients", rate_alone, "/s"),
        Measure("ratio", rate / rate_alone, bar=_RATIO_BAR),
        Measure("the API's processor time of one, 64 clients", statistics.median(busy) * 1000, "ms"),
        Measure("cases at the end", cases),
    ]


def _prepare(studio: Studio) -> str:
    """Publish the samples, put in the earlier cases, and make a key."""
    principal = local_principal()
    policy = _SAMPLES / "policies" / "finance" / "discounts.yaml"
    tests = policy.with_suffix(".tests.yaml")
    with Ledger(studio.database.urls, studio.settings) as ledger:

        def commit(make: Any) -> Any:
            return ledger.commit(studio.database.read(make)).result()

        event_type = (_SAMPLES / "event_types" / "DiscountRequested.yaml").read_text("utf-8")
        commit(lambda c: types.publish(c, principal, event_type))
        commit(lambda c: policies.publish(c, principal, policy.read_text("utf-8"), tests.read_text("utf-8")))
        commit(lambda c: nodes.publish(c, principal, (_SAMPLES / "nodes" / "finance.yaml").read_text("utf-8")))
        wanted = NewKey("benchmark", Role.BUILDER, ("decide:*",))
        issued = commit(lambda c: create_key(c, principal, wanted, studio.settings))
    embedder = load_model(studio.settings)
    export_query_encoder(studio.settings, embedder)
    _fill(studio, embedder.key)
    return str(issued.key)


def _fill(studio: Studio, model_key: str) -> None:
    """Ten thousand decisions of the last year, each with its text's vector and an outcome."""
    node = studio.database.read(lambda connection: nodes.load(connection, "finance"))
    encoder = open_query_encoder(studio.settings, model_key)
    rng = random.Random(7)
    events = [_data(rng) for _ in range(_CASES)]
    texts = [text_of(node, "DiscountRequested", data) for data in events]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        vectors = list(pool.map(encoder.encode, texts))
    now = datetime.now(UTC)
    content = b'{"context":{"similar":[]},"event":{}}'
    with studio.database.owner() as connection, connection.pipeline():
        connection.execute("DROP INDEX decision_embeddings_similar")
        connection.execute("INSERT INTO decision_contexts VALUES (sha256(%s), %s)", (content, content))
        cursor = connection.cursor()
        for data, text, vector in zip(events, texts, vectors, strict=True):
            row = {
                "event": uuid4(),
                "decision": uuid4(),
                "at": now - timedelta(days=rng.uniform(1, 365)),
                "data": Jsonb(data),
                "entity": f"customer-{rng.randrange(800)}",
                "content": content,
                "key": model_key,
                "text": sha256(text.encode()).digest(),
                "vector": vector,
                "success": rng.random() < 0.93,
                "level": rng.choice(("AL2", "AL3")),
            }
            cursor.execute(_CASE, row)
        connection.execute(
            "CREATE INDEX decision_embeddings_similar ON decision_embeddings USING hnsw (embedding vector_cosine_ops)"
        )
        connection.execute("ANALYZE")
    console.print(f"{_CASES:,} cases")


_CASE = """
    WITH event AS (
        INSERT INTO events (id, type, type_version, entity, occurred_at, received_at, actor, data, sha256)
        VALUES (%(event)s, 'DiscountRequested', '1.0.0', %(entity)s, %(at)s, %(at)s, 'bench', %(data)s, '')
    ), decision AS (
        INSERT INTO decisions (id, node, node_version, event_id, event_type, entity, policy, policy_version,
            policy_sha256, variant, verdict, level, reasons, verdict_sha256, context_sha256, state, effect, occurred_at,
            decided_at, decided_by, latency_ms, seq, entry_hash)
        VALUES (%(decision)s, 'finance', '1.0.0', %(event)s, 'DiscountRequested', %(entity)s, 'finance.discounts',
            '1.0.0', '', 'baseline', 'approve', %(level)s, '[]', '', sha256(%(content)s), 'final', 'approve', %(at)s,
            %(at)s, 'bench', 1, 0, '')
    ), remembered AS (
        INSERT INTO decision_embeddings (decision_id, model_key, node, text_sha256, embedding, occurred_at)
        VALUES (%(decision)s, %(key)s, 'finance', %(text)s, %(vector)s, %(at)s)
    )
    INSERT INTO outcomes (decision_id, metrics, success, counted, observed_at, revision, updated_at, updated_by)
    VALUES (%(decision)s, '{}', %(success)s, true, %(at)s, 1, %(at)s, 'bench')
"""


def _data(rng: random.Random) -> dict[str, Any]:
    return {
        "discount": rng.choice((0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)),
        "amount": round(10 ** rng.uniform(1, 3.6), 2),
        "segment": rng.choice(("Consumer", "Corporate", "Home Office")),
        "category": rng.choice(("Paper", "Binders", "Phones", "Storage", "Furniture", "Copiers", "Art", "Labels")),
        "region": rng.choice(("East", "West", "South", "Central")),
    }


@contextlib.contextmanager
def _serving(studio: Studio, program: str) -> Iterator[tuple[int, int]]:
    """The API as a process of its own, on a free port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "STEMMA_HOME": str(studio.settings.home),
        "STEMMA_DATABASE_URL": str(studio.settings.database_url),
        "STEMMA_DATABASE_OWNER_URL": str(studio.settings.database_owner_url),
        "STEMMA_DAGSTER_DATABASE_URL": str(studio.settings.dagster_database_url),
        "STEMMA_API_PORT": str(port),
        "STEMMA_API_REQUESTS_PER_MINUTE": "1000000",
        "STEMMA_API_REQUESTS_IN_FLIGHT": str(_MANY),
        "STEMMA_LOG_LEVEL": "WARNING",
    }
    process = subprocess.Popen([sys.executable, "-c", program], cwd=REPOSITORY, env=environment)
    try:
        deadline = time.monotonic() + 60
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit("The API did not start.")
            time.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def _busy(process: int) -> float:
    """Seconds of processor time that a process has taken."""
    stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _load(port: int, key: str, clients: int) -> Load:
    """Let so many clients each send a request when the last was answered; the first seconds are not counted."""
    load = Load()
    uvloop.run(_drive(port, key, clients, load))
    console.print(f"{clients} clients: {load.rate:.0f}/s, p50 {percentile(load.milliseconds, 0.5):.0f} ms")
    return load


async def _drive(port: int, key: str, clients: int, load: Load) -> None:
    begin = time.perf_counter() + _WARM_UP
    end = begin + _SECONDS
    known = random.Random(7)
    events = [_data(known) for _ in range(_CASES)]
    rng = random.Random()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (started := time.perf_counter()) < end:
            data = _data(rng) if rng.random() < _NEW_TEXTS else rng.choice(events)
            event = {"type": "DiscountRequested", "entity": f"customer-{rng.randrange(800)}", "data": data}
            writer.write(_request(key, uuid4(), json.dumps({"event": event}).encode()))
            status, body = await _answer(reader)
            ended = time.perf_counter()
            load.statuses[status] += 1
            if started >= begin:
                load.milliseconds.append((ended - started) * 1000)
                if status == 201:
                    said = json.loads(body)
                    load.verdicts[f"{said['verdict']} {said['level']}"] += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    load.seconds = time.perf_counter() - begin


def _request(key: str, idempotency_key: UUID, body: bytes) -> bytes:
    head = (
        "POST /api/v1/decisions/finance HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\nIdempotency-Key: {idempotency_key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    return int(head[9:12]), await reader.readexactly(length)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
