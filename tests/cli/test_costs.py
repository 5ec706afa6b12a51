"""`stemma costs`, `usage` and `budgets` over some days on which models were called."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stemma.store.database import Database
from stemma.telemetry import costs, error_budget, latency
from stemma.telemetry.days import Span

Stemma = Callable[..., Any]


def test_costs_and_usage_are_shown(
    database: Database, add_usage: Callable[..., None], done: Stemma, stemma: Stemma
) -> None:
    assert "Nothing is summed up yet" in stemma("costs", "daily").out
    assert "No model was called." in stemma("usage").out
    first = datetime.now(UTC).date() - timedelta(days=20)
    add_usage(database, first, 19, 30)
    span = Span(first, first + timedelta(days=18))
    for module in (costs, latency, error_budget):
        module.sync_days(database, span)
    costs.sync_weeks(database, span)
    days = done("costs", "daily", "--days", "40")["data"]
    assert len(days) == 19 and {day["calls"] for day in days} == {32}
    assert sum(week["calls"] for week in done("costs", "weekly")["data"]) == 19 * 32
    assert sum(model["calls"] for model in done("costs", "models")["data"]) == 19 * 30
    assert {one["by"] for one in done("costs", "latency")["data"]} == {"all", "provider", "model", "agent", "route"}
    assert done("costs", "error-budget")["data"][0]["name"] == "models"
    assert "yet" not in stemma("costs", "models").out
    page = done("usage", "--provider", "local", "--limit", "3")
    assert [use["provider"] for use in page["data"]] == ["local"] * 3
    assert "unknown" in stemma("usage", "--provider", "local").out


@pytest.mark.usefixtures("settings")
def test_budgets_are_set_listed_and_removed(done: Stemma, stemma: Stemma) -> None:
    assert "There is no budget" in stemma("budgets", "list").out
    made = done("budgets", "set", "agent", "nova", "--per", "month", "--usd", "5.00", "--tokens", "1000")
    assert "$5.00" in stemma("budgets", "list").out
    (listed,) = done("budgets", "list")["data"]
    assert (listed["budget"]["id"], listed["share"]) == (made["id"], 0)
    assert "removed" in stemma("budgets", "remove", made["id"]).out
    assert stemma("budgets", "remove", made["id"]).code == 3


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("everyone", "--usd", "1"), "has no budgets"),
        (("studio", "--per", "year", "--usd", "1"), "is no period"),
        (("studio", "--usd", "much"), "is no amount"),
        (("key", "x", "--tokens", "1"), "not the id of a key"),
    ],
)
def test_a_budget_that_makes_no_sense_is_one_line(stemma: Stemma, arguments: tuple[str, ...], told: str) -> None:
    ended = stemma("budgets", "set", *arguments)
    assert ended.code == 2 and told in ended.err and ended.err.count("\n") <= 2
