"""Every transition of a job after it was submitted.

    queued ─ claim ─→ running ─┬─ finish ─────────────────────→ done
      ↑ │                      ├─ fail, no attempt left ──────→ error
      │ └─ cancel ─→ cancelled ├─ cancel, then stop ──────────→ cancelled
      └── pause ───────────────┴─ fail or lose, attempts left

Each is a change with a guard: of several processes that saw the same state, one gets through and the others conflict.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from stemma.access.principal import Principal
from stemma.errors import Conflict
from stemma.jobs.catalog import get_job, lost_jobs
from stemma.jobs.model import Job, JobState
from stemma.jobs.steps import stepped, subject, told
from stemma.ledger.change import Change
from stemma.ledger.journal import audited
from stemma.notify.messages import Message
from stemma.notify.outbox import enqueue
from stemma.redaction import redact
from stemma.store.database import Connection, database_time

LEASE: Final = timedelta(seconds=60)
SHORTEST_PAUSE: Final = timedelta(seconds=10)
LONGEST_PAUSE: Final = timedelta(minutes=10)
AT_ONCE: Final = 100

_STUDIO: Final = "studio"
_REASON: Final = 1000


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed; `passing` where another one may succeed."""

    code: str
    message: str
    passing: bool


def claim(connection: Connection, job_id: UUID, run_id: str) -> Change[Job]:
    """Start an attempt in this run; whoever does not get it has to leave the job alone.

    Raises NotFound, Conflict (`job_not_queued`, `job_not_due`).
    """
    job = get_job(connection, job_id)
    if job.state is not JobState.QUEUED:
        raise Conflict("job_not_queued", f"Job {job.id} is {job.state} already.", field="id")
    now = database_time(connection)
    if job.due_at > now:
        raise Conflict("job_not_due", f"Job {job.id} is not due before {job.due_at}.", field="id")
    return started(job, run_id, now)


def started(job: Job, run_id: str, now: datetime) -> Change[Job]:
    """The start of an attempt of a queued job that is due; raises Conflict at its commit where another came first."""
    running = replace(
        job,
        state=JobState.RUNNING,
        attempt=job.attempt + 1,
        run_id=run_id,
        lease_until=now + LEASE,
        started_at=now,
    )
    facts = {"attempt": running.attempt, "run_id": run_id, "queued_ms": running.queued_ms}
    return stepped(job, running, "started", facts, (told(job, "started", f"run:{run_id}", facts),))


def beat(connection: Connection, job_id: UUID, run_id: str) -> Job | None:
    """Prolong the lease of a run that lives; None when the run has lost the job and has to stop."""
    row = connection.execute(
        "UPDATE jobs SET lease_until = clock_timestamp() + %s WHERE id = %s AND state = 'running' AND run_id = %s",
        (LEASE, job_id, run_id),
    )
    return get_job(connection, job_id) if row.rowcount else None


def beat_all(connection: Connection, job_ids: Sequence[UUID], run_id: str) -> frozenset[UUID]:
    """Prolong the leases of many jobs that one process holds; returns those that it has not lost."""
    held = connection.execute(
        "UPDATE jobs SET lease_until = clock_timestamp() + %s "
        "WHERE id = ANY(%s) AND state = 'running' AND run_id = %s RETURNING id",
        (LEASE, list(job_ids), run_id),
    )
    return frozenset(job_id for (job_id,) in held)


def finish(connection: Connection, job_id: UUID, run_id: str) -> Change[Job]:
    """The work is done, whether or not somebody asked to cancel it meanwhile; raises NotFound, Conflict."""
    job = _held(connection, job_id, run_id)
    done = _ended(job, JobState.DONE, database_time(connection))
    facts = {"attempt": job.attempt, "run_ms": done.run_ms}
    return stepped(job, done, "done", facts, (told(job, "done", f"run:{run_id}", facts),))


def fail(connection: Connection, job_id: UUID, run_id: str, failure: Failure) -> Change[Job]:
    """The attempt failed: the job waits for another one, ends as error, or as cancelled where that was asked for.

    Raises NotFound, Conflict.
    """
    return _failed(connection, _held(connection, job_id, run_id), failure, actor=f"run:{run_id}")


def stop(connection: Connection, job_id: UUID, run_id: str) -> Change[Job]:
    """The run was terminated, by whoever cancelled the job or in Dagster; raises NotFound, Conflict."""
    return _stopped(connection, _held(connection, job_id, run_id), actor=f"run:{run_id}")


def reap(connection: Connection) -> tuple[Change[Job], ...]:
    """One change for each running job whose lease has ended, at most `AT_ONCE`; where another was first, a Conflict."""
    lost = Failure("job_lost", "Its process died, or did not answer until its lease ended.", passing=True)
    now = database_time(connection)
    return tuple(_failed(connection, job, lost, actor=_STUDIO) for job in lost_jobs(connection, now=now, limit=AT_ONCE))


def give_up(connection: Connection, job_id: UUID, failure: Failure) -> Change[Job]:
    """End a job that no run could be started for; raises NotFound, Conflict."""
    job = get_job(connection, job_id)
    if job.state is not JobState.QUEUED:
        raise Conflict("job_not_queued", f"Job {job.id} is {job.state} already.", field="id")
    return _in_error(job, failure, database_time(connection), actor=_STUDIO)


def cancel(connection: Connection, principal: Principal, job_id: UUID) -> Change[Job]:
    """Cancel a job: at once while it is queued, else its run is asked to stop.

    Raises NotFound; Forbidden; Conflict with code `job_finished` for what is done or failed, and `job_cancelled` for
    what is cancelled, or about to be, already.
    """
    principal.require("jobs:write")
    return ask_to_stop(connection, principal, get_job(connection, job_id))


def ask_to_stop(connection: Connection, principal: Principal, job: Job) -> Change[Job]:
    """The same for whoever may for another reason than `jobs:write`, such as that it is theirs."""
    if job.state is JobState.CANCELLED:
        raise Conflict("job_cancelled", f"Job {job.id} is cancelled already.", field="id")
    if job.state.is_final:
        raise Conflict("job_finished", f"Job {job.id} is {job.state} already: there is nothing to cancel.", field="id")
    if job.cancel_requested_at is not None:
        hint = "Its run was asked to stop and ends soon."
        raise Conflict("job_cancelled", f"Job {job.id} is being cancelled already.", field="id", hint=hint)
    now = database_time(connection)
    asked = replace(job, cancel_requested_at=now)
    queued = job.state is JobState.QUEUED
    after, event = (_ended(asked, JobState.CANCELLED, now), "cancelled") if queued else (asked, "cancel_requested")
    facts = {"kind": job.kind, "role": principal.role.value, "attempt": job.attempt}
    entries = audited(principal, f"job.{event}", resource=subject(job), meta=facts, critical=True)
    return stepped(job, after, event, {**facts, "actor": principal.actor}, entries)


def pause_before(attempt: int) -> timedelta:
    """How long to wait before the attempt after this one: exponential backoff with full jitter.

    Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    longest = min(LONGEST_PAUSE, SHORTEST_PAUSE * (1 << min(attempt - 1, 16)))
    return longest * random.random()  # noqa: S311 - spreads load, guards nothing


def _held(connection: Connection, job_id: UUID, run_id: str) -> Job:
    job = get_job(connection, job_id)
    if job.state is not JobState.RUNNING or job.run_id != run_id:
        raise Conflict("job_not_held", f"Job {job.id} is not held by run {run_id}.", field="id")
    return job


def _failed(connection: Connection, job: Job, failure: Failure, *, actor: str) -> Change[Job]:
    if job.cancel_requested_at is not None:
        return _stopped(connection, job, actor=actor)
    now = database_time(connection)
    if not failure.passing or job.attempt >= job.max_attempts:
        return _in_error(job, failure, now, actor=actor)
    due_at = now + pause_before(job.attempt)
    waiting = replace(job, state=JobState.QUEUED, due_at=due_at, lease_until=None, started_at=None)
    facts: dict[str, Any] = {
        "attempt": job.attempt,
        "of": job.max_attempts,
        "pause_ms": (due_at - now) // timedelta(milliseconds=1),
        "code": failure.code,
        "reason": _told_reason(failure),
    }
    return stepped(job, waiting, "postponed", facts, (told(job, "postponed", actor, facts),))


def _stopped(connection: Connection, job: Job, *, actor: str) -> Change[Job]:
    cancelled = _ended(job, JobState.CANCELLED, database_time(connection))
    facts = {"attempt": job.attempt, "run_ms": cancelled.run_ms}
    return stepped(job, cancelled, "cancelled", facts, (told(job, "cancelled", actor, facts),))


def _in_error(job: Job, failure: Failure, now: datetime, *, actor: str) -> Change[Job]:
    reason = _told_reason(failure)
    wrong = replace(_ended(job, JobState.ERROR, now), error_code=failure.code, error_message=reason)
    facts = {"attempt": job.attempt, "run_ms": wrong.run_ms, "code": failure.code, "reason": reason}
    change = stepped(job, wrong, "error", facts, (told(job, "error", actor, facts),))
    news = Message("job.error", f"Job failed: {job.kind}", reason, {"job": str(job.id), "kind": job.kind, **facts})
    return replace(change, companions=(*change.companions, enqueue(news)))


def _ended(job: Job, state: JobState, now: datetime) -> Job:
    return replace(job, state=state, lease_until=None, finished_at=now)


def _told_reason(failure: Failure) -> str:
    """The reason as it may be kept for ever; an error's text may hold anything."""
    text = failure.message.encode(errors="replace").decode().replace("\0", "\ufffd")
    return redact(text).text[:_REASON] or failure.code
