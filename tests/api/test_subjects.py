"""Erasing a subject over HTTP: by whom, what it answers, and that nothing keeps the name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from api.app import create_app
from stemma.access.permissions import Role
from stemma.ledger.entries import Entry, NewEntry
from stemma.ledger.service import Ledger
from stemma.personal.sealing import ERASED, Sealer, reveal
from stemma.store.database import Database
from stemma.store.settings import Settings

PATH = "/api/v1/subjects/erase"


@pytest.fixture
def entry(database: Database, settings: Settings) -> Entry:
    """An entry that says something of Ada Lovelace."""
    with Ledger(database.urls, settings) as ledger, database.transaction() as connection:
        sealer = Sealer(connection, settings)
        data = {"mail": sealer.seal(sealer.subject("Ada Lovelace"), "ada@example.org", path="/mail")}
        change = sealer.change([NewEntry("decisions:care", "visit", "user:nurse", "ward/7", data)], lambda e: e[0])
        return ledger.commit(change).result(20)


def everything_stored(database: Database) -> str:
    tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    with database.owner() as connection:
        names = [name for (name,) in connection.execute(tables).fetchall()]
        assert {"ledger", "subject_keys", "kept_answers"} <= set(names)
        rows = [connection.execute(f'SELECT t::text FROM "{name}" t').fetchall() for name in names]
        bodies = connection.execute("SELECT convert_from(body, 'UTF8') FROM ledger").fetchall()
    return repr((rows, bodies))


def test_a_subject_is_erased_and_nothing_keeps_the_name(
    client: httpx.Client, entry: Entry, database: Database, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wanted = {"subject": " ADA lovelace"}
    first = client.post(PATH, json=wanted, headers={"Idempotency-Key": "one"})
    assert first.status_code == 200
    body = first.json()
    assert body["sealed"] == [{"chain": "decisions:care", "fields": 1}] and body["again"] is False
    repeated = client.post(PATH, json=wanted, headers={"Idempotency-Key": "one"})
    assert repeated.json() == body and repeated.headers["Idempotency-Replayed"] == "true"
    again = client.post(PATH, json=wanted)
    assert again.status_code == 200 and again.json() == {**body, "sealed": [], "again": True}
    with database.snapshot() as connection:
        assert reveal(connection, settings, entry.data) == {"mail": ERASED}
    kept = (everything_stored(database) + caplog.text + first.text).casefold()
    assert "lovelace" not in kept and "ada@example" not in kept


def test_what_cannot_be_erased_is_a_clear_problem_without_the_name(client: httpx.Client, entry: Entry) -> None:
    unknown = client.post(PATH, json={"subject": "Grace Hopper"})
    assert unknown.status_code == 404 and unknown.json()["code"] == "subject_unknown"
    answers = [unknown]
    for body in ({}, {"subject": ""}, {"subject": 7}, {"subject": "Grace" * 200}, {"subject": "G", "Grace": 1}, []):
        answers.append(client.post(PATH, json=body))
    answers.append(client.post(PATH, json={"subject": "Grace\u202eHopper"}))
    assert [answer.status_code for answer in answers[1:]] == [422] * 7
    assert not any("Grace Hopper" in answer.text or "GraceGrace" in answer.text for answer in answers)


def test_erasing_takes_the_permission(
    settings: Settings,
    database: Database,
    entry: Entry,
    serve: Any,
    issue_key: Callable[..., Any],
) -> None:
    denied = issue_key(settings, database.urls, role=Role.ADMIN).key
    app = create_app(settings, database=database)
    with serve(app, key=denied) as admin:
        assert admin.post(PATH, json={"subject": "Ada Lovelace"}).status_code == 403
    with database.snapshot() as connection:
        assert reveal(connection, settings, entry.data) == {"mail": "ada@example.org"}
