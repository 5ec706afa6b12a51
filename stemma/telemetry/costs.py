"""What calls to models cost, by days and weeks: sums of `provider_usage`, and the founder's totals beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from psycopg.rows import class_row

from stemma.store.database import Connection, Database
from stemma.telemetry.days import Kept, Span, remake

_DELETE_DAYS: Final = "DELETE FROM cost_days WHERE day BETWEEN %(first)s AND %(last)s"
_DAYS: Final = """
    INSERT INTO cost_days (day, founder, provider, model, agent, route, calls, errors, cancelled, unpriced, estimated,
        tokens_in, tokens_cached, tokens_out, cost_est)
    SELECT (ts AT TIME ZONE 'UTC')::date, false, provider, model, coalesce(agent, ''), route, count(*),
        count(*) FILTER (WHERE status = 'error'), count(*) FILTER (WHERE status = 'cancelled'),
        count(*) - count(cost_est), count(*) FILTER (WHERE counted = 'estimated'),
        sum(tokens_in), sum(tokens_cached), sum(tokens_out), coalesce(sum(cost_est), 0)
    FROM provider_usage WHERE ts >= %(since)s AND ts < %(until)s GROUP BY 1, 3, 4, 5, 6
    UNION ALL
    SELECT day, true, '', '', '', '', calls, 0, 0, unpriced, 0, tokens_in, 0, tokens_out, cost_est
    FROM founder_usage WHERE day BETWEEN %(first)s AND %(last)s
"""
_DELETE_WEEKS: Final = "DELETE FROM cost_weeks WHERE week BETWEEN %(first)s AND %(last)s"
_WEEKS: Final = """
    INSERT INTO cost_weeks (week, founder, provider, model, calls, errors, cancelled, unpriced, tokens_in, tokens_out,
        cost_est)
    SELECT date_trunc('week', day)::date, founder, provider, model, sum(calls), sum(errors), sum(cancelled),
        sum(unpriced), sum(tokens_in), sum(tokens_out), sum(cost_est)
    FROM cost_days WHERE day BETWEEN %(first)s AND %(last)s::date + 6 GROUP BY 1, 2, 3, 4
"""
_RAW: Final = """
    SELECT count(*), count(*) - count(cost_est), coalesce(sum(tokens_in), 0)::bigint,
        coalesce(sum(tokens_out), 0)::bigint, coalesce(sum(cost_est), 0)
    FROM provider_usage WHERE ts >= %(since)s AND ts < %(until)s
    UNION ALL
    SELECT coalesce(sum(calls), 0)::bigint, coalesce(sum(unpriced), 0)::bigint, coalesce(sum(tokens_in), 0)::bigint,
        coalesce(sum(tokens_out), 0)::bigint, coalesce(sum(cost_est), 0)
    FROM founder_usage WHERE day BETWEEN %(first)s AND %(last)s
"""
_STALE: Final = """
    SELECT coalesce(s.day, c.day)
    FROM (SELECT day, calls FROM spending WHERE scope = 'studio' AND day BETWEEN %(first)s AND %(last)s) AS s
    FULL JOIN (
        SELECT day, sum(calls) AS calls FROM cost_days WHERE day BETWEEN %(first)s AND %(last)s GROUP BY day
    ) AS c ON c.day = s.day
    WHERE s.calls IS DISTINCT FROM c.calls ORDER BY 1
"""
_BY_DAY: Final = """
    SELECT day, sum(calls)::bigint AS calls, sum(errors)::bigint AS errors, sum(cancelled)::bigint AS cancelled,
        sum(unpriced)::bigint AS unpriced, sum(tokens_in)::bigint AS tokens_in, sum(tokens_out)::bigint AS tokens_out,
        sum(cost_est) AS cost, coalesce(sum(cost_est) FILTER (WHERE founder), 0) AS founder_cost
    FROM cost_days WHERE day BETWEEN %(first)s AND %(last)s GROUP BY day ORDER BY day DESC
"""
_BY_WEEK: Final = """
    SELECT week AS day, sum(calls)::bigint AS calls, sum(errors)::bigint AS errors,
        sum(cancelled)::bigint AS cancelled, sum(unpriced)::bigint AS unpriced, sum(tokens_in)::bigint AS tokens_in,
        sum(tokens_out)::bigint AS tokens_out, sum(cost_est) AS cost,
        coalesce(sum(cost_est) FILTER (WHERE founder), 0) AS founder_cost
    FROM cost_weeks WHERE week BETWEEN %(first)s AND %(last)s GROUP BY week ORDER BY week DESC
"""
_BY_MODEL: Final = """
    SELECT provider, model, sum(calls)::bigint AS calls, sum(errors)::bigint AS errors,
        sum(unpriced)::bigint AS unpriced, sum(tokens_in)::bigint AS tokens_in, sum(tokens_out)::bigint AS tokens_out,
        sum(cost_est) AS cost
    FROM cost_days WHERE NOT founder AND day BETWEEN %(first)s AND %(last)s
    GROUP BY provider, model ORDER BY cost DESC, provider, model
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """A day, or a week from its Monday; `cost` is in US dollars and lacks the `unpriced` calls."""

    day: date
    calls: int
    errors: int
    cancelled: int
    unpriced: int
    tokens_in: int
    tokens_out: int
    cost: Decimal
    founder_cost: Decimal


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What calls to a model used and cost in some days; a founder's are not among them."""

    provider: str
    model: str
    calls: int
    errors: int
    unpriced: int
    tokens_in: int
    tokens_out: int
    cost: Decimal


def sync_days(database: Database, span: Span) -> Mapping[date, Kept]:
    """Sum up the days of a span anew."""
    with database.transaction() as connection:
        return remake(connection, "cost_days", "day", span, _DELETE_DAYS, _DAYS)


def sync_weeks(database: Database, span: Span) -> Mapping[date, Kept]:
    """Add up the weeks whose Mondays are in a span, from their days."""
    with database.transaction() as connection:
        return remake(connection, "cost_weeks", "week", span.weeks, _DELETE_WEEKS, _WEEKS)


def differences(connection: Connection, span: Span, *, weekly: bool = False) -> tuple[str, ...]:
    """Where the sums of some days, or weeks, are not what the raw usage adds up to: calls, tokens and dollars."""
    table, column = ("cost_weeks", "week") if weekly else ("cost_days", "day")
    within = Span(span.weeks.first, span.weeks.last + timedelta(days=6)) if weekly else span
    said = connection.execute(
        f"""
        SELECT coalesce(sum(calls), 0)::bigint, coalesce(sum(unpriced), 0)::bigint,
            coalesce(sum(tokens_in), 0)::bigint, coalesce(sum(tokens_out), 0)::bigint, coalesce(sum(cost_est), 0)
        FROM {table} WHERE {column} BETWEEN %(first)s AND %(last)s
        """,
        within.parameters,
    ).fetchone()
    assert said is not None
    counted = [sum(column) for column in zip(*connection.execute(_RAW, within.parameters).fetchall(), strict=True)]
    names = ("calls", "unpriced calls", "tokens in", "tokens out", "US dollars")
    return tuple(
        f"{one:,} {name}, and the usage of {within.first} to {within.last} adds up to {other:,}"
        for name, one, other in zip(names, said, counted, strict=True)
        if one != other
    )


def whole_span(connection: Connection) -> Span | None:
    """From the first day on which a model was called to the last; None where none was."""
    row = connection.execute("""
        SELECT least((SELECT (min(ts) AT TIME ZONE 'UTC')::date FROM provider_usage), min(day)),
            greatest((SELECT (max(ts) AT TIME ZONE 'UTC')::date FROM provider_usage), max(day))
        FROM founder_usage
    """).fetchone()
    return None if row is None or row[0] is None else Span(*row)


def stale_days(connection: Connection, span: Span) -> list[date]:
    """The days of which not every call is summed up, because they were missed or a call was written down late."""
    return [day for (day,) in connection.execute(_STALE, span.parameters)]


def daily(connection: Connection, span: Span) -> tuple[Cost, ...]:
    """The days of a span that are summed up, the newest first."""
    return _read(connection, _BY_DAY, span)


def weekly(connection: Connection, span: Span) -> tuple[Cost, ...]:
    """The weeks of a span that are added up, the newest first."""
    return _read(connection, _BY_WEEK, span)


def by_model(connection: Connection, span: Span) -> tuple[ModelCost, ...]:
    """What each model cost in some days, the dearest first."""
    with connection.cursor(row_factory=class_row(ModelCost)) as rows:
        return tuple(rows.execute(_BY_MODEL, span.parameters))


def today(connection: Connection) -> tuple[int, Decimal]:
    """Calls and US dollars of the day that is not over, a founder's among them."""
    row = connection.execute(
        "SELECT calls, cost_est FROM spending WHERE scope = 'studio' AND day = (now() AT TIME ZONE 'UTC')::date"
    ).fetchone()
    return row or (0, Decimal(0))


def last_days(count: int, *, until: date | None = None) -> Span:
    """The last days that are over, or those up to `until`."""
    last = until or datetime.now(UTC).date() - timedelta(days=1)
    return Span(last - timedelta(days=count - 1), last)


def _read(connection: Connection, query: Any, span: Span) -> tuple[Cost, ...]:
    with connection.cursor(row_factory=class_row(Cost)) as rows:
        return tuple(rows.execute(query, span.parameters))
