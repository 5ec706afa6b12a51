"""Running what a plan names for a gap, as many alternatives at once as may run, until it is closed or none is left."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Final
from uuid import UUID

from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.errors import Conflict
from stemma.ledger.change import Change
from stemma.papers.reports.model import Report
from stemma.papers.reports.publishing import make_report, reported_run
from stemma.papers.runs import lifecycle
from stemma.papers.runs.artifacts import list_artifacts
from stemma.papers.runs.execution import Studio, carry_out
from stemma.papers.runs.model import AT_ONCE, Run
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
        if not report.to_try:
            return report
        asked: list[Run] = [studio.commit(partial(_ask, run=run, alternative=name)) for name in report.to_try[:AT_ONCE]]
        _carry_out_all(studio, asked, dagster_run_id)


def _carry_out_all(studio: Studio, asked: Sequence[Run], dagster_run_id: str | None) -> None:
    # Their files belong to their runs: threads of their own collect nothing for whoever reports.
    with ThreadPoolExecutor(len(asked), "alternative") as pool:
        carried = [pool.submit(carry_out, studio, one.id, dagster_run_id=dagster_run_id) for one in asked]
        try:
            wait(carried)
        except KeyboardInterrupt:
            for one in asked:
                with contextlib.suppress(Conflict):
                    studio.commit(partial(lifecycle.cancel, principal=_REPORTER, run_id=one.id))
            raise
    for done in carried:
        done.result()


def _report(studio: Studio, run: Run) -> Report:
    files = list_artifacts(studio.files, run.id)
    return studio.database.read(lambda connection: make_report(connection, run, files))


def _ask(connection: Connection, *, run: Run, alternative: str) -> Change[Run]:
    return lifecycle.create(connection, _REPORTER, run.plan_id, alternative=alternative)
