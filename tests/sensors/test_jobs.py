"""What keeps jobs moving: launching those that wait, closing what has ended, taking back what is lost."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest

from api.app import create_app
from assets.jobs import noop
from definitions import defs
from sensors import jobs as sensors
from stemma.access.principal import local_principal
from stemma.jobs import catalog, launching, lifecycle
from stemma.jobs.model import Job, JobState
from stemma.jobs.submission import JobRequest, submit
from stemma.knowledge import sources
from stemma.ledger.change import Change
from stemma.store.database import Database
from stemma.store.settings import Settings
from stemma.store.webserver import Webserver, socket_path

AGE = """
    UPDATE jobs SET submitted_at = submitted_at - make_interval(secs => %(ago)s),
        due_at = due_at - make_interval(secs => %(ago)s) WHERE id = %(id)s
"""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as temporary:
        yield temporary


@pytest.fixture
def queue(database: Database, commit: Callable[[Change[Any]], Any]) -> Callable[..., Job]:
    """Queue a job as if long ago, unless told otherwise."""

    def submitted(kind: str = "noop", *, ago: int = 60, **request: Any) -> Job:
        job: Job = commit(database.read(lambda c: submit(c, local_principal(), JobRequest(kind, **request))))
        with database.transaction() as connection:
            connection.execute(AGE, {"ago": ago, "id": job.id})
        return job

    return submitted


@pytest.fixture(autouse=True)
def worker(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.setenv("FF_JOBS_WORKER", "true")


def tick(instance: dg.DagsterInstance) -> dg.SensorResult | dg.SkipReason:
    context = dg.build_sensor_context(
        instance=instance, repository_def=defs.get_repository_def(), sensor_name="jobs_waiting"
    )
    return sensors.jobs_waiting(context)


def add_run(instance: dg.DagsterInstance, job: Job, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    return instance.create_run_for_job(noop, status=status, tags=launching.run_tags(job))


def look(database: Database, job: Job) -> Job:
    return database.read(lambda connection: catalog.get_job(connection, job.id))


def test_what_nobody_launched_is_launched_the_most_urgent_first(
    instance: dg.DagsterInstance, database: Database, queue: Callable[..., Job]
) -> None:
    with database.transaction() as connection:
        sources.ensure_builtin(connection, Settings())
    assert isinstance(tick(instance), dg.SkipReason)
    queue(ago=0)
    late, urgent = queue("convert", input={"source": "inbox"}), queue(priority=5)
    asked = tick(instance)
    assert [request.tags[launching.JOB_TAG] for request in asked.run_requests] == [str(urgent.id), str(late.id)]
    assert [request.job_name for request in asked.run_requests] == ["job_noop", "job_convert"]
    assert asked.run_requests[1].tags["dagster/partition"] == "inbox"


def test_a_job_is_not_launched_again_while_a_run_may_claim_it(
    instance: dg.DagsterInstance, queue: Callable[..., Job]
) -> None:
    job = queue()
    (first,) = tick(instance).run_requests
    add_run(instance, job, dg.DagsterRunStatus.STARTING)
    assert isinstance(tick(instance), dg.SkipReason)
    (run,) = instance.get_runs()
    instance.report_run_failed(run)
    (second,) = tick(instance).run_requests
    assert first.run_key == f"{job.id}:1:1" and second.run_key == f"{job.id}:1:2"


def test_a_run_that_was_made_and_forgotten_holds_no_job_up(
    instance: dg.DagsterInstance, queue: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_run(instance, queue(), dg.DagsterRunStatus.NOT_STARTED)
    assert isinstance(tick(instance), dg.SkipReason)
    monkeypatch.setattr(sensors, "_SUBMITTING", -sensors._SUBMITTING)
    assert len(tick(instance).run_requests) == 1


def test_a_tag_that_names_no_job_holds_no_job_up(instance: dg.DagsterInstance, queue: Callable[..., Job]) -> None:
    queue()
    instance.create_run_for_job(noop, status=dg.DagsterRunStatus.STARTED, tags={launching.JOB_TAG: "mine"})
    assert len(tick(instance).run_requests) == 1


def test_a_job_that_cannot_be_started_ends_as_error(
    instance: dg.DagsterInstance, database: Database, queue: Callable[..., Job]
) -> None:
    stuck, unknown = queue(), queue()
    for _ in range(sensors.MOST_LAUNCHES):
        add_run(instance, stuck, dg.DagsterRunStatus.FAILURE)
    with database.transaction() as connection:
        connection.execute("UPDATE jobs SET kind = 'gone' WHERE id = %s", (unknown.id,))
    assert tick(instance).run_requests == []
    assert [look(database, job).error_code for job in (stuck, unknown)] == ["job_not_started", "job_kind_unknown"]


def test_without_a_worker_jobs_stay_queued_and_it_says_so(
    instance: dg.DagsterInstance, database: Database, queue: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FF_JOBS_WORKER", "false")
    job = queue()
    skipped = tick(instance)
    assert isinstance(skipped, dg.SkipReason) and "FF_JOBS_WORKER" in str(skipped.skip_message)
    assert look(database, job).state is JobState.QUEUED


def test_what_is_lost_is_tried_again_or_ends_with_its_reason(
    instance: dg.DagsterInstance,
    database: Database,
    queue: Callable[..., Job],
    commit: Callable[[Change[Any]], Any],
) -> None:
    def reap() -> str:
        skipped = sensors.jobs_lost(dg.build_sensor_context(instance=instance))
        return str(skipped.skip_message)

    assert reap() == "No job is lost."
    jobs = [queue("search-index"), queue(), queue()]
    for job in jobs:
        commit(database.read(lambda c, job=job: lifecycle.claim(c, job.id, "run-1")))
    commit(database.read(lambda c: lifecycle.cancel(c, local_principal(), jobs[2].id)))
    with database.transaction() as connection:
        connection.execute("UPDATE jobs SET lease_until = now() - interval '1 second'")
    assert reap() == "Jobs whose lease had ended: 3."
    found = [look(database, job) for job in jobs]
    assert [job.state for job in found] == [JobState.QUEUED, JobState.ERROR, JobState.CANCELLED]
    assert found[1].error_code == "job_lost" and found[0].due_at > found[0].submitted_at


@pytest.mark.parametrize(
    ("sensor", "status", "state"),
    [
        (sensors.jobs_done, dg.DagsterRunStatus.SUCCESS, JobState.DONE),
        (sensors.jobs_failed, dg.DagsterRunStatus.FAILURE, JobState.ERROR),
        (sensors.jobs_cancelled, dg.DagsterRunStatus.CANCELED, JobState.CANCELLED),
    ],
)
def test_a_run_that_ended_closes_the_job_that_it_held_and_no_other(
    instance: dg.DagsterInstance,
    database: Database,
    queue: Callable[..., Job],
    commit: Callable[[Change[Any]], Any],
    sensor: dg.SensorDefinition,
    status: dg.DagsterRunStatus,
    state: JobState,
) -> None:
    job = queue()
    held, late = (add_run(instance, job, status) for _ in range(2))
    by_hand = instance.create_run_for_job(noop, status=status)
    commit(database.read(lambda c: lifecycle.claim(c, job.id, held.run_id)))
    seen = []
    for run in (by_hand, late, held, held):
        event = dg.DagsterEvent(f"PIPELINE_{status.value}", noop.name, message="Its process died.")
        context = dg.build_run_status_sensor_context(
            sensor_name=sensor.name, dagster_instance=instance, dagster_run=run, dagster_event=event
        )
        sensor(context)
        seen.append(look(database, job).state)
    assert seen == [JobState.RUNNING, JobState.RUNNING, state, state]


def test_a_job_whose_api_ended_before_it_was_launched_is_launched(
    instance: dg.DagsterInstance, settings: Settings, database: Database, serve: Any
) -> None:
    """The API asks a webserver that does not answer, and ends: nobody remembers that a launch was wanted."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(socket_path(settings, Webserver.FULL)))
        silent.listen()
        with serve(create_app(Settings(), database=database)) as client:
            answer = client.post("/api/v1/jobs", json={"kind": "noop"})
            asked, _ = silent.accept()
    asked.close()
    assert answer.status_code == 201 and isinstance(tick(instance), dg.SkipReason)
    with database.transaction() as connection:
        connection.execute(AGE, {"ago": sensors.GRACE.total_seconds() + 1, "id": answer.json()["id"]})
    (request,) = tick(instance).run_requests
    assert request.tags[launching.JOB_TAG] == answer.json()["id"]
