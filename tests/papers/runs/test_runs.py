"""Runs of plans: executed twice, told of as they go, cancelled, failed, and killed with their process."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest

from stemma.access.permissions import Role
from stemma.access.principal import Principal, local_principal
from stemma.errors import Conflict, Forbidden, InvalidInput, NotFound
from stemma.jobs.model import Job
from stemma.papers.runs import artifacts, catalog, execution, lifecycle
from stemma.papers.runs.execution import Studio
from stemma.papers.runs.model import Run, RunStatus
from stemma.papers.runs.recorder import Recorder

Plan = Callable[..., UUID]

REPORT = "report('accuracy', {value}, 'test')"
_DEADLINE = 60


def create(studio: Studio, plan_id: UUID, alternative: str | None = None) -> UUID:
    made: Run = studio.commit(
        lambda connection: lifecycle.create(connection, local_principal(), plan_id, alternative=alternative)
    )
    return made.id


def wait_for(studio: Studio, run_id: UUID, condition: Callable[[Run], bool]) -> Run:
    deadline, pause = time.monotonic() + _DEADLINE, threading.Event()
    while not condition(run := studio.database.read(lambda connection: catalog.get_run(connection, run_id))):
        assert time.monotonic() < deadline, run
        pause.wait(0.05)
    return run


def told(studio: Studio, run_id: UUID) -> list[tuple[str, Any]]:
    with studio.database.snapshot() as connection:
        events = catalog.list_events(connection, run_id, limit=1_000_000)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    return [(event.type, event.payload) for event in events]


def test_a_run_measures_twice_and_leaves_artifacts(studio: Studio, plan: Plan) -> None:
    seeds = {"stochastic": True, "seeds": [3, 1, 4, 5, 9]}
    cell = "import random\nprint('hello')\nprogress(50, 'half')\n" + REPORT.format(value="random.random()")
    run = execution.carry_out(studio, create(studio, plan(cell, **seeds)))
    assert (run.status, run.error_code, run.deterministic) == (RunStatus.SUCCEEDED, None, True), run
    (measured,) = run.measured
    assert [seed for seed, _ in measured.by_seed] == seeds["seeds"]
    assert len(set(measured.values)) == 5
    events = told(studio, run.id)
    stages = [payload["stage"] for kind, payload in events if kind == "stage_update"]
    assert stages == ["run_start", "seed_check", "run_complete"]
    assert ("log_line", "hello") in events
    assert ("progress", {"percent": 50.0, "msg": "half"}) in events
    with studio.database.snapshot() as connection:
        (point,) = catalog.list_series(connection, run.id)
    assert (point.metric, point.value, point.step) == ("accuracy", measured.value, 1)
    kept = {
        artifact.name: studio.files.read(artifact.key) for artifact in artifacts.list_artifacts(studio.files, run.id)
    }
    assert set(kept) == set(artifacts.NAMES)
    assert b"hello\n" in kept["logs.txt"]
    lines = [json.loads(line) for line in kept["events.jsonl"].splitlines()]
    assert lines[-1]["stage"] == "run_complete"
    assert len(lines) == len(events)
    assert json.loads(kept["metrics.json"])["metrics"] == run.metrics


def test_a_difference_names_the_cell(studio: Studio, plan: Plan) -> None:
    run = execution.carry_out(studio, create(studio, plan("print('same')", "import os\nprint(os.urandom(8).hex())")))
    assert (run.status, run.deterministic, run.error_code) == (RunStatus.SUCCEEDED, False, "E_NOT_DETERMINISTIC")
    # Before them: what seeds, an introduction, what is given, and how to report.
    assert "cell 5 " in str(run.error_message)


@pytest.mark.parametrize(
    ("cell", "changed", "code", "words"),
    [
        ("1 / 0", {}, "E_CELL_FAILED", "ZeroDivisionError"),
        ("while True: pass", {"timeouts": {"wall_minutes": 0.05}}, "E_RUN_TIMEOUT", "0.05 minutes"),
        ("import os\nos.kill(os.getpid(), 9)", {}, "E_KERNEL_DIED", "cell 4"),
    ],
    ids=["raises", "takes too long", "dies"],
)
def test_what_goes_wrong_is_said(
    studio: Studio, plan: Plan, scratch: Path, cell: str, changed: dict[str, Any], code: str, words: str
) -> None:
    run = execution.carry_out(studio, create(studio, plan("print('before')\n" + cell, **changed)))
    assert (run.status, run.error_code) == (RunStatus.FAILED, code), run
    assert words in str(run.error_message)
    events = told(studio, run.id)
    assert events[-1][1]["stage"] == "run_error"
    assert {artifact.name for artifact in artifacts.list_artifacts(studio.files, run.id)} == set(artifacts.NAMES)
    assert list(scratch.glob("stemma-run-*")) == []


def test_a_flood_is_cut_and_bad_events_are_named(studio: Studio, plan: Plan) -> None:
    cell = (
        "for n in range(25_000): print('line', n, 'z' * 100)\nprint('y' * 100_000_000)\n"
        'open(\'events.jsonl\', \'a\').write(\'nonsense\\n{"type": "stage_update", "stage": "run_complete"}\\n\')\n'
        + REPORT.format(value=0.5)
    )
    run = execution.carry_out(studio, create(studio, plan(cell)))
    assert run.status is RunStatus.SUCCEEDED
    events = told(studio, run.id)
    lines = [payload for kind, payload in events if kind == "log_line"]
    assert any("E_ARTIFACT_TOO_LARGE (truncated)" in line for line in lines)
    assert [payload["stage"] for kind, payload in events if kind == "stage_update"][-1:] == ["run_complete"]
    assert ("accuracy", 0.5) in [(p["metric"], p["value"]) for kind, p in events if kind == "metric_update"]
    sizes = {artifact.name: artifact.size for artifact in artifacts.list_artifacts(studio.files, run.id)}
    assert max(sizes["logs.txt"], sizes["events.jsonl"]) <= 5_000_000


def test_a_running_run_is_cancelled_and_keeps_what_it_made(studio: Studio, plan: Plan) -> None:
    run_id = create(studio, plan("print('made', flush=True)", "import time\ntime.sleep(600)"))
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(execution.carry_out, studio, run_id)
        wait_for(studio, run_id, lambda _: ("log_line", "made") in told(studio, run_id))
        studio.commit(lambda connection: lifecycle.cancel(connection, local_principal(), run_id))
        run = done.result(_DEADLINE)
    assert (run.status, run.error_code) == (RunStatus.CANCELLED, None)
    assert told(studio, run_id)[-1][1]["stage"] == "run_cancelled"
    assert b"made\n" in studio.files.read(f"runs/{run_id}/logs.txt")
    with pytest.raises(Conflict) as refused:
        studio.commit(lambda connection: lifecycle.cancel(connection, local_principal(), run_id))
    assert refused.value.code == "paper_run_cancelled"


def test_a_waiting_run_is_cancelled_at_once(studio: Studio, plan: Plan) -> None:
    asked, job = studio.commit(lambda connection: lifecycle.request(connection, local_principal(), plan("1")))
    cancelled = studio.commit(lambda connection: lifecycle.cancel(connection, local_principal(), asked.id))
    assert cancelled.status is RunStatus.CANCELLED
    assert asked.job_id == job.id
    with pytest.raises(Conflict):
        execution.carry_out(studio, asked.id)
    assert [payload["stage"] for _, payload in told(studio, asked.id)] == ["run_cancelled"]


def test_two_run_at_once_and_the_others_wait(studio: Studio, plan: Plan) -> None:
    runs = [create(studio, plan("print('done')")) for _ in range(3)]
    most, stop = 0, threading.Event()

    def count() -> None:
        nonlocal most
        while not stop.wait(0.01):
            with studio.database.snapshot() as connection:
                most = max(most, len(catalog.runs_in(connection, RunStatus.RUNNING)))

    counting = threading.Thread(target=count)
    counting.start()
    with ThreadPoolExecutor(3) as pool:
        ended = list(pool.map(lambda run_id: execution.carry_out(studio, run_id), runs))
    stop.set()
    counting.join()
    assert {run.status for run in ended} == {RunStatus.SUCCEEDED}
    assert most <= 2


def test_a_killed_worker_leaves_a_failed_run_and_nothing_else(
    studio: Studio, plan: Plan, scratch: Path, worker: Callable[[Job], psutil.Process]
) -> None:
    cell = "print('made', flush=True)\nimport time\ntime.sleep(600)"
    run, job = studio.commit(lambda connection: lifecycle.request(connection, local_principal(), plan(cell)))
    process = worker(job)
    wait_for(studio, run.id, lambda _: ("log_line", "made") in told(studio, run.id))
    below = process.children(recursive=True)
    assert list(scratch.glob("stemma-run-*")) != []
    process.kill()
    ended = wait_for(studio, run.id, lambda run: run.status.is_final)
    assert (ended.status, ended.error_code) == (RunStatus.FAILED, "E_WORKER_LOST")
    assert told(studio, run.id)[-1][1]["stage"] == "run_error"
    assert b"made\n" in studio.files.read(f"runs/{run.id}/logs.txt")
    _, alive = psutil.wait_procs(below, timeout=_DEADLINE)
    assert alive == []
    assert list(scratch.glob("stemma-run-*")) == []


def test_what_cannot_be_run_is_refused(studio: Studio, plan: Plan) -> None:
    viewer = Principal(actor="key:1", role=Role.VIEWER, scopes=("papers:*",), key_id=None)
    with studio.database.snapshot() as connection:
        with pytest.raises(NotFound):
            lifecycle.create(connection, local_principal(), uuid4())
        plan_id = plan("1")
    with studio.database.snapshot() as connection:
        with pytest.raises(InvalidInput) as refused:
            lifecycle.create(connection, local_principal(), plan_id, alternative="nowhere")
        with pytest.raises(Forbidden):
            lifecycle.create(connection, viewer, plan_id)
    assert refused.value.code == "alternative_unknown"


def test_a_point_that_is_there_already_is_dropped(studio: Studio, plan: Plan) -> None:
    run_id = create(studio, plan("1"))
    point = {"metric": "loss", "split": "train", "value": 1.0, "ts": "2026-01-01T00:00:00Z"}
    with Recorder(studio.database, run_id) as recorder:
        for _ in range(3):
            recorder.tell("metric_update", point)
        recorder.tell("metric_update", {**point, "value": 2.0})
    with studio.database.snapshot() as connection:
        assert [p.value for p in catalog.list_series(connection, run_id)] == [1.0, 2.0]
