"""Entries to append, waiting for a condition, and a tamperer: the database's owner without its triggers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from stemma.ledger.entries import Entry, NewEntry
from stemma.ledger.signer import sign_once
from stemma.ledger.verification import Report, verify
from stemma.ledger.writer import LedgerWriter
from stemma.store.database import Database
from stemma.store.settings import Settings

CHAIN = "decisions:finance"


def make_entry(number: int, chain: str = CHAIN, **data: Any) -> NewEntry:
    return NewEntry(chain, "decision", "agent:clerk", f"invoice/{number}", {"amount": number * 10, **data})


@pytest.fixture(scope="session")
def new_entry() -> Callable[..., NewEntry]:
    """Make the entry of this number."""
    return make_entry


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """Wait for a condition; fails after 20 s."""

    def wait(condition: Callable[[], object], what: str = "the condition") -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come about"
            time.sleep(0.01)

    return wait


@pytest.fixture
def writer(database: Database) -> Iterator[LedgerWriter]:
    """A writer on the test's database."""
    with LedgerWriter(database.urls.app) as opened:
        yield opened


@pytest.fixture
def filled(writer: LedgerWriter, database: Database, settings: Settings) -> list[Entry]:
    """Twelve entries of one chain and three of another, under one signed head."""
    futures = [writer.append([make_entry(number)]) for number in range(1, 13)]
    futures += [writer.append([make_entry(number, "audit")]) for number in range(1, 4)]
    entries = [entry for future in futures for entry in future.result(20)]
    assert sign_once(database.urls.app, settings) is not None
    return entries


@pytest.fixture
def tamper(database: Database) -> Callable[..., int]:
    """Run statements as the owner with every trigger off; returns how many rows the last one touched."""

    def run(*statements: str | tuple[str, tuple[Any, ...]]) -> int:
        with psycopg.connect(database.urls.owner) as connection:
            connection.execute("ALTER TABLE ledger DISABLE TRIGGER ALL")
            touched = 0
            for statement in statements:
                query, values = statement if isinstance(statement, tuple) else (statement, None)
                touched = connection.execute(query, values).rowcount
            connection.execute("ALTER TABLE ledger ENABLE TRIGGER ALL")
        return touched

    return run


@pytest.fixture
def report(database: Database, settings: Settings) -> Callable[..., Report]:
    """Verify the test's ledger."""
    return lambda **options: verify(database, settings, **options)


@pytest.fixture
def backend_killer(database: Database) -> Callable[[], int]:
    """Terminate the sessions of the studio's role on the test's database; returns how many there were."""

    def kill() -> int:
        with psycopg.connect(database.urls.owner, autocommit=True, application_name="killer") as connection:
            rows = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'stemma'"
            ).fetchall()
        return len(rows)

    return kill
