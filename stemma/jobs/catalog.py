"""Reading jobs: one, lists, events also as they come, and how many there are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, LiteralString
from uuid import UUID

from psycopg.rows import class_row, dict_row

from stemma.access.permissions import Role
from stemma.errors import NotFound
from stemma.jobs.model import CHANNEL, Job, JobEvent, JobState
from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection, DatabaseUrls, connect

_COLUMNS: Final = """
    id, kind, input, priority, actor, role, submitted_at, scheduled_at, max_attempts, state, due_at, attempt, run_id,
    lease_until, cancel_requested_at, started_at, finished_at, error_code, error_message
"""
_LIST: Final = f"""
    SELECT position, {_COLUMNS} FROM jobs
    WHERE position < %(before)s
        AND (%(kind)s::text IS NULL OR kind = %(kind)s)
        AND (%(state)s::text IS NULL OR state = %(state)s)
        AND (%(actor)s::text IS NULL OR actor = %(actor)s)
    ORDER BY position DESC LIMIT %(limit)s
"""
_NEWEST: Final = 2**63 - 1
_POLL_SECONDS: Final = 2.0


def get_job(connection: Connection, job_id: UUID) -> Job:
    """One job as it stands; raises NotFound."""
    job = find_job(connection, job_id)
    if job is None:
        hint = "`stemma jobs list` shows those that there are."
        raise NotFound("job_unknown", f"There is no job {job_id}.", field="id", hint=hint)
    return job


def find_job(connection: Connection, job_id: UUID) -> Job | None:
    """One job as it stands, where there is one."""
    row = _rows(connection, f"SELECT {_COLUMNS} FROM jobs WHERE id = %s", (job_id,))
    return _job(row[0]) if row else None


def find_job_of_run(connection: Connection, run_id: str) -> Job | None:
    """The job whose newest attempt is this run, where there is one."""
    row = _rows(connection, f"SELECT {_COLUMNS} FROM jobs WHERE run_id = %s LIMIT 1", (run_id,))
    return _job(row[0]) if row else None


def list_jobs(
    connection: Connection,
    *,
    kind: str | None = None,
    state: JobState | None = None,
    actor: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Job]:
    """The newest jobs first, all or those that match; raises InvalidInput(field="cursor")."""
    (before,) = decode_cursor("jobs", cursor, int) if cursor else (_NEWEST,)
    wanted = {"before": before, "kind": kind, "state": state, "actor": actor, "limit": limit + 1}
    page = cut_page(_rows(connection, _LIST, wanted), limit, lambda last: encode_cursor("jobs", last["position"]))
    return Page(tuple(map(_job, page.data)), page.next_cursor)


def list_events(connection: Connection, job_id: UUID, after: int = 0, *, limit: int = 200) -> tuple[JobEvent, ...]:
    """A job's events after a seq, the oldest first; none for a job that does not exist."""
    with connection.cursor(row_factory=class_row(JobEvent)) as rows:
        return tuple(
            rows.execute(
                "SELECT seq, kind, at, data FROM job_events WHERE job_id = %s AND seq > %s ORDER BY seq LIMIT %s",
                (job_id, after, limit),
            )
        )


def follow(urls: DatabaseUrls, job_id: UUID, after: int = 0) -> Iterator[JobEvent]:
    """A job's events after a seq as they come, until its last; waits in the caller's thread.

    Raises NotFound, Unavailable, and what psycopg says when the connection is lost.
    """
    with contextlib.closing(connect(urls.app, autocommit=True)) as connection:
        connection.execute(f"LISTEN {CHANNEL}")
        while True:
            # Read before the events: what it had ended with is among them.
            ended = get_job(connection, job_id).state.is_final
            found = list_events(connection, job_id, after)
            yield from found
            after = found[-1].seq if found else after
            if ended and not found:
                return
            if not found:
                for _ in connection.notifies(timeout=_POLL_SECONDS, stop_after=1):
                    pass


def count_by_kind_and_state(connection: Connection) -> dict[tuple[str, JobState], int]:
    """How many jobs there are of each kind in each state; what there is none of is left out."""
    found = connection.execute("SELECT kind, state, count(*) FROM jobs GROUP BY kind, state")
    return {(kind, JobState(state)): count for kind, state, count in found}


def due_jobs(
    connection: Connection, *, quiet_until: datetime, now: datetime, except_for: list[UUID], limit: int
) -> tuple[Job, ...]:
    """Queued jobs that nobody is about to start: scheduled and postponed ones that are due at `now`, others that were
    due before `quiet_until`; the most urgent first.
    """
    rows = _rows(
        connection,
        f"""
        SELECT {_COLUMNS} FROM jobs
        WHERE state = 'queued' AND due_at <= CASE WHEN due_at = submitted_at THEN %(quiet)s ELSE %(now)s END
            AND id <> ALL(%(except_for)s)
        ORDER BY priority DESC, due_at LIMIT %(limit)s
        """,
        {"quiet": quiet_until, "now": now, "except_for": except_for, "limit": limit},
    )
    return tuple(map(_job, rows))


def lost_jobs(connection: Connection, *, now: datetime, limit: int) -> tuple[Job, ...]:
    """Running jobs whose lease has ended, those that were lost first at the front."""
    rows = _rows(
        connection,
        f"SELECT {_COLUMNS} FROM jobs WHERE state = 'running' AND lease_until <= %s ORDER BY lease_until LIMIT %s",
        (now, limit),
    )
    return tuple(map(_job, rows))


def _rows(connection: Connection, query: LiteralString, parameters: Any) -> list[dict[str, Any]]:
    return connection.cursor(row_factory=dict_row).execute(query, parameters).fetchall()


def _job(row: Mapping[str, Any]) -> Job:
    known = {name: row[name] for name in Job.__slots__}
    return Job(**{**known, "state": JobState(row["state"]), "role": Role(row["role"])})
