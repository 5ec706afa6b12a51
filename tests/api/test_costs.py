"""Usage, budgets and costs over HTTP, and the figures that anybody may know."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx

from stemma.store.database import Database
from stemma.telemetry import costs, error_budget, latency
from stemma.telemetry.days import Span

API = "/api/v1"


def test_what_was_used_and_cost_is_listed(
    client: httpx.Client, database: Database, add_usage: Callable[..., None]
) -> None:
    first = datetime.now(UTC).date() - timedelta(days=9)
    add_usage(database, first, 8, 30)
    span = Span(first, first + timedelta(days=7))
    for module in (costs, latency, error_budget):
        module.sync_days(database, span)
    costs.sync_weeks(database, span)
    page = client.get(f"{API}/usage", params={"agent": "nova", "limit": 5}).json()
    assert {use["agent"] for use in page["data"]} == {"nova"} and len(page["data"]) == 5
    following = client.get(f"{API}/usage", params={"agent": "nova", "limit": 5, "cursor": page["next_cursor"]}).json()
    assert following["data"][0]["id"] < page["data"][-1]["id"]
    days = client.get(f"{API}/costs/daily").json()["data"]
    assert [day["calls"] for day in days] == [32] * 8 and all(isinstance(day["cost"], str) for day in days)
    assert sum(week["calls"] for week in client.get(f"{API}/costs/weekly").json()["data"]) == 8 * 32
    assert sum(model["calls"] for model in client.get(f"{API}/costs/models").json()["data"]) == 8 * 30
    routes = client.get(f"{API}/costs/latency", params={"by": "route"}).json()["data"]
    assert {one["name"] for one in routes} == {"/api/v1/llm/run", "/api/v1/agents/{name}"}
    budget = client.get(f"{API}/costs/error-budget").json()
    assert budget["objective"] == 0.99 and budget["data"][0]["name"] == "models"
    refused = client.get(f"{API}/costs/latency", params={"by": "actor"})
    assert refused.status_code == 422
    assert client.get(f"{API}/usage", params={"cursor": "x"}).json()["code"] == "cursor_invalid"


def test_budgets_are_set_once_and_removed(client: httpx.Client) -> None:
    wanted = {"scope": "studio", "period": "day", "limit_usd": "2.50"}
    headers = {"Idempotency-Key": "budget-1"}
    first, second = (client.put(f"{API}/budgets", json=wanted, headers=headers) for _ in range(2))
    assert first.status_code == 200 and second.json() == first.json()
    (listed,) = client.get(f"{API}/budgets").json()["data"]
    assert listed["budget"]["limit_usd"] == "2.5000000000" and listed["share"] == 0
    assert client.delete(f"{API}/budgets/{first.json()['id']}").status_code == 200
    gone = client.delete(f"{API}/budgets/{first.json()['id']}")
    assert (gone.status_code, gone.json()["code"]) == (404, "budget_not_found")
    refused = client.put(f"{API}/budgets", json={"scope": "studio", "period": "day"})
    assert (refused.status_code, refused.json()["code"]) == (422, "budget_unlimited")


def test_anybody_may_know_how_the_studio_stands(client: httpx.Client) -> None:
    answer = httpx.get(client.base_url.join(f"{API}/metrics.json"))
    assert answer.status_code == 200 and answer.json()["status"] == "ok"
    assert set(answer.json()) == {
        "as_of", "status", "services", "calls", "error_rate", "latency_p50", "latency_p95", "latency_p99",
        "error_budget_left",
    }  # fmt: skip
