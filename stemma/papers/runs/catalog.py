"""Reading runs: one, those of a paper, their events and curves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, LiteralString
from uuid import UUID

from psycopg.rows import class_row, dict_row

from stemma.errors import InvalidInput, NotFound
from stemma.papers.runs.model import Run, RunEvent, RunStatus, SeriesPoint
from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection

_COLUMNS: Final = """
    id, plan_id, paper_id, alternative, status, env_hash, sandbox, job_id, dagster_run_id, output_sha256, deterministic,
    metrics, error_code, error_message, actor, cancel_requested_at, created_at, started_at, completed_at
"""
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OF_PAPER: Final = f"""
    SELECT {_COLUMNS} FROM p2n.runs
    WHERE paper_id = %(paper)s
        AND (%(before)s::uuid IS NULL
            OR (created_at, id) < (SELECT created_at, id FROM p2n.runs WHERE id = %(before)s AND paper_id = %(paper)s))
    ORDER BY created_at DESC, id DESC LIMIT %(limit)s
"""
_LATEST: Final = f"""
    SELECT {_COLUMNS} FROM p2n.runs
    WHERE paper_id = %(paper)s AND status = 'succeeded'
        AND (%(plan)s::uuid IS NULL OR plan_id = %(plan)s)
        AND alternative IS NOT DISTINCT FROM %(alternative)s
    ORDER BY completed_at DESC, id DESC LIMIT 1
"""

_SPENT: Final = """
    SELECT coalesce(sum(extract(epoch FROM coalesce(completed_at, clock_timestamp()) - started_at)), 0)
    FROM p2n.runs
    WHERE plan_id = %(plan)s AND id <> %(run)s AND started_at IS NOT NULL AND created_at >= coalesce(
        (SELECT max(created_at) FROM p2n.runs WHERE plan_id = %(plan)s AND alternative IS NULL), '-infinity')
"""


def get_run(connection: Connection, run_id: UUID) -> Run:
    """One run as it stands; raises NotFound."""
    found = _runs(connection, f"SELECT {_COLUMNS} FROM p2n.runs WHERE id = %s", (run_id,))
    if not found:
        hint = "The runs of a paper are listed with it."
        raise NotFound("paper_run_unknown", f"There is no run {run_id}.", field="run_id", hint=hint)
    return found[0]


def get_run_of(connection: Connection, paper_id: UUID, run_id: UUID) -> Run:
    """One run of a paper; raises NotFound, also for another paper's."""
    run = get_run(connection, run_id)
    if run.paper_id != paper_id:
        raise NotFound("paper_run_unknown", f"Paper {paper_id} has no run {run_id}.", field="run_id")
    return run


def list_runs(connection: Connection, paper_id: UUID, *, cursor: str | None = None, limit: int = 50) -> Page[Run]:
    """A paper's runs, the newest first; raises InvalidInput(field="cursor")."""
    (before,) = decode_cursor("paper_runs", cursor, str) if cursor else (None,)
    if before is not None and not _ID.fullmatch(str(before)):
        raise InvalidInput("cursor_invalid", "This cursor does not belong to this list.", field="cursor")
    wanted = {"paper": paper_id, "before": before, "limit": limit + 1}
    return cut_page(_runs(connection, _OF_PAPER, wanted), limit, lambda last: encode_cursor("paper_runs", str(last.id)))


def latest_success(
    connection: Connection, paper_id: UUID, *, plan_id: UUID | None = None, alternative: str | None = None
) -> Run | None:
    """The run of a paper, or of one of its plans, that succeeded last; None where none did.

    Without `alternative`, of what the plans say first.
    """
    wanted = {"paper": paper_id, "plan": plan_id, "alternative": alternative}
    found = _runs(connection, _LATEST, wanted)
    return found[0] if found else None


def waiting_without_job(connection: Connection, paper_id: UUID) -> Run | None:
    """The oldest pending run of a paper that whoever asked for it carries out; None where there is none."""
    query: LiteralString = f"""
        SELECT {_COLUMNS} FROM p2n.runs WHERE paper_id = %s AND status = 'pending' AND job_id IS NULL
        ORDER BY created_at, id LIMIT 1
    """
    found = _runs(connection, query, (paper_id,))
    return found[0] if found else None


def spent_seconds(connection: Connection, run: Run) -> float:
    """Seconds of execution that the report which this run is for has taken already.

    A report rests on the run of what a plan says first and on those of alternatives that follow it.
    """
    if run.alternative is None:
        return 0.0
    row = connection.execute(_SPENT, {"plan": run.plan_id, "run": run.id}).fetchone()
    return float(row[0]) if row else 0.0


def runs_in(connection: Connection, status: RunStatus) -> tuple[Run, ...]:
    """All that are in one state, the oldest first."""
    query: LiteralString = f"SELECT {_COLUMNS} FROM p2n.runs WHERE status = %s ORDER BY created_at, id"
    return tuple(_runs(connection, query, (status.value,)))


def list_events(connection: Connection, run_id: UUID, after: int = 0, *, limit: int = 500) -> tuple[RunEvent, ...]:
    """A run's events after a seq, the oldest first; none for a run that does not exist."""
    with connection.cursor(row_factory=class_row(RunEvent)) as rows:
        return tuple(
            rows.execute(
                """
                SELECT seq, type, ts, payload FROM p2n.run_events WHERE run_id = %s AND seq > %s ORDER BY seq LIMIT %s
                """,
                (run_id, after, limit),
            )
        )


def list_series(connection: Connection, run_id: UUID, *, limit: int = 10_000) -> tuple[SeriesPoint, ...]:
    """The points of a run's curves in the order of their steps."""
    with connection.cursor(row_factory=class_row(SeriesPoint)) as rows:
        return tuple(
            rows.execute(
                "SELECT ts, metric, split, value, step FROM p2n.run_series WHERE run_id = %s ORDER BY step LIMIT %s",
                (run_id, limit),
            )
        )


def _runs(connection: Connection, query: LiteralString, values: Sequence[Any] | Mapping[str, Any]) -> list[Run]:
    with connection.cursor(row_factory=dict_row) as rows:
        return [Run(**{**row, "status": RunStatus(row["status"])}) for row in rows.execute(query, values)]
