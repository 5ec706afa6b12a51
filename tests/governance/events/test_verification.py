"""Whoever owns the database can change events, and is found out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from stemma.access.principal import local_principal
from stemma.governance.events import recording, types, verification
from stemma.governance.events.model import NewEvent
from stemma.ledger.change import Change
from stemma.store.database import Database

INSERT = """
    INSERT INTO events (id, type, type_version, occurred_at, received_at, actor, data, sha256)
    SELECT gen_random_uuid(), type, type_version, occurred_at, received_at, actor, data, sha256 FROM events LIMIT 1
"""


@pytest.fixture
def recorded(database: Database, commit: Callable[[Change[Any]], Any], asked_type: str) -> Database:
    """A database with batches of 1, 3, 2 and 1 events."""
    commit(database.read(lambda c: types.publish(c, local_principal(), asked_type)))
    at = datetime(2025, 3, 1, tzinfo=UTC)
    values = iter([1.5, -0.0, 1e-300, 2**53 - 1, 0.1, 12345678.9, 3])
    for count in (1, 3, 2, 1):
        events = [NewEvent("Asked", {"amount": next(values), "note": "ü"}, at, "acme") for _ in range(count)]
        commit(database.read(lambda c, events=events: recording.record(c, local_principal(), events)))
    return database


def codes(database: Database) -> list[str]:
    return [finding.code for finding in database.read(lambda c: list(verification.check(c)))]


def test_what_was_recorded_fits(recorded: Database) -> None:
    assert codes(recorded) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("UPDATE events SET data = '{\"amount\": 9}' WHERE position = 3", ["event_edited"]),
        ("UPDATE events SET entity = NULL WHERE position = 1", ["event_edited"]),
        ("UPDATE events SET occurred_at = occurred_at + interval '1 microsecond' WHERE position = 7", ["event_edited"]),
        ("DELETE FROM events WHERE position = 1", ["events_changed"]),
        ("DELETE FROM events WHERE position = 2", ["event_unrecorded"] * 2 + ["events_changed"]),
        ("DELETE FROM events WHERE position = 3", ["events_changed"]),
        ("DELETE FROM events WHERE position = 4", ["events_changed"]),
        ("DELETE FROM events WHERE position >= 5", ["events_changed"] * 2),
        (INSERT, ["event_edited", "event_unrecorded"]),
    ],
)
def test_what_was_changed_is_found(recorded: Database, change: str, found: list[str]) -> None:
    with recorded.owner() as connection:
        connection.execute("ALTER TABLE events DISABLE TRIGGER append_only")
        connection.execute(change)
    assert codes(recorded) == found
