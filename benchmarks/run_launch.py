"""How long a job that does nothing takes from its POST to `done`, warm and by Dagster's own launcher.

Two studios serve side by side, each with its API, code server, daemon and webserver; they take turns.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
import psycopg
import yaml

from benchmarks.serving import SERVICES, serving
from benchmarks.studio import Measure, console, publish
from resources.instance import PROCESS_TAG
from stemma.jobs.model import JOB_TAG
from stemma.store.settings import Settings

ROUNDS = 25
SECONDS = 1.5
RATIO = 1.8
SECONDS_TO_NOTICE = 10.0

_moments = random.Random(7)
_JOB_MOMENTS = "SELECT kind, at FROM job_events WHERE job_id = %s"
_RUN_MOMENTS = """
    SELECT coalesce(step, '') || dagster_event_type, at FROM (
        SELECT dagster_event_type, timestamp AT TIME ZONE 'UTC' AS at, event::jsonb ->> 'step_key' AS step,
            event::jsonb -> 'dagster_event' ->> 'message' AS message
        FROM event_logs WHERE run_id = %s
    ) AS events
    WHERE dagster_event_type <> 'ENGINE_EVENT' OR message LIKE 'Started process for run%%'
"""
_MOMENTS = {
    "submitted": "POST",
    "PIPELINE_ENQUEUED": "enqueued",
    "PIPELINE_STARTING": "dequeued",
    "ENGINE_EVENT": "process started",
    "PIPELINE_START": "run started",
    "started": "claimed",
    "pauseSTEP_START": "step started",
    "pauseSTEP_SUCCESS": "step ended",
    "done": "done",
}
"""The events of a job and its run, in their order, and what the table of parts calls them."""


@dataclass(frozen=True, slots=True)
class Served:
    """A served studio: its API, and the databases that tell how its jobs and runs stand."""

    api: httpx.Client
    database: psycopg.Connection[Any]
    dagster: psycopg.Connection[Any]

    def submit(self, **given: Any) -> str:
        """POST a job that does nothing; returns its id."""
        answer = self.api.post("/jobs", json={"kind": "noop", "input": given})
        answer.raise_for_status()
        return str(answer.json()["id"])

    def wait(self, job_id: str, state: str) -> None:
        """Return as soon as the job is in that state, which the stream of its events tells."""
        with self.events(job_id) as events:
            if state not in events:
                raise RuntimeError(f"Job {job_id} was never {state}.")

    @contextlib.contextmanager
    def events(self, job_id: str) -> Iterator[Iterator[str]]:
        """The kinds of a job's events as they come, until its last."""
        with self.api.stream("GET", f"/jobs/{job_id}/events") as stream:
            told = (line.removeprefix("data:") for line in stream.iter_lines() if line.startswith("data:"))
            yield (json.loads(data)["kind"] for data in told)

    def measure(self) -> tuple[str, float]:
        """A job, and the seconds from its POST until its client knows that it is done.

        It is sent at any moment between two looks of the daemon into its queue.
        """
        time.sleep(_moments.random())
        began = time.perf_counter()
        job_id = self.submit()
        self.wait(job_id, "done")
        return job_id, time.perf_counter() - began

    def seconds(self, job_id: str) -> float:
        """From submitted to done, by the job's own times."""
        query = "SELECT extract(epoch FROM finished_at - submitted_at) FROM jobs WHERE id = %s"
        (seconds,) = self.database.execute(query, (job_id,)).fetchone() or (0.0,)
        return float(seconds)

    def run_of(self, job_id: str) -> str:
        """The run that carries out a job."""
        query = "SELECT run_id FROM run_tags WHERE key = %s AND value = %s"
        (run_id,) = self.dagster.execute(query, (JOB_TAG, job_id)).fetchone() or ("",)
        return str(run_id)

    def settle(self) -> None:
        """Return once nothing runs: sensors start what a new studio needs."""
        query = "SELECT 1 FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')"
        while self.dagster.execute(query).fetchone() is not None:
            time.sleep(0.1)

    def parts(self, jobs: list[str]) -> dict[str, float]:
        """Where the time goes: the medians over these jobs of the seconds from one moment to the next."""
        spans: dict[str, list[float]] = defaultdict(list)
        for job_id in jobs:
            for (before, then), (after, now) in itertools.pairwise(self._moments(job_id)):
                spans[f"{before} to {after}"].append((now - then).total_seconds())
        return {name: round(statistics.median(values), 3) for name, values in spans.items()}

    def _moments(self, job_id: str) -> list[tuple[str, datetime]]:
        happened = dict(self.database.execute(_JOB_MOMENTS, (job_id,)).fetchall())
        happened |= dict(self.dagster.execute(_RUN_MOMENTS, (self.run_of(job_id),)).fetchall())
        return [(name, happened[event]) for event, name in _MOMENTS.items() if event in happened]


def main() -> bool:
    """Run the benchmark; True when the bars are met."""
    load = os.getloadavg()[0]
    with _served("warm") as warm, _served("default", warm=False) as default:
        for served in (warm, default, warm, default):
            served.measure()
        for served in (warm, default):
            served.settle()
        pairs = [(warm.measure(), default.measure()) for _ in range(ROUNDS)]
        jobs = [[job_id for job_id, _ in column] for column in zip(*pairs, strict=True)]
        parts = {"warm": warm.parts(jobs[0]), "default": default.parts(jobs[1])}
        own = [statistics.median(map(each.seconds, column)) for each, column in ((warm, jobs[0]), (default, jobs[1]))]
        noticed = _kill_a_run(warm)
    warm_seconds, default_seconds = (statistics.median(s for _, s in column) for column in zip(*pairs, strict=True))
    measures = [
        Measure("POST to done, warm", warm_seconds, "s", bar=SECONDS, at_least=False),
        Measure("POST to done, default", default_seconds, "s"),
        Measure("default over warm", default_seconds / warm_seconds, "×", bar=RATIO),
        Measure("by the job's own times, warm", own[0], "s"),
        Measure("by the job's own times, default", own[1], "s"),
        Measure("a killed worker's job is reported failed after", noticed, "s", bar=SECONDS_TO_NOTICE, at_least=False),
    ]
    for name, spans in parts.items():
        console.print(name, spans)
    return publish("run_launch", measures, rounds=ROUNDS, parts=parts, load=[load, os.getloadavg()[0]])


def _kill_a_run(served: Served) -> float:
    job_id = served.submit(seconds=600)
    with served.events(job_id) as events:
        assert "started" in events
        query = "SELECT value FROM run_tags WHERE run_id = %s AND key = %s"
        (tag,) = served.dagster.execute(query, (served.run_of(job_id), PROCESS_TAG)).fetchone() or ("",)
        began = time.perf_counter()
        os.kill(int(tag.partition(":")[0]), signal.SIGKILL)
        assert "error" in events
        return time.perf_counter() - began


@contextlib.contextmanager
def _served(name: str, *, warm: bool = True) -> Iterator[Served]:
    only = SERVICES if warm else SERVICES - {"run-template"}
    prepared = None if warm else _launch_as_dagster_does
    with (
        serving(f"launch_{name}", only=only, prepared=prepared) as served,
        psycopg.connect(served.database.urls.app, autocommit=True) as database,
        psycopg.connect(served.database.urls.dagster, autocommit=True) as dagster,
    ):
        yield Served(served.api, database, dagster)


def _launch_as_dagster_does(settings: Settings) -> None:
    """The default launcher is what Dagster takes where none is named."""
    path = settings.dagster_home / "dagster.yaml"
    configuration = yaml.safe_load(path.read_text())
    del configuration["run_launcher"]
    path.write_text(yaml.safe_dump(configuration))


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
