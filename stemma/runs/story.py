"""Runs with everything that belongs to them: job, receipts, what it changed, and the approvals that concern it.

Dagster is asked outside of the database's snapshots. What it does not answer is left out, and the story says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from stemma.approvals.catalog import list_of_subjects
from stemma.approvals.model import ApprovalSummary
from stemma.errors import NotFound, Unavailable
from stemma.jobs.catalog import find_job, find_job_of_run
from stemma.jobs.model import Job
from stemma.jobs.steps import subject as job_subject
from stemma.ledger.receipt_catalog import list_receipts, newest_runs, receipts_before, subjects_of_runs
from stemma.ledger.receipts import Receipt
from stemma.runs.changes import Change, compare
from stemma.runs.dagster import list_runs, read_made, read_run
from stemma.runs.model import Run, RunDetail, RunState
from stemma.store.database import Connection, Database
from stemma.store.settings import Settings

MOST_RECEIPTS: Final = 200


@dataclass(frozen=True, slots=True)
class Story:
    """A run and what belongs to it. `unanswered` is why Dagster's part is missing, `receipts` those that it left, the
    oldest first; `more_receipts` says that they are not all.
    """

    id: str
    detail: RunDetail | None
    unanswered: str | None
    job: Job | None
    receipts: tuple[Receipt, ...]
    more_receipts: bool
    changes: tuple[Change, ...]
    approvals: tuple[ApprovalSummary, ...]

    @property
    def actor(self) -> str | None:
        """For whom it was, as far as is known."""
        if self.detail is not None:
            return self.detail.run.actor
        return self.receipts[0].actor if self.receipts else self.job.actor if self.job else None


def subject(run_id: str) -> str:
    """How the ledger names a run."""
    return f"run/{run_id}"


@dataclass(frozen=True, slots=True)
class Listed:
    """One run of a list: Dagster's, or where that does not answer, by its receipts; and what it left receipts of."""

    id: str
    actor: str
    made: tuple[str, ...]
    run: Run | None


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of runs; `unanswered` is why there are only those of the newest receipts."""

    runs: tuple[Listed, ...]
    next_cursor: str | None
    unanswered: str | None


def list_stories(
    database: Database,
    settings: Settings,
    *,
    state: RunState | None = None,
    receipts: bool = True,
    cursor: str | None = None,
    limit: int = 50,
) -> Listing:
    """The newest runs first, all or those in a state, with or without what they made.

    Raises InvalidInput(field="cursor").
    """
    try:
        page = list_runs(settings, state=state, cursor=cursor, limit=limit)
    except Unavailable as error:
        with database.snapshot() as connection:
            known = newest_runs(connection, limit) if receipts else ()
        return Listing(tuple(Listed(one.run_id, one.actor, one.subjects, None) for one in known), None, error.message)
    with database.snapshot() as connection:
        made = subjects_of_runs(connection, [run.id for run in page.data]) if receipts else {}
    found = (Listed(run.id, run.actor, made.get(run.id, ()), run) for run in page.data)
    return Listing(tuple(found), page.next_cursor, None)


def read_story(
    database: Database, settings: Settings, run_id: str, *, receipts: bool = True, approvals: bool = True
) -> Story:
    """Everything there is about a run, with or without what it left in the ledger and the approvals that concern it.

    Raises NotFound where neither Dagster, nor a receipt, nor a job knows the run.
    """
    detail, unanswered = _ask(settings, run_id)
    with database.snapshot() as connection:
        job = _job(connection, detail, run_id)
        page = list_receipts(connection, run_id=run_id, limit=MOST_RECEIPTS) if receipts else None
        left = tuple(reversed(page.data)) if page else ()
        previous = receipts_before(connection, left)
        subjects = {subject(run_id), *([job_subject(job)] if job else ())}
        subjects |= {name for receipt in left for name in (receipt.subject, receipt.asset)}
        gates = list_of_subjects(connection, subjects) if approvals else ()
    if detail is None and not left and job is None:
        hint = "/runs lists those that there are." if unanswered is None else f"{unanswered} Ask again when it does."
        raise NotFound("run_unknown", f"Nothing here knows a run {run_id}.", field="id", hint=hint)
    made = detail.made if detail and receipts else ()
    try:
        before = read_made(settings, (receipt.run_id for receipt in previous.values())) if detail else {}
    except Unavailable as error:
        before, unanswered = {}, error.message
    changes = compare(left, previous, made, before)
    more = page is not None and page.next_cursor is not None
    return Story(run_id, detail, unanswered, job, left, more, changes, gates)


def _ask(settings: Settings, run_id: str) -> tuple[RunDetail | None, str | None]:
    try:
        return read_run(settings, run_id), None
    except NotFound:
        return None, None
    except Unavailable as error:
        return None, error.message


def _job(connection: Connection, detail: RunDetail | None, run_id: str) -> Job | None:
    if detail is not None and detail.run.job_id is not None:
        return find_job(connection, detail.run.job_id)
    return find_job_of_run(connection, run_id)
