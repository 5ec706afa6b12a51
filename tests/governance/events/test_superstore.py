"""The sample orders are the ones known, become valid events, and are the same every time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from stemma.errors import CheckFailed
from stemma.governance.events import recording, superstore
from stemma.governance.events.types import load
from stemma.store.database import Database


def test_every_order_is_a_valid_request_with_its_profit(published: Database) -> None:
    orders = list(superstore.orders())
    assert len(orders) == len({order.event.id for order in orders}) == superstore.ROWS
    kind = published.read(lambda c: load(c, superstore.EVENT_TYPE))
    for order in orders[::50]:
        recording.check(order.event, kind)
    first, last = orders[0], orders[-1]
    assert first.event.data["amount"] == 261.96 and first.metrics == {"profit": 41.9136}
    assert first.event.entity == "Consumer/42420" and first.event.occurred_at == datetime(2025, 1, 1, tzinfo=UTC)
    assert last.event.occurred_at is not None and last.event.occurred_at.date() == date(2025, 12, 31)
    assert last.observed_at - last.event.occurred_at == timedelta(days=1)
    # Sold for 22.368 after a discount of a fifth.
    assert (orders[4].event.data["discount"], orders[4].event.data["amount"]) == (0.2, 27.96)
    assert sum(order.metrics["profit"] > 0 for order in orders) == 8_058


def test_orders_are_the_same_every_time_and_others_elsewhere() -> None:
    some = list(superstore.orders(at_most=50, days=10))
    assert some == list(superstore.orders(at_most=50, days=10))
    moved = list(superstore.orders(at_most=50, days=10, first_day=date(2025, 2, 1)))
    assert {order.event.id for order in some}.isdisjoint(order.event.id for order in moved)
    assert [order.event.data for order in some] == [order.event.data for order in moved]


def test_a_file_that_is_another_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superstore, "_SHA256", "0" * 64)
    with pytest.raises(CheckFailed):
        next(superstore.orders())
