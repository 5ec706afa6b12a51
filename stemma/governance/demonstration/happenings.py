"""What happens in the demonstration, in the order of time: each event, who decides it, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from stemma.governance.demonstration.leave import Request, balances_and_requests
from stemma.governance.events import superstore
from stemma.governance.events.model import NewEvent

FINANCE: Final = "finance"
PEOPLE: Final = "hr"
METRIC: Final = "profit"


@dataclass(frozen=True, slots=True)
class Happening:
    """An event of the samples; `node` decides it, or nobody does where it is None. `metrics` is what came of it in the
    sample, observed at `observed_at`; the demonstration tells of it only where the request was given.
    """

    event: NewEvent
    at: datetime
    node: str | None = None
    metrics: Mapping[str, bool | float] | None = None
    observed_at: datetime | None = None


def happenings(*, orders: int = superstore.ROWS, days: int = superstore.DAYS) -> tuple[Happening, ...]:
    """The first `orders` sample orders spread over `days` from the first day of 2025 on, with what is made up of leave
    in these days; the same every time.

    Raises Unavailable, CheckFailed where the sample orders cannot be read.
    """
    asked = [
        Happening(order.event, _at(order.event), FINANCE, order.metrics, order.observed_at)
        for order in superstore.orders(at_most=orders, days=days)
    ]
    last = asked[-1].at
    return tuple(sorted((*asked, *(one for one in _leave() if one.at <= last)), key=lambda one: one.at))


def profits(found: tuple[Happening, ...]) -> dict[UUID, float]:
    """The profit of every order, given or not: what only the sample knows."""
    return {one.event.id: float(one.metrics[METRIC]) for one in found if one.node == FINANCE and one.metrics}


def _leave() -> list[Happening]:
    return [
        Happening(one.event, _at(one.event), PEOPLE, one.metrics, one.observed_at)
        if isinstance(one, Request)
        else Happening(one, _at(one))
        for one in balances_and_requests()
    ]


def _at(event: NewEvent) -> datetime:
    assert event.occurred_at is not None
    return event.occurred_at
