"""The error budget: how much of what may fail has failed, of calls to models and of the minutes of each service.

Days are kept as counts; a window is added up when it is read, so that a late call changes its own day alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from stemma.store.database import Connection, Database
from stemma.telemetry.days import Kept, Span, remake
from stemma.telemetry.health import KEPT_DAYS

# EDIT HERE: the share of calls, and of minutes, that has to go well, and over how many days.
OBJECTIVE: Final = 0.99
WINDOW_DAYS: Final = 28

MODELS: Final = "models"
"""What stands for the calls to all providers together."""

# Minutes are deleted after a month; what was counted of them until then stays.
_DELETE: Final = f"""
    DELETE FROM error_budget_days WHERE day BETWEEN %(first)s AND %(last)s
        AND (unit = 'calls' OR day > (now() AT TIME ZONE 'UTC')::date - {KEPT_DAYS})
"""
_CALLS: Final = f"""
    INSERT INTO error_budget_days (day, name, unit, total, bad)
    SELECT (ts AT TIME ZONE 'UTC')::date, coalesce('provider/' || provider, '{MODELS}'), 'calls', count(*),
        count(*) FILTER (WHERE status = 'error')
    FROM provider_usage WHERE status <> 'cancelled' AND ts >= %(since)s AND ts < %(until)s
    GROUP BY GROUPING SETS (((ts AT TIME ZONE 'UTC')::date), ((ts AT TIME ZONE 'UTC')::date, provider))
"""
_MINUTES: Final = f"""
    INSERT INTO error_budget_days (day, name, unit, total, bad)
    SELECT (ts AT TIME ZONE 'UTC')::date AS day, 'service/' || name, 'minutes', count(*),
        count(*) FILTER (WHERE status NOT IN ('ok', 'not_running'))
    FROM service_health WHERE ts >= %(since)s AND ts < %(until)s
        AND (ts AT TIME ZONE 'UTC')::date > (now() AT TIME ZONE 'UTC')::date - {KEPT_DAYS}
    GROUP BY 1, 2
"""
_WINDOW: Final = """
    SELECT name, unit, sum(total)::bigint, sum(bad)::bigint,
        coalesce(sum(total) FILTER (WHERE day = %(last)s), 0)::bigint,
        coalesce(sum(bad) FILTER (WHERE day = %(last)s), 0)::bigint
    FROM error_budget_days WHERE day BETWEEN %(first)s AND %(last)s
    GROUP BY name, unit ORDER BY unit, name <> 'models', name
"""


@dataclass(frozen=True, slots=True)
class ErrorBudget:
    """How a thing's budget stands at the end of a day, over the window that ends with it.

    `left` is the share of the budget that is left, below zero where it is overspent; `burn` is how fast the last day
    used it: 1 is exactly as fast as the objective allows, None where nothing was asked on that day.
    """

    name: str
    unit: str
    total: int
    bad: int
    left: float
    burn: float | None


def sync_days(database: Database, span: Span) -> Mapping[date, Kept]:
    """Count the days of a span anew."""
    with database.transaction() as connection:
        return remake(connection, "error_budget_days", "day", span, _DELETE, _CALLS, _MINUTES)


def standing(connection: Connection, day: date) -> tuple[ErrorBudget, ...]:
    """Every budget at the end of a day: all calls to models, each provider, each service."""
    window = Span(day - timedelta(days=WINDOW_DAYS - 1), day)
    return tuple(
        ErrorBudget(name, unit, total, bad, 1 - _used(total, bad), _used(asked, failed) if asked else None)
        for name, unit, total, bad, asked, failed in connection.execute(_WINDOW, window.parameters)
    )


def differences(connection: Connection, span: Span) -> tuple[str, ...]:
    """Where the counts of calls are not those of the raw usage."""
    found = connection.execute(
        """
        SELECT said.total, said.bad, raw.total, raw.bad
        FROM (SELECT coalesce(sum(total), 0) AS total, coalesce(sum(bad), 0) AS bad FROM error_budget_days
            WHERE name = %(name)s AND day BETWEEN %(first)s AND %(last)s) AS said
        CROSS JOIN (SELECT count(*) AS total, count(*) FILTER (WHERE status = 'error') AS bad FROM provider_usage
            WHERE status <> 'cancelled' AND ts >= %(since)s AND ts < %(until)s) AS raw
        """,
        {**span.parameters, "name": MODELS},
    ).fetchone()
    assert found is not None
    total, bad, calls, failed = found
    return (
        () if (total, bad) == (calls, failed) else (f"{bad:,} of {total:,} calls failed, not {failed:,} of {calls:,}",)
    )


def _used(total: int, bad: int) -> float:
    return bad / (total * (1 - OBJECTIVE))
