"""Keeping a report: its row, what the Historian hears of it, and the end of the paper's storyboard, in one commit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb

from stemma.errors import NotFound
from stemma.ledger.change import Change
from stemma.ledger.entries import canonical
from stemma.ledger.journal import transition
from stemma.ledger.writer import Statement
from stemma.papers import catalog as papers
from stemma.papers.kid import keeping
from stemma.papers.reports.building import build
from stemma.papers.reports.catalog import KeptReport, find_report
from stemma.papers.reports.model import Report
from stemma.papers.runs import catalog as runs
from stemma.papers.runs.model import Artifact, Run
from stemma.store.database import Connection, database_time

_MOST_RUNS: Final = 200
_INSERT: Final = """
    INSERT INTO p2n.reports (id, paper_id, plan_id, run_id, document, sha256, verdict, gap_percent, created_at)
    VALUES (%(id)s, %(paper_id)s, %(plan_id)s, %(run_id)s, %(document)s, %(sha256)s, %(verdict)s, %(gap_percent)s,
        %(created_at)s)
"""


def reported_run(connection: Connection, paper_id: UUID) -> Run:
    """The run that a paper's report is of: the latest that succeeded of what a plan says first.

    Raises NotFound(paper_unknown), NotFound(paper_not_run).
    """
    paper = papers.get_paper(connection, paper_id)
    run = runs.latest_success(connection, paper.id)
    if run is None:
        hint = f"`stemma papers run {paper_id}` runs its plan."
        raise NotFound("paper_not_run", "No run of this paper has succeeded yet.", field="paper_id", hint=hint)
    return run


def report_of(connection: Connection, paper_id: UUID) -> KeptReport:
    """The newest report of a paper; raises NotFound(paper_unknown), NotFound(report_missing)."""
    papers.get_paper(connection, paper_id)
    found = find_report(connection, paper_id)
    if found is None:
        hint = f"`stemma papers report {paper_id}` makes it, once a run of its plan has succeeded."
        raise NotFound("report_missing", "There is no report of this paper yet.", field="paper_id", hint=hint)
    return found


def make_report(connection: Connection, run: Run, files: Sequence[Artifact]) -> Report:
    """The report that a run leads to, with what is known of the plan's alternatives; `files` are what the run left."""
    paper, plan = papers.get_paper(connection, run.paper_id), papers.get_plan(connection, run.plan_id)
    return build(paper, plan, run, _tried(connection, run), files)


def publish(connection: Connection, report: Report, *, actor: str) -> Change[KeptReport]:
    """Keep a report as the newest one of its paper, and let the last page of the paper's storyboard tell of it."""
    sha256 = _sha256(report)
    kept = KeptReport(uuid4(), report, sha256, database_time(connection))
    row = {
        "id": kept.id,
        "paper_id": report.paper_id,
        "plan_id": report.plan_id,
        "run_id": report.run_id,
        "document": Jsonb(report.model_dump(mode="json")),
        "sha256": sha256,
        "verdict": report.verdict.value,
        "gap_percent": report.gap_percent,
        "created_at": kept.created_at,
    }
    facts = {
        "run": str(report.run_id),
        "verdict": report.verdict.value,
        "targets": len(report.findings),
        "reproduced": report.reproduced,
        "sha256": sha256,
    }
    entry = transition("paper.reported", subject=f"paper/{report.paper_id}", actor=actor, data=facts)
    ending = keeping.ended(connection, report)
    return Change((entry,), (Statement(_INSERT, row, rows=1), *ending), lambda _: kept)


def published(connection: Connection, report: Report) -> KeptReport | None:
    """The newest report of the paper, where it says the very same."""
    newest = find_report(connection, report.paper_id)
    return newest if newest is not None and newest.sha256 == _sha256(report) else None


def report_bytes(report: Report) -> bytes:
    """The file of it: RFC 8785, so that the same report is the same bytes."""
    return canonical(report.model_dump(mode="json"))


def report_file(paper_id: UUID) -> str:
    """Its key in the file store."""
    return f"papers/{paper_id}/report.json"


def _sha256(report: Report) -> str:
    return hashlib.sha256(report_bytes(report)).hexdigest()


def _tried(connection: Connection, run: Run) -> dict[str, Run]:
    """The run of each alternative that counts: the latest that succeeded, else the latest."""
    found: dict[str, Run] = {}
    for one in runs.list_runs(connection, run.paper_id, limit=_MOST_RUNS).data:
        if one.plan_id != run.plan_id or one.alternative is None:
            continue
        before = found.get(one.alternative)
        if before is None or (before.status != "succeeded" and one.status == "succeeded"):
            found[one.alternative] = one
    return found
