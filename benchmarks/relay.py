"""The relay of agents' calls beside litellm's proxy: the same provider on loopback, in turns, in one run.

What is held to bars is `POST /agents/{name}`: what it does besides (a job with its ledger entries, tokens written down,
the call metered) counts against it; memory is off, since the proxy has none. `POST /llm/run`, which keeps nothing but
the call's usage, is shown beside it.

Behind each figure stand the provider, which writes into each token when it was sent; the API or the proxy, each one
process with a key; and this process, whose clients read. Provider and clients take part of the processors from what is
measured: how much is shown.

litellm pins an openai that is newer than ours, so that it lives in an environment of its own: `make bench` makes
`.venv-litellm`, and STEMMA_BENCH_LITELLM names another one's `litellm`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import psutil

from benchmarks.relay_clients import Load, Target, load
from benchmarks.relay_provider import MODEL
from benchmarks.studio import Measure, Studio, console, percentile, publish, scratch_studio
from stemma.access.keys import NewKey, create_key
from stemma.access.permissions import Role
from stemma.access.principal import local_principal
from stemma.ledger.service import Ledger
from stemma.store.settings import REPOSITORY

_ROUNDS: Final = 3
_ALONE: Final = 3
_TOKENS, _GAP = 100, 0.01
_MANY, _MOST = 100, 500
_SLOW_TOKENS, _SLOW_GAP = 20, 0.5
_SECRET: Final = "sk-benchmark"
_BEGINNING: Final = 240.0
_ENDING: Final = 20.0


@dataclass(frozen=True)
class Server:
    """A process that answers on a port of loopback."""

    name: str
    port: int
    process: psutil.Popen

    def wait(self, path: str) -> None:
        """Wait until it answers; ends the benchmark where it does not begin to."""
        deadline = time.monotonic() + _BEGINNING
        while not self._answers(path):
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{self.name} did not start.")
            time.sleep(0.1)

    def _answers(self, path: str) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", trust_env=False, timeout=5).status_code == 200
        except httpx.TransportError:
            return False


def main() -> bool:
    """Run the benchmark; True when every bar is met."""
    litellm = Path(os.environ.get("STEMMA_BENCH_LITELLM", REPOSITORY / ".venv-litellm" / "bin" / "litellm"))
    if not litellm.exists():
        console.print("relay: skipped, since there is no litellm; `make bench` installs it")
        return True
    with _interruptible(), scratch_studio("relay") as studio:
        key = _issue(studio)
        alone, many = _beside(studio, key, litellm)
        slow = _slowly(studio, key)
    return publish("relay", _measures(alone, many, slow), processor=_shares(many, slow))


Loads = dict[str, list[Load]]


def _beside(studio: Studio, key: str, litellm: Path) -> tuple[Loads, Loads]:
    """Rounds of single streams and of many, in turns: straight from the provider, of agents, of models, of litellm."""
    alone: Loads = {"direct": [], "agents": [], "models": [], "litellm": []}
    many: Loads = {name: [] for name in alone if name != "direct"}
    with _provider(_TOKENS, _GAP) as provider, _api(studio, provider) as api, _proxy(litellm, provider) as proxy:
        provider.wait("/v1/models")
        api.wait("/healthz")
        proxy.wait("/health/liveliness")
        asked = {
            "direct": (provider, Target(provider.port, "/v1/chat/completions", "", _chat())),
            "agents": (api, Target(api.port, "/api/v1/agents/nova", key, _call())),
            "models": (api, Target(api.port, "/api/v1/llm/run", key, _prompt())),
            "litellm": (proxy, Target(proxy.port, "/v1/chat/completions", _SECRET, _chat())),
        }
        for _, target in asked.values():
            load(target, 4, _TOKENS)
        for number in range(_ROUNDS):
            for name, (server, target) in sorted(asked.items(), reverse=bool(number % 2)):
                alone[name] += [load(target, 1, _TOKENS) for _ in range(_ALONE)]
                if name in many:
                    busy = _Busy(studio, provider, server)
                    seen = replace(load(target, _MANY, _TOKENS), busy=busy())
                    console.print(f"{name}: {seen.rate:,.0f} tokens/s, {seen.dropped} dropped")
                    many[name].append(seen)
    return alone, many


def _slowly(studio: Studio, key: str) -> Load:
    """Five hundred agents' streams at once, at two tokens a second each."""
    with _provider(_SLOW_TOKENS, _SLOW_GAP) as provider, _api(studio, provider) as api:
        provider.wait("/v1/models")
        api.wait("/healthz")
        target = Target(api.port, "/api/v1/agents/nova", key, _call())
        load(target, 4, _SLOW_TOKENS)
        busy = _Busy(studio, provider, api)
        return replace(load(target, _MOST, _SLOW_TOKENS, ramp=2.0), busy=busy())


def _measures(alone: Loads, many: Loads, slow: Load) -> list[Measure]:
    rates = {name: statistics.median(one.rate for one in loads) for name, loads in many.items()}
    first = {name: _middle(loads, "first") for name, loads in many.items()}
    single = {name: _middle(loads, "first") for name, loads in alone.items()}
    direct = _middle(alone["direct"], "delays")
    delay = {name: _middle(loads, "delays") - direct for name, loads in alone.items()}
    return [
        Measure("agents, 100 streams: tokens", rates["agents"], "/s"),
        Measure("litellm, 100 streams: tokens", rates["litellm"], "/s"),
        Measure("agents' of litellm's", rates["agents"] / rates["litellm"], bar=2.5),
        Measure("agents, one stream: added delay, p50", delay["agents"], "ms", bar=1.5, at_least=False),
        Measure("litellm, one stream: added delay, p50", delay["litellm"], "ms"),
        Measure("agents, one stream: time to first token, p50", single["agents"], "ms"),
        Measure("litellm, one stream: the same, of agents'", single["litellm"] / single["agents"], bar=1),
        Measure("agents, 100 streams: time to first token, p50", first["agents"], "ms"),
        Measure("litellm, 100 streams: the same, of agents'", first["litellm"] / first["agents"], bar=1),
        Measure("agents, 100 streams: dropped", _dropped(many["agents"]), bar=0, at_least=False),
        Measure("litellm, 100 streams: dropped", _dropped(many["litellm"])),
        Measure("agents, 500 streams at 2 tokens/s: dropped", slow.dropped, bar=0, at_least=False),
        Measure("agents, 500 streams at 2 tokens/s: delay, p95", percentile([*slow.delays, 0, 0], 0.95), "ms"),
        Measure("/llm/run, 100 streams: tokens", rates["models"], "/s"),
        Measure("/llm/run, one stream: added delay, p50", delay["models"], "ms"),
        Measure("/llm/run, one stream: time to first token, p50", single["models"], "ms"),
        Measure("agents: provider and clients' share of the work", 100 * _apart(many["agents"]), "%"),
        Measure("litellm: provider and clients' share of the work", 100 * _apart(many["litellm"]), "%"),
    ]


def _middle(loads: Sequence[Load], which: str) -> float:
    """The median over all streams of all rounds; nothing that came is infinitely late."""
    return statistics.median([value for one in loads for value in getattr(one, which)] or [float("inf")])


def _dropped(loads: Sequence[Load]) -> int:
    return sum(one.dropped for one in loads)


def _apart(loads: Sequence[Load]) -> float:
    """What of the processor time went to the provider and the clients."""
    aside = sum(one.busy["provider"] + one.busy["clients"] for one in loads)
    return aside / sum(sum(one.busy.values()) for one in loads)


def _shares(many: Loads, slow: Load) -> dict[str, Any]:
    """Seconds of the processor by who took them, and how long each load took, round by round."""
    everything = {**many, "500 streams": [slow]}
    return {name: [{"seconds": one.seconds, **one.busy} for one in loads] for name, loads in everything.items()}


class _Busy:
    """Seconds of the processor that everybody takes from now until it is called."""

    def __init__(self, studio: Studio, provider: Server, server: Server) -> None:
        name = urlsplit(str(studio.settings.database_url)).path.lstrip("/")
        self._takers: dict[str, Callable[[], float]] = {
            "clients": time.process_time,
            "provider": lambda: _taken(provider.process),
            "server": lambda: _taken(server.process),
            "database": lambda: sum(_taken(one) for one in _backends(name)),
        }
        self._before = {name: taker() for name, taker in self._takers.items()}

    def __call__(self) -> dict[str, float]:
        return {name: round(taker() - self._before[name], 3) for name, taker in self._takers.items()}


def _taken(process: psutil.Process | psutil.Popen) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _backends(database: str) -> list[psutil.Process]:
    """Postgres' processes that serve a database, as their titles say."""
    found = psutil.process_iter(["cmdline"])
    return [one for one in found if database in " ".join(one.info["cmdline"] or ()) and one.pid != os.getpid()]


def _call() -> dict[str, Any]:
    return {"input": "Say something.", "stream": True, "memory_state": "off"}


def _prompt() -> dict[str, Any]:
    return {"input": "Say something.", "stream": True, "providers": ["local"]}


def _chat() -> dict[str, Any]:
    return {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "Say something."}]}


def _issue(studio: Studio) -> str:
    wanted = NewKey("benchmark", Role.ADMIN_AGENT, ("agents:*", "llm:*"))
    with Ledger(studio.database.urls, studio.settings) as ledger:
        change = studio.database.read(lambda c: create_key(c, local_principal(), wanted, studio.settings))
        return str(ledger.commit(change).result().key)


@contextlib.contextmanager
def _provider(tokens: int, gap: float) -> Iterator[Server]:
    options = [f"--tokens={tokens}", f"--gap={gap}"]
    with _process("The provider", [sys.executable, "-m", "benchmarks.relay_provider", *options], {}) as server:
        yield server


@contextlib.contextmanager
def _api(studio: Studio, provider: Server) -> Iterator[Server]:
    environment = {
        "STEMMA_HOME": str(studio.settings.home),
        "STEMMA_DATABASE_URL": str(studio.settings.database_url),
        "STEMMA_DATABASE_OWNER_URL": str(studio.settings.database_owner_url),
        "STEMMA_DAGSTER_DATABASE_URL": str(studio.settings.dagster_database_url),
        "STEMMA_API_REQUESTS_PER_MINUTE": "1000000",
        "STEMMA_API_REQUESTS_IN_FLIGHT": str(2 * _MOST),
        "STEMMA_LOCAL_MODEL_URL": f"http://127.0.0.1:{provider.port}/v1",
        "STEMMA_LLM_PROVIDERS": "local",
        "STEMMA_LOG_LEVEL": "WARNING",
    }
    with _process("The API", [sys.executable, "-m", "api"], environment) as server:
        yield server


@contextlib.contextmanager
def _proxy(litellm: Path, provider: Server) -> Iterator[Server]:
    config = {
        "model_list": [
            {
                "model_name": MODEL,
                "litellm_params": {
                    "model": f"openai/{MODEL}",
                    "api_base": f"http://127.0.0.1:{provider.port}/v1",
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
        with _process("litellm", [str(litellm), "--config", file.name, "--host", "127.0.0.1"], environment) as server:
            yield server


@contextlib.contextmanager
def _process(name: str, command: list[str], environment: dict[str, str]) -> Iterator[Server]:
    """A server of its own process on a free port, which it is told by an option, or the API by its setting."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    process = psutil.Popen(
        command if command[-1] == "api" else [*command, f"--port={port}"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "STEMMA_API_PORT": str(port), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Server(name, port, process)
    finally:
        process.terminate()
        try:
            process.wait(_ENDING)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Have SIGTERM end the benchmark as Ctrl-C does, with all its processes."""

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
