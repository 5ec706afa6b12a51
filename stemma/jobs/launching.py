"""Asking Dagster, through its webserver, for the run of a job, or to end one.

Nothing depends on an answer: a job that no run was asked for is launched by the sensor, and one that two were asked for
is claimed by one of them.
"""

from __future__ import annotations

from typing import Final

from stemma.jobs import kinds
from stemma.jobs.graphql import ask, refused
from stemma.jobs.model import JOB_TAG, Job
from stemma.store.settings import Settings

LOCATION: Final = "stemma"
"""The code location that `stemma up` serves."""

_REPOSITORY: Final = "__repository__"
_LAUNCH: Final = """
    mutation Launch($params: ExecutionParams!) {
        launchRun(executionParams: $params) {
            __typename
            ... on LaunchRunSuccess { run { runId } }
            ... on Error { message }
        }
    }
"""
_TERMINATE: Final = """
    mutation Terminate($run: String!) {
        terminateRun(runId: $run, terminatePolicy: SAFE_TERMINATE) {
            __typename
            ... on Error { message }
        }
    }
"""


OFF_HINT: Final = "FF_JOBS_WORKER is false: jobs stay queued until it is set and the studio is started again."


def is_on(settings: Settings) -> bool:
    """Whether jobs are run here at all."""
    return settings.ff_jobs_worker


def is_run(job: Job) -> bool:
    """Whether it is a run of Dagster's that works on a job."""
    kind = kinds.KINDS.get(job.kind)
    return kind is None or kind.executed_in == "dagster"


def run_tags(job: Job) -> dict[str, str]:
    """The tags of a run for this job: which it is, for whom, how long it may take, which partition it makes."""
    kind = kinds.find(job.kind)
    tags = {
        JOB_TAG: str(job.id),
        "stemma/actor": job.actor,
        "dagster/priority": str(job.priority),
        "dagster/max_runtime": str(int(kind.max_runtime.total_seconds())),
        # The job has attempts of its own.
        "dagster/max_retries": "0",
    }
    if kind.partition is not None:
        tags["dagster/partition"] = str(job.input[kind.partition])
    return tags


def launch(settings: Settings, job: Job) -> str:
    """Launch a run that claims the job; returns its id. Raises Unavailable; then the sensor launches it later."""
    selector = {
        "repositoryLocationName": LOCATION,
        "repositoryName": _REPOSITORY,
        "jobName": kinds.find(job.kind).dagster_job,
    }
    tags = [{"key": key, "value": value} for key, value in run_tags(job).items()]
    params = {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": tags}}
    answer = ask(settings, _LAUNCH, {"params": params})["launchRun"]
    if answer["__typename"] != "LaunchRunSuccess":
        raise refused(answer)
    return str(answer["run"]["runId"])


def terminate(settings: Settings, run_id: str) -> None:
    """Ask a run to stop; raises Unavailable. A run that is not asked finds out by its lease a few seconds later."""
    answer = ask(settings, _TERMINATE, {"run": run_id})["terminateRun"]
    if answer["__typename"] != "TerminateRunSuccess":
        raise refused(answer)
