"""Events and outcomes over HTTP: in batches, once, and refused with the place of what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from stemma.access.principal import local_principal
from stemma.governance.samples import FOLDER, publish_samples
from stemma.ledger.service import Ledger
from stemma.store.database import Database
from stemma.store.settings import Settings

EVENTS = "/api/v1/events"
TYPES = "/api/v1/event-types"
REPORTED = (FOLDER / "event_types" / "LeaveBalanceReported.yaml").read_text()


@pytest.fixture
def studio(settings: Settings, database: Database, client: httpx.Client) -> Iterator[httpx.Client]:
    """A client of a studio in which the samples are published."""
    with Ledger(database.urls, settings) as ledger:
        publish_samples(database, ledger, local_principal())
    yield client


def reported(**more: Any) -> dict[str, Any]:
    return {"type": "LeaveBalanceReported", "data": {"days_left": 12, "team_away": 0.2}, "entity": "e/1", **more}


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def test_events_are_recorded_and_found(studio: httpx.Client) -> None:
    sent = [reported(id=str(uuid4()), occurred_at=f"2025-03-0{day}T12:00:00+01:00") for day in (1, 2)]
    answer = studio.post(EVENTS, json={"events": sent})
    assert answer.status_code == 201
    assert [event["id"] for event in answer.json()["data"]] == [event["id"] for event in sent]
    one = studio.get(f"{EVENTS}/{sent[0]['id']}").json()
    assert one["data"] == sent[0]["data"] and one["type_version"] == "1.0.0" and one["actor"].startswith("key:")
    assert studio.get(EVENTS, params={"since": "2025-03-02T00:00:00Z"}).json()["data"][0]["id"] == sent[1]["id"]
    page = studio.get(EVENTS, params={"entity": "e/1", "type": "LeaveBalanceReported", "limit": 1}).json()
    rest = studio.get(EVENTS, params={"limit": 1, "cursor": page["next_cursor"]}).json()
    assert [page["data"][0]["id"], rest["data"][0]["id"]] == [sent[1]["id"], sent[0]["id"]]
    # The path without a prefix takes the same.
    assert studio.post("/events", json={"events": sent}).json() == answer.json()


def test_a_batch_with_one_key_is_recorded_once(studio: httpx.Client) -> None:
    headers = {"Idempotency-Key": str(uuid4())}
    batch = {"events": [reported()] * 3}
    first, second = (studio.post(EVENTS, json=batch, headers=headers) for _ in range(2))
    assert first.content == second.content and second.headers["Idempotency-Replayed"] == "true"
    assert len(studio.get(EVENTS).json()["data"]) == 3
    other = studio.post(EVENTS, json={"events": [reported(entity="other")]}, headers=headers)
    assert code(other) == (422, "idempotency_key_reused")


def test_what_is_wrong_is_refused_whole(studio: httpx.Client) -> None:
    event = reported(id=str(uuid4()))
    for events, expected, field in (
        ([reported(), reported(data={"days_left": -1, "team_away": 0})], (422, "event_data_invalid"),
         "/events/1/data/days_left"),
        ([reported(), reported(type="Nothing")], (422, "event_type_unknown"), "/events/1/type"),
        ([reported(occurred_at="2999-01-01T00:00:00Z")], (422, "event_time_invalid"), "/events/0/occurred_at"),
        ([event, reported(id=event["id"], entity="other")], (409, "event_id_taken"), "/events/1/id"),
        ([reported(correlation_id="x" * 201)], (422, "request_invalid"), None),
        ([reported(occurred_at="2025-01-01T00:00:00")], (422, "request_invalid"), None),
        ([reported(data={"days_left": "\0", "team_away": 0})], (422, "json_not_usable"), None),
        ([reported(unknown=1)], (422, "request_invalid"), None),
        ([], (422, "request_invalid"), None),
        ([reported()] * 1_001, (422, "request_invalid"), None),
        ([reported(data={"days_left": 1, "team_away": 0, "x": "x" * 1_000_000})], (413, "event_too_large"),
         "/events/0/data"),
    ):  # fmt: skip
        refused = studio.post(EVENTS, json={"events": events})
        assert code(refused) == expected, refused.text
        assert field is None or refused.json()["errors"][0]["field"] == field
    number = '{"events": [{"type": "LeaveBalanceReported", "data": {"days_left": 1e999, "team_away": 0}}]}'
    for body in (number, number.replace("1e999", "NaN")):
        refused = studio.post(EVENTS, content=body, headers={"content-type": "application/json"})
        assert refused.status_code == 422
    assert code(studio.post(EVENTS, json={"events": [reported(entity="x" * 9_000_000)]}))[0] == 413
    assert studio.get(EVENTS).json()["data"] == []
    assert code(studio.get(f"{EVENTS}/{uuid4()}")) == (404, "event_unknown")


def test_event_types_are_published_and_opened(client: httpx.Client) -> None:
    published = client.post(TYPES, json={"event_type": REPORTED})
    assert published.status_code == 201 and client.post(TYPES, json={"event_type": REPORTED}).status_code == 201
    assert client.get(TYPES).json()["data"][0]["name"] == "LeaveBalanceReported"
    assert client.get(f"{TYPES}/LeaveBalanceReported@1").json() == published.json()
    changed = client.post(TYPES, json={"event_type": REPORTED.replace("maximum: 1", "maximum: 2")})
    assert code(changed) == (409, "version_taken")
    assert code(client.post(TYPES, json={"event_type": "name: x"})) == (422, "event_type_invalid")
    assert code(client.get(f"{TYPES}/Nothing")) == (404, "event_type_unknown")


def test_outcomes_of_nothing_are_refused(studio: httpx.Client) -> None:
    nobody = uuid4()
    outcome = {"metrics": {"profit": 3}}
    assert code(studio.post(f"/api/v1/outcomes/{nobody}", json=outcome)) == (404, "decision_unknown")
    assert code(studio.post(f"/outcomes/{nobody}", json=outcome)) == (404, "decision_unknown")
    batch = {"outcomes": [{"decision_id": str(nobody), **outcome}]}
    assert code(studio.post("/api/v1/outcomes", json=batch)) == (404, "decision_unknown")
    assert code(studio.post(f"/api/v1/outcomes/{nobody}", json={"metrics": {}})) == (422, "request_invalid")
    assert code(studio.get(f"/api/v1/outcomes/{nobody}")) == (404, "outcome_unknown")
    assert studio.get("/api/v1/outcomes").json() == {"data": [], "next_cursor": None}
