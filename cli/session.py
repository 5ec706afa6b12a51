"""What most commands open first: the settings, the database brought up to date, and Dagster's instance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from stemma.ledger.change import Change
    from stemma.store.database import Connection, Database
    from stemma.store.settings import Settings

T = TypeVar("T")


def open_studio() -> tuple[Settings, Database]:
    """Start the embedded server where needed, apply missing migrations, register the built-in sources."""
    from stemma.knowledge import sources
    from stemma.store import migrations
    from stemma.store.database import Database
    from stemma.store.settings import load_settings

    settings = load_settings()
    settings.home.mkdir(parents=True, exist_ok=True)
    database = Database.open(settings)
    migrations.upgrade(database.urls.owner)
    with database.transaction() as connection:
        sources.ensure_builtin(connection, settings)
    return settings, database


def commit(settings: Settings, database: Database, make: Callable[[Connection], Change[T]]) -> T:
    """Make a change from what a snapshot shows, write it with its entries, and return its result."""
    (result,) = commit_all(settings, database, lambda connection: [make(connection)])
    return result


def commit_all(settings: Settings, database: Database, make: Callable[[Connection], Sequence[Change[T]]]) -> list[T]:
    """Make changes from what one snapshot shows, write each with its entries, and return their results."""
    from stemma.ledger.service import Ledger

    changes = database.read(make)
    with Ledger(database.urls, settings) as ledger:
        return [future.result() for future in [ledger.commit(change) for change in changes]]
