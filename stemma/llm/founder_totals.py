"""All that is kept of the founder's calls to models: the totals of each day. What adds to them is `metering`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from psycopg.rows import class_row

from stemma.store.database import Connection


@dataclass(frozen=True, slots=True)
class FounderDay:
    """The founder's calls of one UTC day. `cost_est` is in US dollars and lacks the `unpriced` calls."""

    day: date
    calls: int
    unpriced: int
    tokens_in: int
    tokens_out: int
    cost_est: Decimal


def list_days(connection: Connection, *, limit: int) -> tuple[FounderDay, ...]:
    """The last days that had calls, the newest first."""
    query = """
        SELECT day, calls, unpriced, tokens_in, tokens_out, cost_est FROM founder_usage ORDER BY day DESC LIMIT %s
    """
    with connection.cursor(row_factory=class_row(FounderDay)) as rows:
        return tuple(rows.execute(query, (limit,)))
