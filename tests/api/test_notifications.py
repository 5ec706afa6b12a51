"""Notifications over HTTP: listed in pages, and sent again once they failed."""

from __future__ import annotations

from uuid import UUID

import httpx
import pytest

from stemma.store.database import Database

INSERT = """
    WITH message AS (
        INSERT INTO notifications (id, topic, title, text, data, created_at, routed_at)
        VALUES (gen_random_uuid(), 'run.failed', 'Run failed', 'Because.', '{}', now(), now()) RETURNING id
    )
    INSERT INTO notification_deliveries
        (id, notification_id, channel, state, attempts, next_attempt_at, deadline, settled_at, error_code, error)
    SELECT gen_random_uuid(), id, %s, %s, 1, now(), now(), CASE WHEN %s = 'pending' THEN NULL ELSE now() END,
        'http_404', 'The receiver answered with status 404.' FROM message
"""


@pytest.fixture
def told(database: Database) -> None:
    """Three deliveries that failed, one that waits."""
    with database.transaction() as connection:
        for channel, state in [("team", "failed"), ("team", "failed"), ("mail", "failed"), ("mail", "pending")]:
            connection.execute(INSERT, (channel, state, state))


def test_they_are_listed_and_sent_again(client: httpx.Client, told: None) -> None:
    first = client.get("/api/v1/notifications", params={"limit": 3}).json()
    rest = client.get("/api/v1/notifications", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    assert len({row["id"] for row in first["data"] + rest["data"]}) == 4 and rest["next_cursor"] is None
    failed = client.get("/api/v1/notifications", params={"state": "failed", "channel": "team"}).json()["data"]
    assert len(failed) == 2 and failed[0]["error_code"] == "http_404" and failed[0]["next_attempt_at"] is None
    address = f"/api/v1/notifications/{failed[0]['id']}/retry"
    headers = {"Idempotency-Key": "again"}
    answers = [client.post(address, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200] and answers[0].json() == answers[1].json()
    assert answers[0].json()["state"] == "pending" and answers[0].json()["settled_at"] is None
    refused = client.post(address)
    assert (refused.status_code, refused.json()["code"]) == (409, "notification_not_failed")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/notifications?state=lost", 422),
        ("GET", "/api/v1/notifications?cursor=nonsense", 422),
        ("POST", f"/api/v1/notifications/{UUID(int=0)}/retry", 404),
        ("POST", "/api/v1/notifications/nonsense/retry", 422),
    ],
)
def test_what_cannot_be_answered_says_why(visitor: httpx.Client, method: str, path: str, status: int) -> None:
    answer = visitor.request(method, path)
    assert answer.status_code == status and answer.json()["code"]
