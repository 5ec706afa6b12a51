"""Days of health: how much of each day each service was there. The minutes of it, `health`'s rows, go after a month."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

from psycopg.rows import class_row

from stemma.store.database import Connection, Database
from stemma.telemetry.days import Kept, Span, remake
from stemma.telemetry.health import KEPT_DAYS

_DELETE: Final = f"""
    DELETE FROM health_days
    WHERE day BETWEEN %(first)s AND %(last)s AND day > (now() AT TIME ZONE 'UTC')::date - {KEPT_DAYS}
"""
_INSERT: Final = f"""
    INSERT INTO health_days (day, name, seen, ok, latency_p95, error_rate)
    SELECT (ts AT TIME ZONE 'UTC')::date AS day, name, count(*), count(*) FILTER (WHERE status = 'ok'),
        percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_p95), avg(error_rate)
    FROM service_health WHERE ts >= %(since)s AND ts < %(until)s
        AND (ts AT TIME ZONE 'UTC')::date > (now() AT TIME ZONE 'UTC')::date - {KEPT_DAYS}
    GROUP BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class HealthDay:
    """A day of a service: how often it was looked at, how often it was well; `latency_p95` is in seconds."""

    day: date
    name: str
    seen: int
    ok: int
    latency_p95: float | None
    error_rate: float | None


def sync_days(database: Database, span: Span) -> Mapping[date, Kept]:
    """Sum up the days of a span anew, but those whose minutes are gone."""
    with database.transaction() as connection:
        return remake(connection, "health_days", "day", span, _DELETE, _INSERT)


def list_days(connection: Connection, span: Span) -> tuple[HealthDay, ...]:
    """The days of a span, the newest first, by service."""
    with connection.cursor(row_factory=class_row(HealthDay)) as rows:
        return tuple(
            rows.execute(
                f"SELECT {', '.join(HealthDay.__slots__)} FROM health_days"
                " WHERE day BETWEEN %(first)s AND %(last)s ORDER BY day DESC, name",
                span.parameters,
            )
        )
