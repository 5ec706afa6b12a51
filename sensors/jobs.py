"""What keeps jobs moving when the one who should have moved them did not: launching those that wait, closing those
whose run has ended, and taking back those whose run is dead.

None of them decides who runs a job: that is the claim.
"""

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from assets.job_runs import job_of
from assets.jobs import KIND_JOBS
from stemma.errors import Conflict, NotFound
from stemma.jobs import kinds
from stemma.jobs.model import JOB_TAG, Job

if TYPE_CHECKING:
    from stemma.ledger.change import Change
    from stemma.store.database import Connection, Database

GRACE = timedelta(seconds=15)
MOST_LAUNCHES = 10
_AT_ONCE = 50
_SUBMITTING = timedelta(minutes=1)

Close = Callable[["Connection", UUID, str, dg.RunStatusSensorContext], "Change[Job]"]


@dg.sensor(
    name="jobs_waiting",
    description="Launches jobs that are due, by schedule or for another try, or that nobody launched within 15 seconds",
    jobs=KIND_JOBS,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def jobs_waiting(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Request a run for each job that has none which could still claim it.

    It asks what is there instead of following a cursor, so that no job can be passed by.
    """
    from stemma.jobs import launching
    from stemma.store.database import Database
    from stemma.store.settings import load_settings

    settings = load_settings()
    if not launching.is_on(settings):
        return dg.SkipReason("FF_JOBS_WORKER is false: jobs stay queued.")
    with Database.open(settings) as database:
        launched = _launched(context.instance)
        due = database.read(lambda connection: _due(connection, launched))
        if not due:
            return dg.SkipReason("No job waits.")
        numbered = [(job, _runs_so_far(context.instance, job)) for job in due]
        launchable = [(job, runs) for job, runs in numbered if _can_be_launched(job, runs)]
        _give_up(database, [job for job, runs in numbered if not _can_be_launched(job, runs)])
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=f"{job.id}:{job.attempt + 1}:{runs + 1}",
                job_name=kinds.find(job.kind).dagster_job,
                tags=launching.run_tags(job),
            )
            for job, runs in launchable
        ]
    )


@dg.sensor(
    name="jobs_lost",
    description="Takes back jobs whose run does not prolong its lease: they are tried again, or end as error",
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def jobs_lost(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Reap what is lost; it never asks for a run."""
    from stemma.jobs import lifecycle
    from stemma.ledger.service import Ledger
    from stemma.store.database import Database
    from stemma.store.settings import load_settings

    settings = load_settings()
    with Database.open(settings) as database:
        lost = database.read(lifecycle.reap)
        if not lost:
            return dg.SkipReason("No job is lost.")
        with Ledger(database.urls, settings) as ledger:
            for change in lost:
                with contextlib.suppress(Conflict):
                    ledger.commit(change).result()
    return dg.SkipReason(f"Jobs whose lease had ended: {len(lost)}.")


def _closing(name: str, status: dg.DagsterRunStatus, close: Close, seconds: int) -> dg.SensorDefinition:
    """A sensor that closes jobs whose run ended so without having said it."""

    @dg.run_status_sensor(
        name=name,
        run_status=status,
        monitored_jobs=KIND_JOBS,
        description=f"Closes jobs whose run ended as {status.value.lower()} without having closed them",
        minimum_interval_seconds=seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def sensor(context: dg.RunStatusSensorContext) -> None:
        run = context.dagster_run
        job_id = job_of(run)
        if job_id is None:
            return
        from stemma.ledger.service import Ledger
        from stemma.store.database import Database
        from stemma.store.settings import load_settings

        settings = load_settings()
        # As a rule the run has closed its job: asked for first, since opening the ledger takes longer.
        with Database.open(settings) as database, contextlib.suppress(Conflict, NotFound):
            change = database.read(lambda connection: close(connection, job_id, run.run_id, context))
            with Ledger(database.urls, settings) as ledger:
                ledger.commit(change).result()

    return sensor


def _finish(connection: "Connection", job_id: UUID, run_id: str, _: dg.RunStatusSensorContext) -> "Change[Job]":
    from stemma.jobs import lifecycle

    return lifecycle.finish(connection, job_id, run_id)


def _fail(connection: "Connection", job_id: UUID, run_id: str, context: dg.RunStatusSensorContext) -> "Change[Job]":
    from stemma.jobs import lifecycle

    failure = lifecycle.Failure("run_failed", context.dagster_event.message or "Its run failed.", passing=True)
    return lifecycle.fail(connection, job_id, run_id, failure)


def _stop(connection: "Connection", job_id: UUID, run_id: str, _: dg.RunStatusSensorContext) -> "Change[Job]":
    from stemma.jobs import lifecycle

    return lifecycle.stop(connection, job_id, run_id)


jobs_done = _closing("jobs_done", dg.DagsterRunStatus.SUCCESS, _finish, 30)
jobs_failed = _closing("jobs_failed", dg.DagsterRunStatus.FAILURE, _fail, 5)
jobs_cancelled = _closing("jobs_cancelled", dg.DagsterRunStatus.CANCELED, _stop, 5)


def _launched(instance: dg.DagsterInstance) -> list[UUID]:
    """Jobs with a run that may still claim them.

    A run that was made and not started within a minute never is: who made it was killed in between.
    """
    unfinished = instance.get_run_records(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES))
    abandoned = datetime.now(UTC) - _SUBMITTING
    return [
        job_id
        for record in unfinished
        if (job_id := job_of(record.dagster_run)) is not None
        and (record.dagster_run.status is not dg.DagsterRunStatus.NOT_STARTED or record.create_timestamp > abandoned)
    ]


def _due(connection: "Connection", launched: list[UUID]) -> tuple[Job, ...]:
    from stemma.jobs import catalog
    from stemma.store.database import database_time

    now = database_time(connection)
    return catalog.due_jobs(connection, quiet_until=now - GRACE, now=now, except_for=launched, limit=_AT_ONCE)


def _runs_so_far(instance: dg.DagsterInstance, job: Job) -> int:
    return instance.get_runs_count(dg.RunsFilter(tags={JOB_TAG: str(job.id)}))


def _can_be_launched(job: Job, runs: int) -> bool:
    return job.kind in kinds.KINDS and runs - job.attempt < MOST_LAUNCHES


def _give_up(database: "Database", jobs: list[Job]) -> None:
    if not jobs:
        return
    from stemma.jobs import lifecycle
    from stemma.ledger.service import Ledger
    from stemma.store.settings import load_settings

    unknown = lifecycle.Failure("job_kind_unknown", "Its kind is not known any more.", passing=False)
    stuck = lifecycle.Failure(
        "job_not_started", f"{MOST_LAUNCHES} runs ended before they could start it.", passing=False
    )
    with Ledger(database.urls, load_settings()) as ledger:
        for job in jobs:
            failure = stuck if job.kind in kinds.KINDS else unknown
            with contextlib.suppress(Conflict), database.snapshot() as connection:
                ledger.commit(lifecycle.give_up(connection, job.id, failure)).result()
