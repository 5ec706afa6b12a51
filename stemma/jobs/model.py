"""What a job is: its states, its times, and the events that tell of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, LiteralString
from uuid import UUID

from stemma.access.permissions import Role

CHANNEL: Final[LiteralString] = "stemma_jobs"
"""What the database notifies of each job's new events; the payload is the job's id."""

JOB_TAG: Final = "stemma/job_id"
"""The tag by which a Dagster run knows the job that it is for."""


class JobState(StrEnum):
    """Where a job stands; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    ERROR = "error"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing follows it."""
        return self in FINAL


FINAL: Final = frozenset({JobState.DONE, JobState.ERROR, JobState.CANCELLED})


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands.

    `attempt` counts how often it was started. `due_at` is when the next attempt may start: when the job was submitted,
    `scheduled_at`, or the end of the pause before a retry. `started_at` is of the newest attempt.
    """

    id: UUID
    kind: str
    input: dict[str, Any]
    priority: int
    actor: str
    role: Role
    submitted_at: datetime
    scheduled_at: datetime | None
    max_attempts: int
    state: JobState
    due_at: datetime
    attempt: int
    run_id: str | None
    lease_until: datetime | None
    cancel_requested_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    error_code: str | None
    error_message: str | None

    @property
    def queued_ms(self) -> int | None:
        """Milliseconds that the newest attempt was due before it started, or the job ended; None while it waits."""
        until = self.started_at or self.finished_at
        return None if until is None else max(0, _milliseconds(until - self.due_at))

    @property
    def run_ms(self) -> int | None:
        """Milliseconds that the newest attempt took; None unless it was started and the job has ended."""
        if self.started_at is None or self.finished_at is None:
            return None
        return _milliseconds(self.finished_at - self.started_at)


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One thing that happened to a job. `seq` is its place among the job's events, from 1, without gaps.

    `submitted`, `started`, `postponed`, `cancel_requested`, `done`, `error` and `cancelled` are transitions, which the
    Historian has as well; `log`, `progress` and `asset` are what the work itself told.
    """

    seq: int
    kind: str
    at: datetime
    data: dict[str, Any]

    @property
    def is_last(self) -> bool:
        """Whether no other follows."""
        return self.kind in FINAL


def _milliseconds(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
