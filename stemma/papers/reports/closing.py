"""Running what a plan names for a gap, one alternative after the other, until the gap is closed or nothing is left."""

from __future__ import annotations

from functools import partial
from typing import Final
from uuid import UUID

from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.ledger.change import Change
from stemma.papers.reports.model import Report
from stemma.papers.reports.publishing import make_report, reported_run
from stemma.papers.runs import lifecycle
from stemma.papers.runs.artifacts import list_artifacts
from stemma.papers.runs.execution import Studio, carry_out
from stemma.papers.runs.model import Run
from stemma.store.database import Connection

ACTOR: Final = "asset:papers/gap_report"
_REPORTER: Final = Principal(ACTOR, Role.BUILDER, frozenset({"papers:run"}))


def report_with_alternatives(studio: Studio, paper_id: UUID, *, dagster_run_id: str | None = None) -> Report:
    """The report of a paper's latest run; where that has a gap, once the plan's alternatives were run.

    Each is run once: what it gave before, or that it failed, is not asked again. Raises NotFound (`paper_unknown`,
    `paper_not_run`) and what carrying out a run raises.
    """
    run = studio.database.read(lambda connection: reported_run(connection, paper_id))
    while True:
        report = _report(studio, run)
        name = report.next_to_try
        if name is None:
            return report
        asked: Run = studio.commit(partial(_ask, run=run, alternative=name))
        carry_out(studio, asked.id, dagster_run_id=dagster_run_id)


def _report(studio: Studio, run: Run) -> Report:
    files = list_artifacts(studio.files, run.id)
    return studio.database.read(lambda connection: make_report(connection, run, files))


def _ask(connection: Connection, *, run: Run, alternative: str) -> Change[Run]:
    return lifecycle.create(connection, _REPORTER, run.plan_id, alternative=alternative)
