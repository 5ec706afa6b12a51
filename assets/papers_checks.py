"""Blocking checks on the products of papers: no claim that its page does not print, no plan that is about another."""

from typing import TYPE_CHECKING
from uuid import UUID

import dagster as dg

from assets.papers import claims, plan
from resources.store import StoreResource

if TYPE_CHECKING:
    from stemma.papers.model import Paper

_PARTITION = "dagster/partition"


@dg.asset_check(asset=claims, blocking=True, description="Every claim that is not rejected is printed where it says")
def claims_are_printed(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Look every claim of the run's paper up on its page."""
    from stemma.papers import catalog, checks
    from stemma.store.files import FileStore

    files = FileStore.open_default(store.settings)
    problems: list[str] = []
    for paper in _papers(context, store):
        with store.database.snapshot() as connection:
            kept = catalog.list_claims(connection, paper.id)
        problems += checks.unprinted(files, paper, kept)
    return _verdict(problems)


@dg.asset_check(asset=plan, blocking=True, description="Every target of the plan is a claim of the paper, as it stands")
def targets_are_claims(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Compare the newest plan of the run's paper with its claims."""
    from stemma.papers import catalog, checks

    problems: list[str] = []
    for paper in _papers(context, store):
        with store.database.snapshot() as connection:
            problems += checks.unfounded(
                catalog.latest_plan(connection, paper.id), catalog.list_claims(connection, paper.id)
            )
    return _verdict(problems)


def _papers(context: dg.AssetCheckExecutionContext, store: StoreResource) -> "list[Paper]":
    from stemma.papers import catalog

    wanted = context.run.tags.get(_PARTITION)
    with store.database.snapshot() as connection:
        ids = catalog.paper_ids(connection) if wanted is None else [UUID(wanted)]
        return [catalog.get_paper(connection, paper_id) for paper_id in ids]


def _verdict(problems: list[str]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=not problems,
        description="; ".join(problems[:3]) or None,
        metadata={
            "problems": len(problems),
            "first": dg.MetadataValue.md("\n".join(f"- {problem}" for problem in problems[:20]) or "none"),
        },
    )
