"""How long calls to models took, by days: percentiles of those that were answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

from psycopg.rows import class_row

from stemma.store.database import Connection, Database
from stemma.telemetry.days import Kept, Span, remake

_DELETE: Final = "DELETE FROM latency_days WHERE day BETWEEN %(first)s AND %(last)s"
_INSERT: Final = """
    INSERT INTO latency_days (day, by, name, calls, p50, p95, p99, ttft_p50, ttft_p95, ttft_p99)
    SELECT day, by, name, calls, total[1], total[2], total[3], first[1], first[2], first[3]
    FROM (
        SELECT day, count(*) AS calls,
            CASE WHEN grouping(model) = 0 THEN 'model' WHEN grouping(provider) = 0 THEN 'provider'
                WHEN grouping(agent) = 0 THEN 'agent' WHEN grouping(route) = 0 THEN 'route' ELSE 'all' END AS by,
            CASE WHEN grouping(model) = 0 THEN provider || '/' || model
                ELSE coalesce(provider, agent, route, '') END AS name,
            percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency_ms) AS total,
            percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY ttft_ms) AS first
        FROM (
            SELECT (ts AT TIME ZONE 'UTC')::date AS day, provider, model, coalesce(agent, '') AS agent, route,
                latency_ms, ttft_ms
            FROM provider_usage WHERE status = 'ok' AND ts >= %(since)s AND ts < %(until)s
        ) AS answered
        GROUP BY GROUPING SETS ((day), (day, provider), (day, provider, model), (day, agent), (day, route))
    ) AS found
"""
_RECOUNT: Final = """
    SELECT (SELECT coalesce(sum(calls), 0) FROM latency_days WHERE by = kind AND day BETWEEN %(first)s AND %(last)s)
        - (SELECT count(*) FROM provider_usage WHERE status = 'ok' AND ts >= %(since)s AND ts < %(until)s), kind
    FROM unnest(ARRAY['all', 'provider', 'model', 'agent', 'route']) AS kind
"""


@dataclass(frozen=True, slots=True)
class Latency:
    """The percentiles of a day in milliseconds, until the end and until the first token (None: no call streamed).

    `by` says what `name` is: `provider`, `model`, `agent` or `route`, or `all` without a name.
    """

    day: date
    by: str
    name: str
    calls: int
    p50: float
    p95: float
    p99: float
    ttft_p50: float | None
    ttft_p95: float | None
    ttft_p99: float | None


def sync_days(database: Database, span: Span) -> Mapping[date, Kept]:
    """Work out the percentiles of the days of a span anew."""
    with database.transaction() as connection:
        return remake(connection, "latency_days", "day", span, _DELETE, _INSERT)


def differences(connection: Connection, span: Span) -> tuple[str, ...]:
    """In which groupings not every answered call is counted once, and percentiles that are not in order."""
    found = connection.execute(_RECOUNT, span.parameters).fetchall()
    (disorder,) = connection.execute(
        "SELECT count(*) FROM latency_days WHERE day BETWEEN %(first)s AND %(last)s"
        " AND NOT (p50 <= p95 AND p95 <= p99)",
        span.parameters,
    ).fetchone() or (0,)
    return (
        *(f"{more:+,} calls by {kind}" for more, kind in found if more),
        *([f"{disorder:,} rows whose percentiles are not in order"] if disorder else []),
    )


def newest(connection: Connection, span: Span) -> tuple[Latency, ...]:
    """Of each provider, model, agent and route the last day of a span on which it was called."""
    with connection.cursor(row_factory=class_row(Latency)) as rows:
        return tuple(
            rows.execute(
                f"""
                SELECT DISTINCT ON (by, name) {", ".join(Latency.__slots__)} FROM latency_days
                WHERE day BETWEEN %(first)s AND %(last)s ORDER BY by, name, day DESC
                """,
                span.parameters,
            )
        )


def list_days(connection: Connection, span: Span, *, by: str = "all") -> tuple[Latency, ...]:
    """The days of a span, the newest first, by what is said."""
    with connection.cursor(row_factory=class_row(Latency)) as rows:
        return tuple(
            rows.execute(
                f"""
                SELECT {", ".join(Latency.__slots__)} FROM latency_days
                WHERE by = %(by)s AND day BETWEEN %(first)s AND %(last)s ORDER BY day DESC, name
                """,
                {**span.parameters, "by": by},
            )
        )
