"""Learning over HTTP: how variants stand, promotions, and what another policy says."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from stemma.governance import policies
from stemma.store.database import Database
from stemma.store.settings import Settings

API = "/api/v1"
COUNT = 60


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


@pytest.fixture
def desk(settings: Settings, database: Database, client: httpx.Client, open_desk: Callable[..., None]) -> httpx.Client:
    open_desk(settings, database, COUNT)
    return client


def teach(database: Database, variant: str, successes: int, failures: int) -> None:
    with database.transaction() as connection:
        connection.execute(
            "UPDATE policy_variants_stats SET successes = %s, failures = %s WHERE node = 'desk' AND variant = %s",
            (successes, failures, variant),
        )


def test_what_was_learned_is_told(desk: httpx.Client, database: Database) -> None:
    stand = desk.get(f"{API}/learning/desk").json()
    assert stand["policy"] == "desk.asked@1.0.0" and sum(one["draws"] for one in stand["variants"]) == COUNT
    assert sum(one["propensity"] for one in stand["variants"]) == pytest.approx(1)
    assert all(one["low"] < one["mean"] < one["high"] for one in stand["variants"])
    worth = desk.get(f"{API}/evaluation", params={"policy": "desk.asked", "variant": "generous", "metric": "profit"})
    assert worth.json()["ips"]["low"] < worth.json()["doubly_robust"]["estimate"] < worth.json()["ips"]["high"]
    saved = desk.get(f"{API}/learning/desk/savings", params={"metric": "profit"}).json()
    assert saved["observed"]["count"] + sum(group["count"] for group in saved["not_given"]) == COUNT
    assert {one["model"] for one in saved["not_given"][0]["models"]} == {"nearest", "regression"}
    again = desk.get(f"{API}/replay", params={"policy": "desk.asked@1.0.0", "variant": "generous", "last": 20}).json()
    assert again["compared"] == 20 and again["verdicts"] == len(again["differences"])
    said = database.read(lambda c: policies.find(c, "desk.asked")).content
    policy = {
        "name": "desk.asked",
        "version": "1.1.0",
        "changelog": "None.",
        **said["policy"],
        "parameters": {"usual": 0},
    }
    texts = {"policy": json.dumps(policy), "tests": json.dumps({"cases": said["tests"]})}
    simulated = desk.post(f"{API}/policies/simulate", json=texts)
    assert simulated.status_code == 200 and simulated.json()["verdicts"]["approve"] == COUNT // 4


def test_a_better_variant_is_proposed_once(desk: httpx.Client, database: Database) -> None:
    assert code(desk.post(f"{API}/promotions", json={"node": "desk"})) == (409, "nothing_to_promote")
    teach(database, "baseline", 700, 300)
    teach(database, "generous", 800, 200)
    proposed = desk.post(f"{API}/promotions", json={"node": "desk"})
    assert proposed.status_code == 201 and proposed.json()["variant"] == "generous"
    assert code(desk.post(f"{API}/promotions", json={"node": "desk"})) == (409, "promotion_open")
    assert desk.get(f"{API}/promotions", params={"node": "desk", "state": "proposed"}).json()["data"] == [
        proposed.json()
    ]
    assert desk.get(f"{API}/promotions/{proposed.json()['id']}").json() == proposed.json()
    approval = desk.get(f"{API}/approvals/{proposed.json()['approval_id']}").json()
    assert approval["kind"] == "promotion" and approval["state"] == "pending"


def test_what_is_not_there_or_cannot_be_used_is_told(client: httpx.Client) -> None:
    none = "00000000-0000-0000-0000-000000000001"
    for path in ("learning/none", "learning/none/savings", f"promotions/{none}", "shadow/none"):
        assert client.get(f"{API}/{path}").status_code == 404
    for path in ("replay", "evaluation"):
        assert code(client.get(f"{API}/{path}", params={"policy": "none"})) == (404, "policy_unknown")
        assert code(client.get(f"{API}/{path}")) == (422, "request_invalid")
    assert code(client.post(f"{API}/promotions", json={"node": "none"})) == (404, "node_unknown")
    wrong = client.post(f"{API}/policies/simulate", json={"policy": "name: x", "tests": "cases: []"})
    assert code(wrong) == (422, "policy_invalid")
    assert code(client.get(f"{API}/promotions", params={"cursor": "x"})) == (422, "cursor_invalid")
