"""Runs of papers' plans over HTTP: asked for, followed, cancelled and looked at."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from psycopg.types.json import Jsonb

from stemma.papers.runs.recorder import Recorder
from stemma.store.database import Database

UNKNOWN = "8e03978e-40d5-43dd-bc93-6894a57f9324"


@pytest.fixture
def plan(database: Database) -> tuple[str, str]:
    """A stored paper and its plan."""
    paper_id, plan_id, now = uuid4(), uuid4(), datetime.now(UTC)
    target = {
        "claim": str(uuid4()), "metric": "accuracy", "split": "test", "label": "a", "claimed": 0.5, "printed": "0.5",
        "decimals": 1, "unit": None, "tolerance": 0.1, "page": 1, "box": [0, 0, 1, 1], "quote": "0.5",
    }  # fmt: skip
    document = {
        "title": "A paper",
        "targets": [target],
        "dataset": {"name": "none", "package": "numpy", "loader": "none"},
        "method": {"name": "none", "description": "Nothing"},
        "environment": {"packages": []},
        "notebook": [{"source": "1"}],
    }
    with database.transaction() as connection:
        connection.execute(
            """
            INSERT INTO p2n.papers (id, sha256, title, kind, source, source_ref, file_key, bytes, pages, status,
                created_at, created_by, updated_at)
            VALUES (%s, '', 'A paper', 'claim_sheet', 'sample', 'a.pdf', 'papers/a.pdf', 1, 1, 'planned', %s, 't', %s)
            """,
            (paper_id, now, now),
        )
        connection.execute(
            """
            INSERT INTO p2n.plans (id, paper_id, version, document, sha256, origin, created_at, created_by)
            VALUES (%s, %s, 1, %s, '', 'person', %s, 't')
            """,
            (plan_id, paper_id, Jsonb(document), now),
        )
    return str(paper_id), str(plan_id)


def ask(client: httpx.Client, plan_id: str) -> str:
    asked = client.post(f"/api/v1/plans/{plan_id}/run")
    assert asked.status_code == 202, asked.text
    return str(asked.json()["run_id"])


def events(answer: httpx.Response) -> list[tuple[str, str, Any]]:
    found = []
    for block in answer.text.strip().split("\n\n"):
        facts = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        found.append((facts["id"], facts["event"], json.loads(facts["data"])))
    return found


def test_a_run_is_asked_for_followed_and_cancelled(
    client: httpx.Client, database: Database, plan: tuple[str, str]
) -> None:
    paper_id, plan_id = plan
    run_id = ask(client, plan_id)
    shown = client.get(f"/api/v1/papers/{paper_id}/runs/{run_id}").json()
    assert (shown["status"], shown["plan_id"], shown["artifacts"]) == ("pending", plan_id, [])
    assert [run["id"] for run in client.get(f"/api/v1/papers/{paper_id}/runs").json()["data"]] == [run_id]
    with Recorder(database, UUID(run_id)) as recorder:
        recorder.tell("log_line", "a: line")
        recorder.tell("metric_update", {"metric": "accuracy", "split": "test", "value": 0.5})
    cancelled = client.post(f"/api/v1/runs/{run_id}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    told = events(client.get(f"/api/v1/runs/{run_id}/events"))
    assert [(number, kind) for number, kind, _ in told] == [
        ("1", "log_line"),
        ("2", "metric_update"),
        ("3", "stage_update"),
    ]
    assert told[0][2] == "a: line"
    assert told[2][2]["stage"] == "run_cancelled"
    resumed = client.get(f"/api/v1/runs/{run_id}/events", headers={"Last-Event-ID": "2"})
    assert events(resumed) == told[2:]
    again = client.post(f"/api/v1/runs/{run_id}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "paper_run_cancelled")
    (job,) = client.get("/api/v1/jobs").json()["data"]
    assert (job["kind"], job["state"]) == ("paper:run", "cancelled")


def test_what_there_is_not_is_not_found(client: httpx.Client, plan: tuple[str, str]) -> None:
    paper_id, plan_id = plan
    run_id = ask(client, plan_id)
    answers = [
        client.post(f"/api/v1/plans/{UNKNOWN}/run"),
        client.get(f"/api/v1/papers/{UNKNOWN}/runs"),
        client.get(f"/api/v1/papers/{paper_id}/runs/{UNKNOWN}"),
        client.get(f"/api/v1/papers/{UNKNOWN}/runs/{run_id}"),
        client.get(f"/api/v1/runs/{UNKNOWN}/events"),
        client.post(f"/api/v1/runs/{UNKNOWN}/cancel"),
    ]
    assert [answer.status_code for answer in answers] == [404] * 6
    other = client.post(f"/api/v1/plans/{plan_id}/run", json={"alternative": "nowhere"})
    assert (other.status_code, other.json()["code"]) == (422, "alternative_unknown")
    ahead = client.get(f"/api/v1/runs/{run_id}/events", headers={"Last-Event-ID": "7"})
    assert (ahead.status_code, ahead.json()["code"]) == (422, "last_event_id_invalid")
