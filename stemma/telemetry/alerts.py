"""Alerts of what calls to models do and cost: told once each, to the Historian (`alert`) and to whoever subscribed.

An alert is known by what it is about and when: looking again finds it in the ledger, in whichever process. What a
service's health has to tell is `health`'s business.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid5

from stemma.ledger.change import Change
from stemma.ledger.journal import transition
from stemma.llm import budgets
from stemma.notify.messages import Message
from stemma.notify.outbox import enqueue
from stemma.store.database import Connection

KIND: Final = "alert"

# EDIT HERE: when calls fail too often, when a day is too dear, when a budget is nearly used up.
ERROR_RATE: Final = 0.1
ERROR_CALLS: Final = 20
SPIKE: Final = 3.5
NEAR: Final = 0.8

_HOURS: Final = 6
_HISTORY_DAYS: Final = 28
_FEWEST_DAYS: Final = 7
# What the deviation is at least, as a share of the median and in US dollars: even days are no reason for alarm.
_LEAST_SHARE: Final = 0.05
_LEAST_USD: Final = 0.05
_NORMAL: Final = 0.6745
_ACTOR: Final = "telemetry"
_NAMES: Final = UUID("b1f1b7f0-4a52-4c6b-9a3e-2f8b0c6f5d20")
_FAILING: Final = """
    SELECT provider, count(*), count(*) FILTER (WHERE status = 'error') FROM provider_usage
    WHERE status <> 'cancelled' AND ts > %(since)s AND ts <= %(now)s GROUP BY provider ORDER BY provider
"""
_SPENT: Final = """
    SELECT scope, subject, day, cost_est FROM spending
    WHERE scope IN ('studio', 'agent') AND day BETWEEN %(first)s AND %(last)s ORDER BY scope, subject, day
"""


@dataclass(frozen=True, slots=True)
class Alert:
    """What is to be told. `of` and `when` make it the same alert as another; `data` is JSON without content."""

    topic: str
    of: str
    when: str
    title: str
    text: str
    data: dict[str, Any]

    @property
    def id(self) -> UUID:
        """The id of its ledger entry and of its message."""
        return uuid5(_NAMES, f"{self.topic} {self.of} {self.when}")


@dataclass(frozen=True, slots=True)
class Stale:
    """An asset that is older than its freshness allows, and when it was last materialized."""

    asset: str
    materialized_at: datetime


def due(connection: Connection, stale: Sequence[Stale], now: datetime) -> list[Change[Alert]]:
    """What is to be told now and was not told before."""
    found = [*_failing(connection, now), *_spikes(connection, now.date()), *_budgets(connection), *_stale(stale, now)]
    ids = [alert.id for alert in found]
    told = {known for (known,) in connection.execute("SELECT id FROM ledger WHERE id = ANY(%s)", (ids,))}
    return [_change(alert) for alert in found if alert.id not in told]


def robust_z(value: float, history: Sequence[float]) -> float:
    """How far a value lies above the median of a history, in its median absolute deviations (Iglewicz and Hoaglin,
    How to Detect and Handle Outliers, 1993); the deviation is taken as 5 % of the median and 5 cents at least.
    """
    median = statistics.median(history)
    deviation = statistics.median(abs(one - median) for one in history)
    return _NORMAL * (value - median) / max(deviation, _LEAST_SHARE * median, _LEAST_USD)


def _failing(connection: Connection, now: datetime) -> Iterator[Alert]:
    rows = connection.execute(_FAILING, {"since": now - timedelta(hours=1), "now": now})
    quarter = f"{now.astimezone(UTC):%Y-%m-%d} {now.astimezone(UTC).hour // _HOURS}"
    for provider, calls, errors in rows:
        if calls >= ERROR_CALLS and errors > ERROR_RATE * calls:
            text = f"{errors:,} of the last hour's {calls:,} calls to {provider} failed."
            data = {"provider": provider, "calls": calls, "errors": errors}
            yield Alert("alert.error_rate", f"provider/{provider}", quarter, f"{provider} fails", text, data)


def _spikes(connection: Connection, today: date) -> Iterator[Alert]:
    first = today - timedelta(days=_HISTORY_DAYS)
    spent: dict[str, dict[date, Decimal]] = defaultdict(dict)
    for scope, subject, day, cost in connection.execute(_SPENT, {"first": first, "last": today}):
        spent[f"{scope}/{subject}".rstrip("/")][day] = cost
    for whose, days in spent.items():
        cost = days.pop(today, Decimal(0))
        if len(days) < _FEWEST_DAYS:
            continue
        # A day on which nothing was called is a day, too.
        begun = (today - min(days)).days
        history = [float(days.get(today - timedelta(days=back), 0)) for back in range(1, begun + 1)]
        z = robust_z(float(cost), history)
        if z > SPIKE:
            usual = statistics.median(history)
            text = f"{today} costs ${cost:.2f} so far; the median of the {begun} days before is ${usual:.2f}."
            data = {"of": whose, "day": str(today), "cost": f"{cost:.4f}", "median": round(usual, 4), "z": round(z, 2)}
            yield Alert("alert.cost_spike", whose, str(today), f"{whose}: a dear day", text, data)


def _budgets(connection: Connection) -> Iterator[Alert]:
    for stand in budgets.standings(connection):
        if stand.share < NEAR:
            continue
        budget = stand.budget
        whose = f"{budget.scope}/{budget.subject}".rstrip("/")
        level = "used up" if stand.share >= 1 else "nearly used up"
        text = f"{stand.share:.0%} of the budget of {whose} for this {budget.period} is used."
        data = {"budget": str(budget.id), "of": whose, "period": budget.period, "share": round(stand.share, 4)}
        # A budget that is set anew is another matter.
        when = f"{stand.begun} {level} {budget.set_at.isoformat()}"
        yield Alert("alert.budget", f"budget/{budget.id}", when, f"The budget of {whose} is {level}", text, data)


def _stale(stale: Iterable[Stale], now: datetime) -> Iterator[Alert]:
    for one in stale:
        text = f"{one.asset} was materialized last on {one.materialized_at:%Y-%m-%d at %H:%M} UTC."
        data = {"asset": one.asset, "materialized_at": one.materialized_at.isoformat()}
        yield Alert("alert.stale_asset", f"asset/{one.asset}", str(now.date()), f"{one.asset} is stale", text, data)


def _change(alert: Alert) -> Change[Alert]:
    told = {"topic": alert.topic, "text": alert.text, **alert.data}
    entry = replace(transition(KIND, subject=alert.of, actor=_ACTOR, data=told), id=alert.id)
    message = Message(alert.topic, alert.title, alert.text, alert.data, id=alert.id)
    return Change((entry,), (enqueue(message),), lambda _: alert)
