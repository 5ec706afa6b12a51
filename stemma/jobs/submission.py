"""Asking for work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from stemma.access.principal import Principal
from stemma.errors import InvalidInput
from stemma.jobs import kinds
from stemma.jobs.kinds import Kind
from stemma.jobs.lifecycle import started
from stemma.jobs.model import Job, JobState
from stemma.jobs.steps import created, subject
from stemma.ledger.change import Change
from stemma.ledger.entries import format_time
from stemma.ledger.journal import audited
from stemma.store.database import Connection, database_time

MOST_URGENT: Final = 100
FARTHEST: Final = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What is asked for: input for a kind, how urgent it is (the higher, the sooner), and when at the earliest."""

    kind: str
    input: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0
    scheduled_at: datetime | None = None


def submit(connection: Connection, principal: Principal, request: JobRequest) -> Change[Job]:
    """Queue a job.

    Raises Forbidden unless the principal has `jobs:write` and what the kind needs besides; InvalidInput that names the
    field for an unknown kind, one that is not submitted, input that it does not take, and a time that is past; NotFound
    where the input names what does not exist.
    """
    principal.require("jobs:write")
    kind = kinds.find(request.kind)
    if kind.executed_in != "dagster":
        what = f"{kind.name} begins by a request of its own, not as a job that is submitted."
        raise InvalidInput("job_kind_not_submitted", what, field="kind", hint=f"{kind.description}: see the API.")
    if kind.permission is not None:
        principal.require(kind.permission)
    if not -MOST_URGENT <= request.priority <= MOST_URGENT:
        what = f"A priority lies between -{MOST_URGENT} and {MOST_URGENT}."
        raise InvalidInput("priority_invalid", what, field="priority")
    now = database_time(connection)
    given = kind.checked(connection, dict(request.input))
    return _queued(principal, kind, given, now, request.priority, _checked_time(request.scheduled_at, now))


def begin(
    connection: Connection, principal: Principal, name: str, given: Mapping[str, Any], holder: str
) -> Change[Job]:
    """Start a job of a kind that is executed in the API, at once and held by `holder`, which prolongs its lease.

    Raises Forbidden without the kind's permission, InvalidInput for input that it does not take.
    """
    kind = kinds.find(name)
    if kind.permission is not None:
        principal.require(kind.permission)
    now = database_time(connection)
    queued = _queued(principal, kind, kind.checked(connection, dict(given)), now)
    running = started(queued.result(()), holder, now)
    change = queued.joined(running)
    return replace(change, result=lambda _: running.result(()))


def _queued(
    principal: Principal,
    kind: Kind,
    given: dict[str, Any],
    now: datetime,
    priority: int = 0,
    scheduled_at: datetime | None = None,
) -> Change[Job]:
    job = Job(
        id=uuid4(),
        kind=kind.name,
        input=given,
        priority=priority,
        actor=principal.actor,
        role=principal.role,
        submitted_at=now,
        scheduled_at=scheduled_at,
        max_attempts=kind.max_attempts,
        state=JobState.QUEUED,
        due_at=scheduled_at or now,
        attempt=0,
        run_id=None,
        lease_until=None,
        cancel_requested_at=None,
        started_at=None,
        finished_at=None,
        error_code=None,
        error_message=None,
    )
    facts = {
        "kind": job.kind,
        "role": job.role.value,
        "priority": job.priority,
        "scheduled_at": format_time(scheduled_at) if scheduled_at else None,
    }
    entries = audited(principal, "job.submitted", resource=subject(job), meta=facts, critical=True)
    return created(job, "submitted", {**facts, "actor": job.actor}, entries)


def _checked_time(wanted: datetime | None, now: datetime) -> datetime | None:
    if wanted is None:
        return None
    if wanted.tzinfo is None:
        hint = "Write it as in 2026-01-31T06:00:00+01:00."
        raise InvalidInput("schedule_without_offset", "The time has no offset.", field="scheduled_at", hint=hint)
    if wanted <= now:
        what = f"{wanted.isoformat(timespec='seconds')} is past."
        hint = "Name a time to come, or leave it out to start at once."
        raise InvalidInput("schedule_in_the_past", what, field="scheduled_at", hint=hint)
    if wanted - now > FARTHEST:
        what = f"A job can wait for {FARTHEST.days} days at most."
        raise InvalidInput("schedule_too_far", what, field="scheduled_at")
    return wanted
