"""How a run carries out a job: claimed once, closed at its end, stopped when it is cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import create_execution_plan, execute_run

from definitions import defs
from resources.instance import open_instance
from stemma.access.principal import local_principal
from stemma.errors import NotFound
from stemma.jobs import catalog, kinds, launching, lifecycle, running
from stemma.jobs.model import Job, JobEvent, JobState
from stemma.knowledge.models import Source
from stemma.ledger.change import Change
from stemma.maps.layers import load_layer
from stemma.store.database import Database
from stemma.store.settings import REPOSITORY, Settings


@pytest.fixture(scope="module")
def instance(studio: tuple[Settings, Database]) -> Iterator[dg.DagsterInstance]:
    with open_instance(studio[0], studio[1].urls) as opened:
        yield opened


@pytest.fixture
def database(studio: tuple[Settings, Database]) -> Database:
    return studio[1]


@pytest.fixture
def settings(studio: tuple[Settings, Database]) -> Settings:
    return studio[0]


def run(instance: dg.DagsterInstance, job: Job, definition: dg.JobDefinition | None = None) -> dg.DagsterRun:
    """Execute a run for a job in this process, as the process that Dagster starts does."""
    carried_out = definition or defs.resolve_job_def(kinds.find(job.kind).dagster_job)
    tags = launching.run_tags(job)
    plan = create_execution_plan(carried_out, tags=tags)
    made = instance.create_run_for_job(carried_out, execution_plan=plan, tags=tags)
    execute_run(InMemoryJob(carried_out), made, instance)
    ended = instance.get_run_by_id(made.run_id)
    assert ended is not None
    return ended


def look(database: Database, job: Job) -> tuple[Job, list[JobEvent]]:
    with database.snapshot() as connection:
        return catalog.get_job(connection, job.id), list(catalog.list_events(connection, job.id))


def test_every_kind_has_its_dagster_job() -> None:
    named = {job.name for job in defs.get_repository_def().get_all_jobs()}
    assert {kind.dagster_job for kind in kinds.KINDS.values() if kind.executed_in == "dagster"} <= named


def test_a_run_claims_does_and_closes(instance: dg.DagsterInstance, database: Database, queue: Any) -> None:
    job = queue(input={"message": "mail ada@example.org"})
    ended = run(instance, job)
    done, events = look(database, job)
    assert (ended.status, done.state, done.run_id) == (dg.DagsterRunStatus.SUCCESS, JobState.DONE, ended.run_id)
    assert [event.kind for event in events] == ["submitted", "started", "log", "done"]
    assert [event.seq for event in events] == [1, 2, 3, 4]
    assert events[2].data == {"line": "mail [email]"}
    assert done.queued_ms is not None and done.run_ms is not None


def test_a_run_is_a_trace(
    instance: dg.DagsterInstance, queue: Any, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEMMA_OTEL_ENDPOINT", receiver.url)
    job = queue(input={"message": "hidden"})
    run(instance, job)
    ((path, body),) = receiver.came
    assert path == "/v1/traces"
    assert f"job {job.kind}".encode() in body and str(job.id).encode() in body and b"hidden" not in body


def test_a_second_run_leaves_the_job_alone(instance: dg.DagsterInstance, database: Database, queue: Any) -> None:
    job = queue()
    run(instance, job)
    before = look(database, job)
    assert run(instance, job).status is dg.DagsterRunStatus.SUCCESS
    assert look(database, job) == before


def test_a_kind_materializes_its_assets(
    instance: dg.DagsterInstance, database: Database, settings: Settings, queue: Any, add_source: Any, tmp_path: Any
) -> None:
    """Of a source that was never read, too: the run makes it a partition."""
    (tmp_path / "lamp.md").write_text("# Lamp\n\nThe lamp takes a bulb.\n")
    source = add_source(Source("lamps", "folder", (str(tmp_path),)))
    assert not instance.has_dynamic_partition("knowledge_sources", source.name)
    job = queue("convert", input={"source": source.name})
    run(instance, job)
    done, events = look(database, job)
    assert done.state is JobState.DONE
    (made,) = [event.data for event in events if event.kind == "asset"]
    assert (made["asset"], made["partition"]) == ("knowledge/documents", "lamps") and "1 document" in made["summary"]


def test_a_map_layer_is_built_by_a_job(
    instance: dg.DagsterInstance, database: Database, queue: Any, add_layer: Any
) -> None:
    with pytest.raises(NotFound):
        queue("map:build", input={"layer": "mesa-crimes"})
    add_layer(load_layer(REPOSITORY / "samples" / "maps" / "mesa-crimes.yaml"))
    job = queue("map:build", input={"layer": "mesa-crimes"})
    run(instance, job)
    done, events = look(database, job)
    assert done.state is JobState.DONE
    made = [event.data for event in events if event.kind == "asset"]
    assert [(item["asset"], item["partition"]) for item in made] == [
        ("maps/features", "mesa-crimes"),
        ("maps/tiles", "mesa-crimes"),
    ]
    assert [event.data["stage"] for event in events if event.kind == "progress"] == ["cleaned", "encoded", "checked"]


def test_what_cannot_be_mended_ends_the_job_with_its_reason(
    instance: dg.DagsterInstance, database: Database, queue: Any, add_source: Any, tmp_path: Any
) -> None:
    (tmp_path / "gone").mkdir()
    source = add_source(Source("gone", "folder", (str(tmp_path / "gone"),)))
    (tmp_path / "gone").rmdir()
    job = queue("convert", input={"source": source.name})
    assert run(instance, job).status is dg.DagsterRunStatus.FAILURE
    failed, events = look(database, job)
    assert failed.error_code and failed.error_message and "gone" in failed.error_message
    assert (failed.attempt, events[-1].kind) in {(1, "error"), (1, "postponed")}


def test_a_passing_failure_is_postponed_until_no_attempt_is_left(
    instance: dg.DagsterInstance, database: Database, queue: Any, commit: Callable[[Change[Any]], Any]
) -> None:
    @dg.op
    def stumble() -> None:
        raise ConnectionError("the line is dead")

    @dg.job(name="stumbling", executor_def=defs.executor)
    def stumbling() -> None:
        stumble()

    job = queue("search-index")
    for attempt in (1, 2, 3):
        with database.transaction() as connection:
            connection.execute("UPDATE jobs SET due_at = now() WHERE id = %s", (job.id,))
        assert run(instance, job, stumbling).status is dg.DagsterRunStatus.FAILURE
        found, events = look(database, job)
        assert found.attempt == attempt
        assert events[-1].kind == ("error" if attempt == 3 else "postponed")
        assert "the line is dead" in events[-1].data["reason"]
    assert (found.state, found.error_code) == (JobState.ERROR, "step_failed")


def test_a_cancelled_run_stops(
    instance: dg.DagsterInstance,
    database: Database,
    queue: Any,
    commit: Callable[[Change[Any]], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run finds out by its lease, without anybody who terminates it."""
    monkeypatch.setattr(running, "BEAT_SECONDS", 0.1)
    job = queue(input={"seconds": 60})

    def cancel_once_it_runs() -> None:
        while look(database, job)[0].state is not JobState.RUNNING:
            time.sleep(0.02)
        commit(database.read(lambda connection: lifecycle.cancel(connection, local_principal(), job.id)))

    canceller = threading.Thread(target=cancel_once_it_runs)
    canceller.start()
    ended = run(instance, job)
    canceller.join()
    stopped, events = look(database, job)
    assert (ended.status, stopped.state) == (dg.DagsterRunStatus.CANCELED, JobState.CANCELLED)
    assert [event.kind for event in events] == ["submitted", "started", "cancel_requested", "cancelled"]


def test_a_run_for_a_job_that_is_not_there_does_nothing(instance: dg.DagsterInstance, queue: Any) -> None:
    job = queue()
    unknown = replace(job, id=UUID(int=0))
    assert run(instance, unknown).status is dg.DagsterRunStatus.FAILURE
