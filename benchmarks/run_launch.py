"""How long a run of nothing takes from the POST that launches it to its end, warm and by Dagster's own launcher.

Two studios serve side by side, each with its code server, daemon and webserver; they take turns.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import yaml

from benchmarks.studio import Measure, console, publish, scratch_studio
from cli.services import services
from resources.instance import PROCESS_TAG, prepare
from stemma.processes import Service
from stemma.store.settings import Settings
from stemma.store.webserver import client

ROUNDS = 25
SECONDS = 1.5
RATIO = 1.8
SECONDS_TO_NOTICE = 10.0

_MODULE = "benchmarks.noop"
_moments = random.Random(7)
_PATIENCE = 120.0
_LAUNCH = """
mutation ($job: String!) {
  launchRun(executionParams: {
    selector: {repositoryLocationName: "stemma", repositoryName: "__repository__", jobName: $job}, runConfigData: {}
  }) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}
"""


@dataclass(frozen=True, slots=True)
class Served:
    """A served studio: where runs are launched, and the database that tells how they stand."""

    database: psycopg.Connection[Any]
    client: httpx.Client

    def launch(self, job: str) -> str:
        """POST a run; returns its id."""
        answer = self.client.post("/graphql", json={"query": _LAUNCH, "variables": {"job": job}}).json()
        return str(answer["data"]["launchRun"]["run"]["runId"])

    def wait(self, run_id: str, status: str) -> None:
        """Return as soon as the run has that status."""
        deadline = time.monotonic() + _PATIENCE
        query = "SELECT status FROM runs WHERE run_id = %s"
        while self.database.execute(query, (run_id,)).fetchone() != (status,):
            if time.monotonic() > deadline:
                raise TimeoutError(f"Run {run_id} is not {status}.")
            time.sleep(0.005)

    def seconds(self) -> float:
        """From POST to the end of a run of nothing, at any moment between two looks of the daemon into its queue."""
        time.sleep(_moments.random())
        started = time.perf_counter()
        self.wait(self.launch("noop"), "SUCCESS")
        return time.perf_counter() - started

    def parts(self) -> dict[str, float]:
        """Where the time goes: the medians over all runs so far of the seconds between their events."""
        rows = self.database.execute(
            """
            SELECT run_id, dagster_event_type, timestamp FROM event_logs
            WHERE dagster_event_type IN ('PIPELINE_ENQUEUED', 'PIPELINE_STARTING', 'PIPELINE_START', 'STEP_START',
                                         'STEP_SUCCESS', 'PIPELINE_SUCCESS') ORDER BY id
            """
        ).fetchall()
        spans: dict[str, list[float]] = {}
        for (run, before, then), (same, after, now) in itertools.pairwise(rows):
            if run == same:
                spans.setdefault(f"{before} to {after}", []).append((now - then).total_seconds())
        return {name: round(statistics.median(values), 3) for name, values in spans.items()}


def main() -> bool:
    """Run the benchmark; True when the bars are met."""
    with _served("warm") as warm, _served("default", warm=False) as default:
        for served in (warm, default, warm, default):
            served.seconds()
        pairs = [(warm.seconds(), default.seconds()) for _ in range(ROUNDS)]
        parts = {"warm": warm.parts(), "default": default.parts()}
        noticed = _kill_a_run(warm)
    warm_seconds, default_seconds = (statistics.median(column) for column in zip(*pairs, strict=True))
    measures = [
        Measure("POST to done, warm", warm_seconds, "s", bar=SECONDS, at_least=False),
        Measure("POST to done, default", default_seconds, "s"),
        Measure("default over warm", default_seconds / warm_seconds, "×", bar=RATIO),
        Measure("a killed worker is reported failed after", noticed, "s", bar=SECONDS_TO_NOTICE, at_least=False),
    ]
    for name, spans in parts.items():
        console.print(name, spans)
    return publish("run_launch", measures, rounds=ROUNDS, parts=parts)


def _kill_a_run(served: Served) -> float:
    run_id = served.launch("stuck")
    served.wait(run_id, "STARTED")
    query = "SELECT value FROM run_tags WHERE run_id = %s AND key = %s"
    (tag,) = served.database.execute(query, (run_id, PROCESS_TAG)).fetchone() or ("",)
    started = time.perf_counter()
    os.kill(int(tag.partition(":")[0]), signal.SIGKILL)
    served.wait(run_id, "FAILURE")
    return time.perf_counter() - started


@contextlib.contextmanager
def _served(name: str, *, warm: bool = True) -> Iterator[Served]:
    with scratch_studio(f"launch_{name}") as studio, contextlib.ExitStack() as stack:
        settings = studio.settings.model_copy(update={"code_server_port": _free_port()})
        urls = studio.database.urls
        environment = prepare(settings, urls) | {
            "STEMMA_DATABASE_URL": urls.app,
            "STEMMA_DATABASE_OWNER_URL": urls.owner,
            "STEMMA_DAGSTER_DATABASE_URL": urls.dagster,
        }
        _configure(settings, warm=warm)
        wanted = ["code-server", "daemon", "webserver", *(["run-template"] if warm else [])]
        for service in services(settings, environment):
            if service.name in wanted:
                _start(service, settings, stack)
        connection = psycopg.connect(urls.dagster, autocommit=True)
        stack.enter_context(connection)
        yield Served(connection, stack.enter_context(client(settings, timeout=_PATIENCE)))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _configure(settings: Settings, *, warm: bool) -> None:
    """Name this benchmark's module; the default launcher is what Dagster takes where none is named."""
    path = settings.dagster_home / "dagster.yaml"
    configuration = yaml.safe_load(path.read_text())
    if warm:
        configuration["run_launcher"]["config"]["module"] = _MODULE
    else:
        del configuration["run_launcher"]
    path.write_text(yaml.safe_dump(configuration))


def _start(service: Service, settings: Settings, stack: contextlib.ExitStack) -> None:
    argv = [_MODULE if word == "definitions" else word for word in service.argv]
    log = stack.enter_context((settings.home / f"{service.name}.log").open("wb"))
    process = subprocess.Popen(argv, env={**os.environ, **service.env}, cwd=service.cwd, stdout=log, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    deadline = time.monotonic() + _PATIENCE
    while not _is_ready(service):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{service.name} does not start: {(settings.home / f'{service.name}.log').read_text()}")
        time.sleep(0.1)


def _is_ready(service: Service) -> bool:
    try:
        return service.ready()
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
