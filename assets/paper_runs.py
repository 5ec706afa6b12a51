"""The run of a paper's plan: a notebook executed in a sandbox, and what it measured."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

import dagster as dg

from assets.papers import PAPERS, plan
from assets.product import product
from assets.shown import counted, table
from resources.store import StoreResource
from stemma.errors import CheckFailed, Conflict
from stemma.store import outputs

if TYPE_CHECKING:
    from stemma.ledger.change import Change
    from stemma.papers.runs.model import Run
    from stemma.store.database import Connection
    from stemma.store.files import FileStore


@product(
    key=["papers", "run"],
    partitions_def=PAPERS,
    deps=[plan],
    kinds={"jupyter", "python"},
    code_version="1",
    op_tags={"stemma/workload": "notebook"},
    description=(
        "What came of one paper's plan: a notebook executed in a sandbox, twice with the first seed and once with each "
        "other, its metrics by seed, its log and its executed cells. Where the plan and the environment are those of a "
        "run that succeeded, that one stands."
    ),
)
def run(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult[None]:
    """Carry out the run that a job asks for, or one that waits for whoever materializes, or a new one if need be."""
    from stemma.papers.runs import execution
    from stemma.papers.runs.model import RunStatus
    from stemma.store.files import FileStore

    files = FileStore.open_default(store.settings)
    standing, wanted = _wanted(UUID(context.partition_key), store)
    if standing is None:
        studio = execution.Studio(store.settings, store.database, files, _committing(store))
        done = execution.carry_out(studio, wanted, dagster_run_id=context.run.run_id)
        if done.status is RunStatus.CANCELLED:
            raise Conflict("paper_run_cancelled", f"Run {done.id} was cancelled.")
        if done.status is RunStatus.FAILED:
            raise CheckFailed(done.error_code or "E_RUN_FAILED", done.error_message or f"Run {done.id} failed.")
    else:
        done = standing
        _record(files, done)
    return _result(done, changed=standing is None)


def _wanted(paper_id: UUID, store: StoreResource) -> "tuple[Run | None, UUID]":
    """A run that stands, or the one to carry out."""
    from stemma.access.principal import local_principal
    from stemma.jobs import running
    from stemma.papers import catalog as papers
    from stemma.papers import planning
    from stemma.papers.runs import catalog, environment, lifecycle

    job = running.current()
    if job is not None and job.job.kind == lifecycle.JOB_KIND:
        return None, UUID(job.job.input["run"])
    with store.database.snapshot() as connection:
        made = planning.require_plan(papers.latest_plan(connection, paper_id), paper_id)
        waiting = catalog.waiting_without_job(connection, paper_id)
        latest = catalog.latest_success(connection, paper_id, plan_id=made.id)
    if waiting is not None:
        return None, waiting.id
    if latest is not None and latest.env_hash == environment.env_hash():
        return latest, latest.id
    change = store.database.read(lambda connection: lifecycle.create(connection, local_principal(), made.id))
    return None, store.commit(change).id


def _committing(store: StoreResource) -> "Callable[[Callable[[Connection], Change[Any]]], Any]":
    return lambda prepare: store.commit(store.database.read(prepare))


def _record(files: "FileStore", done: "Run") -> None:
    from stemma.papers.runs import artifacts

    for artifact in artifacts.list_artifacts(files, done.id):
        outputs.record(outputs.hashed(artifact.key, files.read(artifact.key)))


def _result(done: "Run", *, changed: bool) -> dg.MaterializeResult[None]:
    measured = done.measured
    seconds = (done.completed_at - done.started_at).total_seconds() if done.completed_at and done.started_at else 0.0
    return dg.MaterializeResult(
        data_version=dg.DataVersion((done.output_sha256 or "")[:32]),
        metadata={
            "summary": f"{counted(len(measured), 'metric')}, "
            f"{'the same' if done.deterministic else 'not the same'} when executed again",
            "changed": changed,
            "dagster/row_count": len(measured),
            "run": str(done.id),
            "sandbox": done.sandbox or "",
            "deterministic": bool(done.deterministic),
            "environment": done.env_hash or "",
            "seconds_of_run": seconds,
            "metrics": table(
                ("metric", "split", "value", "seeds"),
                [(each.metric, each.split, each.value, len(each.values)) for each in measured],
            ),
        },
    )
