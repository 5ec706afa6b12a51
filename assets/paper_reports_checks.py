"""Blocking checks on what is said of papers: figures that follow from the run, and a leaderboard of every report."""

from typing import TYPE_CHECKING
from uuid import UUID

import dagster as dg

from assets.paper_reports import gap_report, papers_leaderboard
from resources.store import StoreResource

if TYPE_CHECKING:
    from stemma.papers.reports.catalog import KeptReport

_PARTITION = "dagster/partition"


@dg.asset_check(asset=gap_report, blocking=True, description="Gaps follow from claims and runs, verdicts from gaps")
def reports_add_up(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Work out the report of the run's paper anew, from the rows that it is made of."""
    from stemma.papers.reports import checks

    problems: list[str] = []
    with store.database.snapshot() as connection:
        for kept in _reports(context, store):
            problems += checks.differences(connection, kept.report)
    return _verdict(problems)


@dg.asset_check(asset=papers_leaderboard, blocking=True, description="Every paper with a report is there once")
def leaderboard_is_whole(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Compare the file with the newest reports."""
    from stemma.papers.reports import catalog, checks, leaderboard
    from stemma.store.files import FileStore

    with store.database.snapshot() as connection:
        reports = catalog.newest_reports(connection)
    written = FileStore.open_default(store.settings).read(leaderboard.FILE)
    return _verdict(checks.missing_from(written, [kept.report for kept in reports]))


def _reports(context: dg.AssetCheckExecutionContext, store: StoreResource) -> "list[KeptReport]":
    from stemma.papers.reports import catalog

    wanted = context.run.tags.get(_PARTITION)
    with store.database.snapshot() as connection:
        found = catalog.newest_reports(connection)
    return [kept for kept in found if wanted is None or kept.report.paper_id == UUID(wanted)]


def _verdict(problems: list[str]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=not problems,
        description="; ".join(problems[:3]) or None,
        metadata={"problems": len(problems)},
    )
