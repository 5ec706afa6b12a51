"""Keeping storyboards: one for each paper, whose last page follows the paper's newest report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid5

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from stemma.access.principal import Principal
from stemma.errors import Conflict, NotFound
from stemma.ledger.change import Change
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.papers import catalog as papers
from stemma.papers.kid.asking import Telling, figures_beyond
from stemma.papers.kid.storyboard import Found, Storyboard, Told, tell, with_ending
from stemma.papers.model import Claim
from stemma.papers.reports.catalog import find_report
from stemma.papers.reports.model import Report
from stemma.store.database import Connection, database_time

_FIND: Final = """
    SELECT id, paper_id, run_id, document, grade, created_at, updated_at FROM p2n.storyboards
    WHERE paper_id = %s ORDER BY created_at DESC, id DESC LIMIT 1
"""
# Whoever tells it anew replaces what was seen; a report replaces what there is.
_KEEP: Final = """
    INSERT INTO p2n.storyboards (id, paper_id, run_id, document, grade, created_at, updated_at)
    VALUES (%(id)s, %(paper_id)s, %(run_id)s, %(document)s, %(grade)s, %(created_at)s, %(updated_at)s)
    ON CONFLICT (id) DO UPDATE SET run_id = excluded.run_id, document = excluded.document, grade = excluded.grade,
        updated_at = excluded.updated_at
    WHERE %(by_report)s OR storyboards.updated_at = %(seen)s::timestamptz
"""
_STORIES: Final = UUID("c3a0f0d7-52be-4a27-8f5e-7d1b6c9e2a44")
_BY_TEMPLATES: Final = Telling(None)


@dataclass(frozen=True, slots=True)
class KeptStoryboard:
    """A paper's storyboard. `run_id` is the run that its last page tells of; `grade` a US school grade."""

    id: UUID
    paper_id: UUID
    run_id: UUID | None
    storyboard: Storyboard
    grade: float
    created_at: datetime
    updated_at: datetime


def find_storyboard(connection: Connection, paper_id: UUID) -> KeptStoryboard | None:
    """The storyboard of a paper, where there is one."""
    with connection.cursor(row_factory=dict_row) as rows:
        row = rows.execute(_FIND, (paper_id,)).fetchone()
    return _kept(row) if row else None


def get_storyboard(connection: Connection, paper_id: UUID) -> KeptStoryboard:
    """The storyboard of a paper; raises NotFound(paper_unknown), NotFound(storyboard_missing)."""
    papers.get_paper(connection, paper_id)
    found = find_storyboard(connection, paper_id)
    if found is None:
        hint = "POST /api/v1/explain/kid tells one, and so does the paper's page."
        raise NotFound("storyboard_missing", "Nobody has told this paper to children yet.", field="paper_id", hint=hint)
    return found


def claims_to_tell(connection: Connection, principal: Principal, paper_id: UUID) -> tuple[Told, ...]:
    """What there is to tell of a paper; raises NotFound, Forbidden."""
    principal.require("papers:write")
    paper = papers.get_paper(connection, paper_id)
    kept = find_report(connection, paper.id)
    return told_of(connection, paper.id, kept.report if kept else None)


def explain(
    connection: Connection, principal: Principal, paper_id: UUID, telling: Telling = _BY_TEMPLATES
) -> Change[KeptStoryboard]:
    """Tell a paper's claims to children, anew where that was done before: as a model told them, else by templates.

    Raises NotFound, Forbidden; Conflict(storyboard_changed) where it was told by somebody else at this moment.
    """
    principal.require("papers:write")
    paper = papers.get_paper(connection, paper_id)
    kept = find_report(connection, paper_id)
    report = kept.report if kept else None
    told, found = told_of(connection, paper_id, report), found_by(report) if report else None
    by_model = telling.storyboard
    # A claim may have been rejected while the model wrote of it.
    if by_model is None or figures_beyond(by_model, told):
        storyboard = tell(told, found)
    else:
        storyboard = with_ending(by_model, told, found) if found else by_model
    written, statement = _written(connection, paper.id, report, storyboard)
    meta = {"title": paper.title, "grade": written.grade, "told_by": storyboard.told_by, "refused": telling.refused}
    entries = audited(principal, "paper.explained", resource=f"paper/{paper_id}", meta=meta)
    return Change(entries, (statement,), lambda _: written)


def ended(connection: Connection, report: Report) -> tuple[Statement, ...]:
    """What goes with a new report: the last page tells of its run, in a storyboard of its own where there was none."""
    told = told_of(connection, report.paper_id, report)
    before = find_storyboard(connection, report.paper_id)
    found = found_by(report)
    if found is None and before is not None:
        return ()
    storyboard = with_ending(before.storyboard, told, found) if before and found else tell(told, found)
    return (_written(connection, report.paper_id, report, storyboard, by_report=True)[1],)


def told_of(connection: Connection, paper_id: UUID, report: Report | None) -> tuple[Told, ...]:
    """The claims as they are told, first those that the report is about."""
    claims = [claim for claim in papers.list_claims(connection, paper_id) if claim.status != "rejected"]
    places = {finding.claim: place for place, finding in enumerate(report.findings)} if report else {}
    claims.sort(key=lambda claim: (places.get(claim.id, len(places)), claim.position))
    return tuple(map(_told, claims))


def found_by(report: Report) -> Found | None:
    """What a report found of its first target; None where that was not measured."""
    first = report.findings[0]
    if first.observed is None or first.observed_printed is None:
        return None
    closed = report.closed_by(first.metric) is not None
    return Found(first.claimed, first.observed, first.observed_printed, first.verdict, closed)


def _told(claim: Claim) -> Told:
    return Told(claim.printed, claim.unit or "", claim.metric, claim.dataset or "", claim.method or "")


def _written(
    connection: Connection, paper_id: UUID, report: Report | None, storyboard: Storyboard, *, by_report: bool = False
) -> tuple[KeptStoryboard, Statement]:
    now = database_time(connection)
    before = find_storyboard(connection, paper_id)
    kept = KeptStoryboard(
        before.id if before else uuid5(_STORIES, str(paper_id)),
        paper_id,
        report.run_id if report else None,
        storyboard,
        storyboard.read().grade,
        before.created_at if before else now,
        now,
    )
    row = {name: getattr(kept, name) for name in ("id", "paper_id", "run_id", "grade", "created_at", "updated_at")}
    row |= {"document": Jsonb(storyboard.model_dump(mode="json")), "by_report": by_report}
    row["seen"] = before.updated_at if before else None
    refusal = Conflict("storyboard_changed", "The paper was told by somebody else at this moment.", hint="Try again.")
    return kept, Statement(_KEEP, row, rows=1, refusal=refusal)


def _kept(row: Mapping[str, Any]) -> KeptStoryboard:
    return KeptStoryboard(
        row["id"],
        row["paper_id"],
        row["run_id"],
        Storyboard.model_validate(row["document"]),
        row["grade"],
        row["created_at"],
        row["updated_at"],
    )
