"""The relay of agents' calls beside litellm's proxy: the same provider on loopback, in turns, in one run.

Three processes stand behind each figure: the provider, which writes into each token when it was sent; the API, or the
proxy, with a key and one worker; and this one, whose clients read. What the API does besides (a job with its ledger
entries, tokens written down, the call metered) counts against it; memory is off, since the proxy has none.

litellm pins an openai that is newer than ours, so that it lives in an environment of its own: `make bench` makes
`.venv-litellm`, and STEMMA_BENCH_LITELLM names another one's `litellm`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import uvloop

from benchmarks.studio import Measure, Studio, console, percentile, publish, scratch_studio
from stemma.access.keys import NewKey, create_key
from stemma.access.permissions import Role
from stemma.access.principal import local_principal
from stemma.ledger.service import Ledger
from stemma.store.settings import REPOSITORY

MODEL: Final = "loopback-1"

_ROUNDS = 3
_TOKENS, _GAP = 100, 0.01
_MANY, _MOST = 100, 500
_SLOW_TOKENS, _SLOW_GAP = 20, 0.5
_SECRET = "sk-benchmark"
_STAMP = re.compile(rb"(\d{10}\.\d{6}) ")
_ENDS = (b"event: done", b"data: [DONE]")
_DEADLINE = 180.0


@dataclass(frozen=True)
class Target:
    """Who is asked: where, with which key, and how."""

    port: int
    path: str
    key: str
    body: dict[str, Any]


@dataclass
class Load:
    """What the clients of one round saw; times in milliseconds."""

    seconds: float = 0.0
    tokens: int = 0
    dropped: int = 0
    first: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


def main() -> bool:
    """Run the benchmark; True when every bar is met."""
    litellm = Path(os.environ.get("STEMMA_BENCH_LITELLM", REPOSITORY / ".venv-litellm" / "bin" / "litellm"))
    if not litellm.exists():
        console.print("relay: skipped, since there is no litellm; `make bench` installs it")
        return True
    alone: dict[str, list[Load]] = {"direct": [], "stemma": [], "litellm": []}
    many: dict[str, list[Load]] = {"stemma": [], "litellm": []}
    with scratch_studio("relay") as studio:
        key = _issue(studio)
        with _upstream(_TOKENS, _GAP) as upstream, _api(studio, upstream) as api, _proxy(litellm, upstream) as proxy:
            targets = {
                "direct": Target(upstream, "/v1/chat/completions", "", _chat()),
                "stemma": Target(api, "/api/v1/agents/nova", key, _call()),
                "litellm": Target(proxy, "/v1/chat/completions", _SECRET, _chat()),
            }
            for target in targets.values():
                _load(target, 2, _TOKENS)
            for number in range(_ROUNDS):
                for name, target in sorted(targets.items(), reverse=bool(number % 2)):
                    alone[name].append(_load(target, 1, _TOKENS))
                    if name in many:
                        many[name].append(_load(target, _MANY, _TOKENS))
        with _upstream(_SLOW_TOKENS, _SLOW_GAP) as upstream, _api(studio, upstream) as api:
            slow = _load(Target(api, "/api/v1/agents/nova", key, _call()), _MOST, _SLOW_TOKENS, ramp=2.0)
    return publish("relay", _measures(alone, many, slow))


def _measures(alone: dict[str, list[Load]], many: dict[str, list[Load]], slow: Load) -> list[Measure]:
    def middle(loads: Sequence[Load], which: str) -> float:
        return statistics.median(percentile(getattr(load, which), 0.5) for load in loads)

    rates = {name: statistics.median(load.rate for load in loads) for name, loads in many.items()}
    first = {name: middle(loads, "first") for name, loads in many.items()}
    single = {name: middle(loads, "first") for name, loads in alone.items()}
    delay = {name: middle(loads, "delays") for name, loads in alone.items()}
    return [
        Measure("tokens at 100 streams", rates["stemma"], "/s"),
        Measure("litellm: tokens at 100 streams", rates["litellm"], "/s"),
        Measure("ratio", rates["stemma"] / rates["litellm"], bar=2.5),
        Measure("one stream: added delay, p50", delay["stemma"] - delay["direct"], "ms", bar=1.5, at_least=False),
        Measure("litellm, one stream: added delay, p50", delay["litellm"] - delay["direct"], "ms"),
        Measure("100 streams: time to first token, p50", first["stemma"], "ms"),
        Measure("100 streams: litellm's of ours", first["litellm"] / first["stemma"], bar=1),
        Measure("one stream: time to first token", single["stemma"], "ms"),
        Measure("one stream: litellm's of ours", single["litellm"] / single["stemma"], bar=1),
        Measure("100 streams: dropped", sum(load.dropped for load in many["stemma"]), bar=0, at_least=False),
        Measure("500 streams at 2 tokens/s: dropped", slow.dropped, bar=0, at_least=False),
        Measure("500 streams at 2 tokens/s: delay, p95", percentile(slow.delays, 0.95), "ms"),
    ]


def _call() -> dict[str, Any]:
    return {"input": "Say something.", "stream": True, "memory_state": "off"}


def _chat() -> dict[str, Any]:
    return {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "Say something."}]}


def _load(target: Target, streams: int, tokens: int, *, ramp: float = 0.2) -> Load:
    """Open the streams within `ramp` seconds, and read each to its end."""
    load = Load()

    async def one(number: int) -> None:
        await asyncio.sleep(number * ramp / streams)
        try:
            async with asyncio.timeout(_DEADLINE):
                read = await _read(target, load)
        except (TimeoutError, OSError):
            read = 0
        load.tokens += read
        load.dropped += read < tokens

    async def every() -> None:
        started = time.perf_counter()
        await asyncio.gather(*map(one, range(streams)))
        load.seconds = time.perf_counter() - started

    uvloop.run(every())
    return load


async def _read(target: Target, load: Load) -> int:
    """Read one stream; returns how many tokens came before its end, 0 where it has none."""
    body = json.dumps(target.body).encode()
    head = (
        f"POST {target.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {target.key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    started, read, waiting = time.time(), 0, b""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    try:
        writer.write(head.encode() + body)
        while part := await reader.read(1 << 16):
            now, waiting, end = time.time(), waiting + part, 0
            for stamp in _STAMP.finditer(waiting):
                if not read:
                    load.first.append((now - started) * 1000)
                load.delays.append((now - float(stamp[1])) * 1000)
                read, end = read + 1, stamp.end()
            waiting = waiting[end:]
            if any(word in waiting for word in _ENDS):
                return read
    finally:
        writer.close()
    return 0


def _issue(studio: Studio) -> str:
    wanted = NewKey("benchmark", Role.ADMIN_AGENT, ("agents:*",))
    with Ledger(studio.database.urls, studio.settings) as ledger:
        change = studio.database.read(lambda c: create_key(c, local_principal(), wanted, studio.settings))
        return str(ledger.commit(change).result().key)


@contextlib.contextmanager
def _upstream(tokens: int, gap: float) -> Iterator[int]:
    options = [f"--tokens={tokens}", f"--gap={gap}", "--stamps"]
    with _process([sys.executable, "-m", "tests.llm.upstream"], options, {}, "/v1/models") as port:
        yield port


@contextlib.contextmanager
def _api(studio: Studio, upstream: int) -> Iterator[int]:
    environment = {
        "STEMMA_HOME": str(studio.settings.home),
        "STEMMA_DATABASE_URL": str(studio.settings.database_url),
        "STEMMA_DATABASE_OWNER_URL": str(studio.settings.database_owner_url),
        "STEMMA_DAGSTER_DATABASE_URL": str(studio.settings.dagster_database_url),
        "STEMMA_API_REQUESTS_PER_MINUTE": "1000000",
        "STEMMA_API_REQUESTS_IN_FLIGHT": str(2 * _MOST),
        "STEMMA_LOCAL_MODEL_URL": f"http://127.0.0.1:{upstream}/v1",
        "STEMMA_LLM_PROVIDERS": "local",
    }
    with _process([sys.executable, "-m", "api"], None, environment, "/healthz") as port:
        yield port


@contextlib.contextmanager
def _proxy(litellm: Path, upstream: int) -> Iterator[int]:
    config = {
        "model_list": [
            {
                "model_name": MODEL,
                "litellm_params": {
                    "model": f"openai/{MODEL}",
                    "api_base": f"http://127.0.0.1:{upstream}/v1",
                    "api_key": "none",
                },
            }
        ],
        "general_settings": {"master_key": _SECRET},
        "litellm_settings": {"telemetry": False},
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(config, file)
        file.flush()
        environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "PYTHONPATH": ""}
        options = ["--config", file.name, "--host", "127.0.0.1"]
        with _process([str(litellm)], options, environment, "/health/liveliness") as port:
            yield port


@contextlib.contextmanager
def _process(command: list[str], options: list[str] | None, environment: dict[str, str], answers: str) -> Iterator[int]:
    """A server of its own process on a free port, which it takes as an option, or from the environment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    given = [] if options is None else [*options, f"--port={port}"]
    process = subprocess.Popen(
        [*command, *given],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "STEMMA_API_PORT": str(port), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not _answers(port, answers):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{command[-1]} did not start.")
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


def _answers(port: int, path: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
