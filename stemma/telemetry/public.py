"""What anybody may know of the studio: whether its services are there, and how its models do.

No actor, agent, model, host, document, detail of an error or amount of money is in it, and nothing of a founder.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from stemma.store.database import Connection, Database
from stemma.telemetry import error_budget, health

# Fewer calls than these would say what single ones did.
_FEWEST: Final = 20
_KEPT_SECONDS: Final = 10.0
# What people named, or bought, is told of as one.
_TOGETHER: Final = {"provider": "models", "channel": "notifications", "channels": "notifications"}
_CALLS: Final = """
    SELECT count(*), count(*) FILTER (WHERE status = 'error'),
        percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE status = 'ok')
    FROM provider_usage WHERE ts > now() - interval '1 day' AND status <> 'cancelled'
"""


@dataclass(frozen=True, slots=True)
class PublicMetrics:
    """How the studio stands. `models` are the calls of the last 24 hours, its figures None where there were few;
    latencies are in milliseconds.
    """

    as_of: datetime
    status: str
    services: dict[str, str]
    calls: int | None
    error_rate: float | None
    latency_p50: float | None
    latency_p95: float | None
    latency_p99: float | None
    error_budget_left: float | None


def measure(connection: Connection) -> PublicMetrics:
    """Look how the studio stands."""
    worst: dict[str, str] = {}
    for row in health.latest(connection):
        kind = row.name.partition("/")[0]
        name = _TOGETHER.get(kind, kind)
        if worst.get(name, "ok") == "ok":
            worst[name] = row.status
    calls, errors, percentiles = connection.execute(_CALLS).fetchone() or (0, 0, None)
    enough = calls >= _FEWEST
    p50, p95, p99 = (percentiles if enough and percentiles else None) or (None, None, None)
    now = datetime.now(UTC)
    budgets = {one.name: one for one in error_budget.standing(connection, now.date())}
    left = budgets[error_budget.MODELS].left if error_budget.MODELS in budgets else None
    bad = any(status not in ("ok", "not_running") for status in worst.values())
    return PublicMetrics(
        as_of=now,
        status="degraded" if bad else "ok",
        services=dict(sorted(worst.items())),
        calls=calls if enough else None,
        error_rate=errors / calls if enough else None,
        latency_p50=p50,
        latency_p95=p95,
        latency_p99=p99,
        error_budget_left=left,
    )


class PublicView:
    """What `measure` says, looked up every ten seconds at most, however many ask. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._measured: PublicMetrics | None = None
        self._until = 0.0

    def now(self, database: Database) -> PublicMetrics:
        """The figures; raises Unavailable where the database does not answer and they are older."""
        with self._lock:
            if self._measured is None or time.monotonic() >= self._until:
                self._measured = database.read(measure)
                self._until = time.monotonic() + _KEPT_SECONDS
            return self._measured
