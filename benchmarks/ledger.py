"""The ledger: durable appends beside one append per transaction in one run, proofs in a long chain, and verification.

Every way of appending has 64 clients, each waiting for its commit before it sends the next, and writes the same rows
with the same hashes into a chain of its own; they take turns, and a ratio is the median of the rounds'. Ours has its
clients once as tasks of an event loop, as the API has its requests, and once as threads, whose wake-ups cost more. The
baseline is what the writer would be without a queue: each client is a thread with a connection of its own and, in one
transaction, takes the chain's lock, reads its tail, inserts and commits. (As tasks with asynchronous connections it is
no faster.) Where an fsync is fast, both sides are bound by the processor, so the time it takes is shown, too.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import astuple

import psycopg
import uvloop

from benchmarks.studio import Measure, Studio, percentile, publish, scratch_studio
from stemma.ledger import proofs
from stemma.ledger.entries import NewEntry, draft, genesis
from stemma.ledger.heads import HeadStore, SignedHead
from stemma.ledger.service import Ledger
from stemma.ledger.verification import verify
from stemma.ledger.writer import LedgerWriter
from stemma.store.database import connect

_CLIENTS = 64
_SECONDS = 3.0
_ROUNDS = 5
_LONG = 1_000_000
_LONG_CHAIN = "long"
_PROOFS = 20
_APPEND_BAR = 10.0
_VERIFY_BAR = 50_000
_PROOF_BAR = 1.0


def main() -> bool:
    """Run the benchmark; True when every bar is met."""
    # As the API does, before it serves.
    gc.freeze()
    with scratch_studio("ledger") as studio:
        measures = [*_appends(studio), *_proofs(studio), *_verification(studio)]
    return publish("ledger", measures)


def _entry(chain: str, client: int, turn: int) -> NewEntry:
    data = {"verdict": "allow", "rules": [True, True, False], "cost_eur": 0.25, "input_sha256": f"{client:064x}"}
    return NewEntry(chain, "decision", "agent:bench", f"event/{client}/{turn}", data)


def _appends(studio: Studio) -> list[Measure]:
    """Acknowledged appends per second, each way."""
    url = studio.database.urls.app
    connections = [connect(url, autocommit=True) for _ in range(_CLIENTS)]
    rates: dict[str, list[float]] = {"tasks": [], "threads": [], "alone": []}
    busy: list[float] = []
    with LedgerWriter(url) as writer:

        def by_task(client: int, turn: int) -> asyncio.Future[object]:
            return writer.append_async([_entry("tasks", client, turn)])

        def by_thread(client: int, turn: int) -> None:
            writer.append([_entry("threads", client, turn)]).result()

        def alone(client: int, turn: int) -> None:
            _append_alone(connections[client], _entry("alone", client, turn))

        def measure_tasks() -> float:
            started = time.process_time()
            rate = uvloop.run(_rate_of_tasks(by_task))
            busy.append((time.process_time() - started) / (rate * _SECONDS) * 1e6)
            return rate

        ways = [
            ("tasks", measure_tasks),
            ("threads", lambda: _rate_of_threads(by_thread)),
            ("alone", lambda: _rate_of_threads(alone)),
        ]
        for number in range(_ROUNDS):
            for name, measure in ways if number % 2 else reversed(ways):
                rates[name].append(measure())
    for connection in connections:
        connection.close()

    def ratio(ours: str) -> float:
        return statistics.median(mine / theirs for mine, theirs in zip(rates[ours], rates["alone"], strict=True))

    return [
        Measure("durable appends, 64 tasks", statistics.median(rates["tasks"]), "/s"),
        Measure("processor time of one, with its client", statistics.median(busy), "µs"),
        Measure("durable appends, 64 threads", statistics.median(rates["threads"]), "/s"),
        Measure("one append per transaction, 64 threads", statistics.median(rates["alone"]), "/s"),
        Measure("ratio, tasks", ratio("tasks"), bar=_APPEND_BAR),
        Measure("ratio, threads", ratio("threads")),
    ]


def _append_alone(connection: psycopg.Connection, entry: NewEntry) -> None:
    """The writer's own steps for one entry, inserted by the plainest statement."""
    prepared = draft(entry)
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(4711)")
        tail = connection.execute(
            "SELECT seq, entry_hash FROM ledger WHERE chain = %s ORDER BY seq DESC LIMIT 1", (entry.chain,)
        ).fetchone()
        seq, before = tail or (0, genesis(entry.chain))
        connection.execute(
            "INSERT INTO ledger (chain, seq, prev_hash, body, entry_hash, id, kind, actor, subject, created_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            astuple(prepared.seal(seq + 1, before)),
        )


def _rate_of_threads(append: Callable[[int, int], None]) -> float:
    """What 64 threads get through in the given time, per second."""
    done = [0] * _CLIENTS
    started = time.perf_counter()

    def client(number: int) -> None:
        while time.perf_counter() < started + _SECONDS:
            append(number, done[number])
            done[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - started)


async def _rate_of_tasks(append: Callable[[int, int], asyncio.Future[object]]) -> float:
    """The same of 64 tasks of one event loop."""
    done = [0] * _CLIENTS
    started = time.perf_counter()

    async def client(number: int) -> None:
        while time.perf_counter() < started + _SECONDS:
            await append(number, done[number])
            done[number] += 1

    await asyncio.gather(*(client(number) for number in range(_CLIENTS)))
    return sum(done) / (time.perf_counter() - started)


def _proofs(studio: Studio) -> list[Measure]:
    """Seconds from a commit to a head and to a proof in a chain of a million, and what proofs of old entries take."""
    _fill(studio)
    store, heads, proved = HeadStore(studio.settings), [], []
    with Ledger(studio.database.urls, studio.settings) as ledger:
        while not ledger.status().head_key:
            time.sleep(0.05)
        for turn in range(_PROOFS):
            (entry,) = ledger.append([_entry(_LONG_CHAIN, 0, turn)]).result()
            committed = time.perf_counter()
            head = _covering(store, entry.seq)
            heads.append(time.perf_counter() - committed)
            proofs.forget()
            _prove(studio, head, entry.seq)
            proved.append(time.perf_counter() - committed)
            time.sleep(0.05 * (turn % 6))
    proofs.forget()
    first = _prove(studio, head, 1)
    seqs = random.Random(6962).choices(range(1, _LONG + 1), k=_PROOFS)
    # Twice, since every large subtree is read once.
    for _ in range(2):
        old = [_prove(studio, head, seq) for seq in seqs]
    return [
        Measure("commit to signed head, p50", percentile(heads, 0.5), "s"),
        Measure("commit to signed head, worst", max(heads), "s"),
        Measure(f"commit to proof among {_LONG:,}, worst", max(proved), "s", bar=_PROOF_BAR, at_least=False),
        Measure("proof of an old entry, the process's first", first, "s"),
        Measure("proof of an old entry, worst after that", max(old), "s"),
    ]


def _fill(studio: Studio) -> None:
    with LedgerWriter(studio.database.urls.app) as writer:
        for start in range(0, _LONG, 10_000):
            batches = [[_entry(_LONG_CHAIN, start, turn) for turn in range(1000)] for _ in range(10)]
            for appended in [writer.append(batch) for batch in batches]:
                appended.result()


def _covering(store: HeadStore, seq: int) -> SignedHead:
    while True:
        newest = store.newest()
        tree = newest.head.of(_LONG_CHAIN) if newest else None
        if newest is not None and tree is not None and tree.size >= seq:
            return newest
        time.sleep(0.002)


def _prove(studio: Studio, head: SignedHead, seq: int) -> float:
    """Seconds that it takes."""
    started = time.perf_counter()
    studio.database.read(lambda connection: proofs.prove_inclusion(connection, head, _LONG_CHAIN, seq))
    return time.perf_counter() - started


def _verification(studio: Studio) -> list[Measure]:
    """Entries per second over everything that was appended."""
    measures = []
    for deep, bar in ((False, _VERIFY_BAR), (True, None)):
        report = verify(studio.database, studio.settings, deep=deep)
        assert report.clean and report.entries >= _LONG
        name = "verify --deep" if deep else "verify"
        measures.append(Measure(f"{name}, {report.entries:,} entries", report.entries / report.seconds, "/s", bar=bar))
    return measures


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
