"""How a run carries out a job: before its first step it claims the job's row, and at its end it says how it went.

The executor does it, so that whatever a kind consists of, assets or ops, is defined as if there were no jobs. A run
without the job's tag is executed as ever.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from uuid import UUID

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.base import Executor
from dagster._core.executor.init import InitExecutorContext

from assets.failures import INTERRUPTED
from assets.knowledge import KNOWLEDGE_SOURCES
from assets.maps import MAP_LAYERS
from assets.papers import PAPERS
from stemma.errors import Unavailable
from stemma.jobs import kinds
from stemma.jobs.model import JOB_TAG, JobState

if TYPE_CHECKING:
    from stemma.jobs.lifecycle import Failure
    from stemma.jobs.running import RunningJob

_PARTITIONS = {"source": KNOWLEDGE_SOURCES, "layer": MAP_LAYERS, "paper": PAPERS}


class ClaimingExecutor(Executor):
    """Executes a plan by another executor, once the run has claimed its job."""

    def __init__(self, inner: Executor) -> None:
        self._inner = inner

    @property
    def retries(self) -> RetryMode:
        """As the inner one."""
        return self._inner.retries

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        """The events of the steps; none for a run that comes too late."""
        run = plan_context.dagster_run
        job_id = job_of(run)
        if job_id is None:
            yield from self._inner.execute(plan_context, execution_plan)
            return
        from stemma.jobs.running import held
        from stemma.store.database import Database
        from stemma.store.settings import load_settings
        from stemma.telemetry.tracing import fail, traced

        settings, stop = load_settings(), _stopper(plan_context.instance, run.run_id)
        with (
            Database.open(settings) as database,
            held(database, job_id, run.run_id, on_stop=stop) as job,
        ):
            if job is None:
                told = f"Another run has job {job_id}, or it is not to be run now."
                yield DagsterEvent.engine_event(plan_context, told, EngineEventData())
            else:
                facts = {"stemma.job_id": str(job_id), "stemma.attempt": job.job.attempt, "dagster.run_id": run.run_id}
                with traced(settings, "stemma-run", f"job {job.job.kind}", facts) as span:
                    yield from self._carry_out(job, plan_context, execution_plan)
                    if span is not None and job.job.state is not JobState.DONE:
                        fail(span, job.job.state)

    def _carry_out(
        self, job: RunningJob, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        from stemma.jobs.lifecycle import Failure

        failure: Failure | None = None
        try:
            _know_partition(plan_context.instance, job)
            for event in self._inner.execute(plan_context, execution_plan):
                if event.is_step_failure and failure is None:
                    failure = _failure(event)
                elif event.is_step_materialization:
                    job.tell("asset", _materialized(event))
                yield event
        except (KeyboardInterrupt, DagsterExecutionInterruptedError):
            _interrupted(job, plan_context)
            raise
        except Exception as error:
            job.fail(Failure("run_failed", f"{type(error).__name__}: {error}", passing=True))
            raise
        if failure is None:
            job.finish()
        elif failure.code == INTERRUPTED:
            _interrupted(job, plan_context)
        else:
            job.fail(failure)


def job_of(run: dg.DagsterRun) -> UUID | None:
    """The job that a run is for; None also for a tag that somebody wrote by hand and that is no id."""
    try:
        return UUID(run.tags[JOB_TAG])
    except (KeyError, ValueError):
        return None


def _create(context: InitExecutorContext) -> Executor:
    create = dg.in_process_executor.executor_creation_fn
    assert create is not None
    return ClaimingExecutor(create(context))


claiming_in_process = dg.ExecutorDefinition(
    name="in_process",
    config_schema=dg.in_process_executor.config_schema,
    executor_creation_fn=_create,
    description="Steps in the run's own process, after the run has claimed its job where it is for one",
)


def _know_partition(instance: dg.DagsterInstance, job: RunningJob) -> None:
    """A source, layer or paper is a partition once it is read for the first time, which may be by this job."""
    partition = kinds.find(job.job.kind).partition
    if partition is not None:
        instance.add_dynamic_partitions(str(_PARTITIONS[partition].name), [str(job.job.input[partition])])


def _stopper(instance: dg.DagsterInstance, run_id: str) -> Callable[[], None]:
    def stop() -> None:
        run = instance.get_run_by_id(run_id)
        if run is not None and run.status is dg.DagsterRunStatus.STARTED:
            # An interrupt that nobody announced counts as a failure of the run.
            instance.report_run_canceling(run)
        os.kill(os.getpid(), signal.SIGINT)

    return stop


def _interrupted(job: RunningJob, plan_context: PlanOrchestrationContext) -> None:
    """Somebody cancelled the job or ended its run; else the machine did, and another attempt may succeed."""
    from stemma.jobs.lifecycle import Failure

    run = plan_context.instance.get_run_by_id(plan_context.run_id)
    if run is not None and run.status is dg.DagsterRunStatus.CANCELING:
        job.stop()
    else:
        job.fail(Failure("run_interrupted", "Its run was interrupted.", passing=True))


def _failure(event: DagsterEvent) -> Failure:
    from stemma.jobs.lifecycle import Failure

    data = event.step_failure_data
    foreseen = data.user_failure_data
    if foreseen is None:
        cause = data.error.cause or data.error if data.error else None
        message = cause.message.strip() if cause else "it failed"
        return Failure("step_failed", f"{event.step_key}: {message}", passing=True)
    facts = {name: str(value.value) for name, value in foreseen.metadata.items()}
    kind = facts.get("kind")
    code = INTERRUPTED if kind == INTERRUPTED else facts.get("code", "step_failed")
    return Failure(code, f"{event.step_key}: {foreseen.description}", passing=kind == Unavailable.__name__)


def _materialized(event: DagsterEvent) -> dict[str, str | None]:
    materialization = event.step_materialization_data.materialization
    summary = materialization.metadata.get("summary")
    return {
        "asset": materialization.asset_key.to_user_string(),
        "partition": materialization.partition,
        "summary": str(summary.value) if summary else None,
    }
