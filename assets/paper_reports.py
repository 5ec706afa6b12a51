"""What became of papers: the report of each, and the leaderboard of all.

Blocking checks stand in `assets/paper_reports_checks.py`.
"""

from collections import Counter
from typing import TYPE_CHECKING
from uuid import UUID

import dagster as dg

from assets.automation import derived_data
from assets.paper_runs import run
from assets.papers import PAPERS
from assets.product import product
from assets.shown import counted, table
from resources.store import StoreResource
from stemma.papers import versions

if TYPE_CHECKING:
    from stemma.papers.reports.model import Finding, Report


@product(
    key=["papers", "gap_report"],
    partitions_def=PAPERS,
    deps=[run],
    kinds={"python", "postgres"},
    code_version=versions.REPORT,
    automation_condition=derived_data(),
    description=(
        "What one paper claims beside what the latest run observed, to the precision that the paper prints. Where a "
        "gap appears, the plan's alternatives are run until one closes it."
    ),
)
def gap_report(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult[None]:
    """Report on one paper."""
    from stemma.papers.reports import publishing
    from stemma.store.files import FileStore

    report = _report(context, store)
    kept = store.database.read(lambda connection: publishing.published(connection, report))
    changed = kept is None
    if kept is None:
        kept = store.commit(
            store.database.read(
                lambda connection: publishing.publish(connection, report, actor="asset:papers/gap_report")
            )
        )
    FileStore.open_default(store.settings).write(
        publishing.report_file(report.paper_id), publishing.report_bytes(report)
    )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(kept.sha256[:32]),
        metadata={
            "summary": f"{report.reproduced} of {counted(len(report.findings), 'target')} reproduced",
            "changed": changed,
            "dagster/row_count": len(report.findings),
            "verdict": report.verdict.value,
            "gap_percent": report.gap_percent if report.gap_percent is not None else "not measured",
            "findings": table(("what", "the paper", "we", "gap %", "verdict"), [*map(_row, report.findings)]),
            "alternatives": table(
                ("name", "what", "state", "closes"),
                [(one.name, one.description, one.status, ", ".join(one.closes)) for one in report.attempts],
            ),
            "page": f"/papers/{report.paper_id}",
        },
    )


@product(
    key=["papers", "leaderboard"],
    deps=[gap_report],
    kinds={"python"},
    code_version=versions.REPORT,
    automation_condition=derived_data(),
    description="Which papers' claims are reproduced, by the newest report of each.",
)
def papers_leaderboard(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult[None]:
    """Rank the papers."""
    from stemma.papers.reports import leaderboard
    from stemma.papers.reports.verdicts import Verdict
    from stemma.store.files import FileStore

    standings = store.database.read(leaderboard.read_leaderboard)
    files, ranked = FileStore.open_default(store.settings), leaderboard.leaderboard_bytes(standings)
    changed = not files.exists(leaderboard.FILE) or files.read(leaderboard.FILE) != ranked
    written = files.write(leaderboard.FILE, ranked)
    verdicts = Counter(one.verdict for one in standings)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(written.sha256[:32]),
        metadata={
            "summary": f"{verdicts[Verdict.REPRODUCED]} of {counted(len(standings), 'paper')} reproduced",
            "changed": changed,
            "dagster/row_count": len(standings),
            "leaderboard": table(
                ("place", "paper", "reproduced", "targets", "widest gap %"),
                [(one.place, one.title, one.reproduced, one.targets, one.widest_gap_percent) for one in standings],
            ),
            "page": "/papers",
        },
    )


def _report(context: dg.AssetExecutionContext, store: StoreResource) -> "Report":
    from stemma.papers.reports import closing
    from stemma.papers.runs.execution import Studio
    from stemma.store.files import FileStore

    files = FileStore.open_default(store.settings)
    studio = Studio(store.settings, store.database, files, lambda make: store.commit(store.database.read(make)))
    paper_id = UUID(context.partition_key)
    return closing.report_with_alternatives(studio, paper_id, dagster_run_id=context.run.run_id)


def _row(finding: "Finding") -> tuple[object, ...]:
    gap = "" if finding.gap_percent is None else f"{finding.gap_percent:+.3f}"
    return finding.label, finding.printed, finding.observed_printed or "", gap, finding.verdict.value
