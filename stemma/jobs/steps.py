"""What every transition of a job writes, in one commit: its row, its event, and what the ledger keeps of it.

Entries cannot be deleted, so that neither the input nor more than a redacted reason stands in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from psycopg.types.json import Jsonb

from stemma.errors import Conflict
from stemma.jobs.model import Job
from stemma.ledger.change import Change
from stemma.ledger.entries import NewEntry
from stemma.ledger.journal import transition
from stemma.ledger.writer import Statement

_ADD_EVENT: Final = (
    "INSERT INTO job_events (job_id, seq, kind, data) SELECT id, last_event, %(event)s, %(data)s FROM job"
)
_INSERT: Final = f"""
    WITH job AS (
        INSERT INTO jobs (id, kind, input, priority, actor, role, submitted_at, scheduled_at, max_attempts, due_at,
            last_event)
        VALUES (%(id)s, %(kind)s, %(input)s, %(priority)s, %(actor)s, %(role)s, %(submitted_at)s, %(scheduled_at)s,
            %(max_attempts)s, %(due_at)s, 1)
        RETURNING id, last_event
    ) {_ADD_EVENT}
"""
# Of several that start from what they all saw, one gets through.
_UPDATE: Final = f"""
    WITH job AS (
        UPDATE jobs SET state = %(state)s, due_at = %(due_at)s, attempt = %(attempt)s, run_id = %(run_id)s,
            lease_until = %(lease_until)s, cancel_requested_at = %(cancel_requested_at)s,
            started_at = %(started_at)s, finished_at = %(finished_at)s, error_code = %(error_code)s,
            error_message = %(error_message)s, last_event = last_event + 1
        WHERE id = %(id)s AND (state, attempt) = (%(seen_state)s, %(seen_attempt)s)
            AND cancel_requested_at IS NOT DISTINCT FROM %(seen_cancel)s::timestamptz
        RETURNING id, last_event
    ) {_ADD_EVENT}
"""


def created(job: Job, event: str, data: Mapping[str, Any], entries: tuple[NewEntry, ...]) -> Change[Job]:
    """The first step."""
    written = {**_row(job), "event": event, "data": Jsonb(data)}
    return Change(entries, (Statement(_INSERT, written, rows=1),), lambda _: job)


def stepped(before: Job, after: Job, event: str, data: Mapping[str, Any], entries: tuple[NewEntry, ...]) -> Change[Job]:
    """A step from one state to another, or within one; raises Conflict at its commit where another came first."""
    written = {
        **_row(after),
        "seen_state": before.state.value,
        "seen_attempt": before.attempt,
        "seen_cancel": before.cancel_requested_at,
        "event": event,
        "data": Jsonb(data),
    }
    what = f"Job {before.id} is no longer {before.state}."
    refusal = Conflict("job_changed", what, field="id", hint="Look at it again, and repeat what still makes sense.")
    return Change(entries, (Statement(_UPDATE, written, rows=1, refusal=refusal),), lambda _: after)


def told(job: Job, event: str, actor: str, data: Mapping[str, Any]) -> NewEntry:
    """The Historian's entry of a step, such as `job.started`."""
    return transition(f"job.{event}", subject=subject(job), actor=actor, data={"kind": job.kind, **data})


def subject(job: Job) -> str:
    """How the ledger names a job."""
    return f"job/{job.id}"


def _row(job: Job) -> dict[str, Any]:
    values = {name: getattr(job, name) for name in Job.__slots__}
    return {**values, "input": Jsonb(job.input), "role": job.role.value, "state": job.state.value}
