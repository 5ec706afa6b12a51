"""The products of a paper: the text of its pages, what it claims, and the plan to reproduce that.

Blocking checks stand in `assets/papers_checks.py`.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

import dagster as dg

from assets.automation import derived_data
from assets.product import product
from assets.shown import counted, table
from resources.store import StoreResource
from stemma.errors import StemmaError
from stemma.papers import versions
from stemma.store import outputs

if TYPE_CHECKING:
    from stemma.ledger.change import Change
    from stemma.papers.model import Paper
    from stemma.store.database import Connection

PAPERS = dg.DynamicPartitionsDefinition(name="papers")


@product(
    key=["papers", "pages"],
    partitions_def=PAPERS,
    kinds={"python", "pdf"},
    code_version=versions.PAGES,
    description="The words of every page of one paper, each with its box, in the lines that they are printed in.",
)
def pages(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult[None]:
    """Read one paper."""
    from stemma.papers import pages as pdf
    from stemma.papers import steps
    from stemma.store.files import FileStore

    paper, files = _paper(context, store), FileStore.open_default(store.settings)
    with _failure_told(paper, "pages", store):
        data = files.read(paper.file_key)
        outputs.record_read(outputs.Artifact(paper.file_key, "application/pdf", paper.sha256, paper.bytes))
        read = pdf.read_pages(data, store.settings)
        written = files.write(f"papers/{paper.id}/pages.json", pdf.to_json(read))
        changed = _written(store, lambda connection: steps.pages_read(connection, paper, written.key, len(read)))
    words = sum(len(line.words) for page in read for line in page.lines)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(written.sha256[:32]),
        metadata={
            "summary": f"{counted(len(read), 'page')}, {counted(words, 'word')}",
            "changed": changed,
            "dagster/row_count": len(read),
            "title": paper.title,
            "words": words,
        },
    )


@product(
    key=["papers", "claims"],
    partitions_def=PAPERS,
    deps=[pages],
    kinds={"python", "postgres"},
    code_version=versions.CLAIMS,
    automation_condition=derived_data(),
    description=(
        "The numbers that one paper reports, each with page, box and quote. What a person edited, accepted or rejected "
        "stays as it is."
    ),
)
def claims(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult[None]:
    """Find what one paper claims."""
    from stemma.papers import catalog, steps
    from stemma.papers.claims import reading
    from stemma.store.files import FileStore

    paper = _paper(context, store)
    with _failure_told(paper, "claims", store):
        found = reading.read_claims(steps.stored_pages(FileStore.open_default(store.settings), paper))
        changed = _written(
            store, lambda connection: steps.claims_found(connection, paper, found, actor="asset:papers/claims")
        )
    with store.database.snapshot() as connection:
        kept = catalog.list_claims(connection, paper.id)
    listed = steps.claims_artifact(paper, kept)
    outputs.record(listed)
    accepted = [claim for claim in kept if claim.status == "accepted"]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(listed.sha256[:32]),
        metadata={
            "summary": f"{counted(len(kept), 'claim')}, {len(accepted):,} accepted",
            "changed": changed,
            "dagster/row_count": len(kept),
            "accepted": len(accepted),
            "proposed": sum(claim.status == "proposed" for claim in kept),
            "claims": table(
                ("metric", "value", "unit", "dataset", "method", "page", "status"),
                [(c.metric, c.printed, c.unit or "", c.dataset or "", c.method or "", c.page, c.status) for c in kept],
            ),
        },
    )


@product(
    key=["papers", "plan"],
    partitions_def=PAPERS,
    deps=[claims],
    kinds={"python", "postgres"},
    code_version=versions.PLAN,
    automation_condition=derived_data(),
    description=(
        "How to reproduce the accepted claims of one paper: targets, data, method, limits, and what to try where a gap "
        "appears. A plan that a person wrote stays the one that counts."
    ),
)
def plan(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult[None]:
    """Plan the reproduction of one paper."""
    from stemma.papers import catalog, planning
    from stemma.papers.plan import parse_plan

    paper = _paper(context, store)
    with _failure_told(paper, "plan", store):
        with store.database.snapshot() as connection:
            before, kept = catalog.latest_plan(connection, paper.id), catalog.list_claims(connection, paper.id)
        if before is not None and before.origin != "template":
            made = before
        else:
            proposed = planning.propose(paper, kept)
            _written(
                store, lambda connection: planning.plan_made(connection, paper, proposed, actor="asset:papers/plan")
            )
            made = planning.require_plan(
                store.database.read(lambda connection: catalog.latest_plan(connection, paper.id)), paper.id
            )
    outputs.record(planning.plan_artifact(made))
    document = parse_plan(made.document)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(made.sha256[:32]),
        metadata={
            "summary": f"{counted(len(document.targets), 'target')} by {made.template or 'a plan of its own'}",
            "changed": before is None or before.id != made.id,
            "dagster/row_count": len(document.targets),
            "version": made.version,
            "origin": made.origin,
            "alternatives": len(document.alternatives),
            "missing_packages": ", ".join(planning.missing_packages(document)) or "none",
            "targets": table(
                ("metric", "claimed", "page", "what"),
                [(target.metric, target.printed, target.page, target.label) for target in document.targets],
            ),
        },
    )


@contextlib.contextmanager
def _failure_told(paper: "Paper", step: str, store: StoreResource) -> Iterator[None]:
    """Leave with the paper why a step failed; that it cannot be told is no reason of its own."""
    import psycopg

    from stemma.papers import steps

    try:
        yield
    except StemmaError as error:
        failure = error
        with contextlib.suppress(StemmaError, psycopg.Error):
            _written(store, lambda connection: steps.step_failed(connection, paper, step, failure))
        raise


def _written(store: StoreResource, prepare: "Callable[[Connection], Change[Any] | None]") -> bool:
    """Write what is to be changed, if anything is; says whether it was."""
    change = store.database.read(prepare)
    if change is not None:
        store.commit(change)
    return change is not None


def _paper(context: dg.AssetExecutionContext, store: StoreResource) -> "Paper":
    from stemma.papers import catalog

    with store.database.snapshot() as connection:
        return catalog.get_paper(connection, UUID(context.partition_key))
