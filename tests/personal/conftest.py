"""Entries that say something personal of someone, on a ledger whose heads nobody signs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stemma.access.principal import local_principal
from stemma.ledger.change import Change
from stemma.ledger.entries import Entry, NewEntry
from stemma.ledger.writer import LedgerWriter
from stemma.personal import erasure
from stemma.personal.erasure import Erasure
from stemma.personal.sealing import Sealer, reveal
from stemma.store.database import Database
from stemma.store.settings import Settings

Commit = Callable[[Change[Any]], Any]

CHAIN = "decisions:care"
SCHEMA = {
    "type": "object",
    "x-subject": "/patient",
    "properties": {
        "patient": {"type": "string", "x-personal": True},
        "notes": {"type": "array", "items": {"type": "string", "x-personal": True}},
        "ward": {"type": "integer"},
    },
}


@pytest.fixture
def commit(database: Database) -> Iterator[Commit]:
    """Write a change; returns its result."""
    with LedgerWriter(database.urls.app) as writer:
        yield lambda change: change.result(writer.append(change.entries, change.companions).result(20))


@pytest.fixture
def record(database: Database, settings: Settings, commit: Commit) -> Callable[..., Entry]:
    """Append an entry that says something of a person, their name and the notes sealed."""

    def append(patient: str, *notes: str, chain: str = CHAIN) -> Entry:
        with database.transaction() as connection:
            sealer = Sealer(connection, settings)
            data = sealer.seal_marked(SCHEMA, {"patient": patient, "notes": list(notes), "ward": 7})
            entry = NewEntry(chain, "visit", "user:nurse", sealer.subject(patient).reference, data)
            change = sealer.change([entry], lambda entries: entries[0])
        return commit(change)

    return append


@pytest.fixture
def shown(database: Database, settings: Settings) -> Callable[[Entry], dict[str, Any]]:
    """What an entry's data reveal now."""

    def read(entry: Entry) -> dict[str, Any]:
        with database.snapshot() as connection:
            return reveal(connection, settings, entry.data)

    return read


@pytest.fixture
def erase(database: Database, settings: Settings, commit: Commit) -> Callable[[str], Erasure]:
    """Erase a subject, as the faces do."""

    def run(name: str) -> Erasure:
        with database.transaction() as connection:
            planned = erasure.plan(connection, settings, name)
            erasure.destroy_key(connection, settings, planned)
        return commit(erasure.erase(local_principal(), planned))

    return run
