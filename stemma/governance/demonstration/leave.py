"""Requests for leave and balances of leave, made up from a seed: no person stands behind them.

They show a second node at work. What came of a request is drawn, too: the fuller the office, the likelier was it
covered.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid5

from stemma.governance.events.model import NewEvent

REQUESTED: Final = "LeaveRequested"
REPORTED: Final = "LeaveBalanceReported"
_PEOPLE: Final = 6
_SEED: Final = 5
_IDS: Final = UUID("0b8f2f0c-6f5e-4b0a-9d0e-5f1c9a3d7e21")
_YEAR: Final = 2025
_DAYS_OF_A_YEAR: Final = 28.0
_LONGEST: Final = {"annual": (1, 2, 3, 5, 8, 10, 12), "sick": (1, 2, 3, 4), "unpaid": (2, 5), "parental": (20,)}
_OFTEN: Final = {"annual": 12, "sick": 5, "unpaid": 2, "parental": 1}
_REPORTED_ON: Final = 25


@dataclass(frozen=True, slots=True)
class Request:
    """A request for leave, and what came of it where it was granted."""

    event: NewEvent
    metrics: dict[str, bool]
    observed_at: datetime


def balances_and_requests() -> Iterator[NewEvent | Request]:
    """A balance of each person for each month of 2025, and a request in each month after the first; the same every
    time.
    """
    chance = random.Random(_SEED)  # noqa: S311 - the same sample every time
    left = dict.fromkeys(range(1, _PEOPLE + 1), _DAYS_OF_A_YEAR)
    away = dict.fromkeys(left, 0.2)
    for month in range(1, 13):
        for person in left:
            if month > 1:
                yield _request(chance, person, month, left, away[person])
        for person in left:
            away[person] = chance.choice((0.1, 0.2, 0.2, 0.3, 0.5))
            data = {"days_left": left[person], "team_away": away[person]}
            yield _event(REPORTED, person, datetime(_YEAR, month, _REPORTED_ON, 8, person, tzinfo=UTC), data)


def _request(chance: random.Random, person: int, month: int, left: dict[int, float], away: float) -> Request:
    (kind,) = chance.choices(list(_OFTEN), list(_OFTEN.values()))
    days = chance.choice(_LONGEST[kind])
    notice = 0 if kind == "sick" else chance.randint(0, 30)
    at = datetime(_YEAR, month, chance.randint(2, 20), chance.randint(7, 17), person, tzinfo=UTC)
    event = _event(REQUESTED, person, at, {"kind": kind, "days": days, "notice_days": notice})
    if kind == "annual" and days <= left[person]:
        left[person] -= days
    covered = chance.random() > away / 2
    return Request(event, {"covered": covered, "regretted": chance.random() < 0.05}, at + timedelta(days=2))


def _event(kind: str, person: int, at: datetime, data: Mapping[str, Any]) -> NewEvent:
    name = f"employee/{person}"
    return NewEvent(kind, data, occurred_at=at, entity=name, id=uuid5(_IDS, f"{kind}/{name}/{at.isoformat()}"))
