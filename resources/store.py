"""The settings and the database, opened for a run and closed after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import dagster as dg
from pydantic import PrivateAttr

if TYPE_CHECKING:
    from stemma.ledger.change import Change
    from stemma.ledger.entries import NewEntry
    from stemma.store.database import Database
    from stemma.store.settings import Settings

T = TypeVar("T")


class StoreResource(dg.ConfigurableResource):
    """Gives assets `settings` and `database`; both come from the environment of the process that runs them."""

    _settings: Settings = PrivateAttr()
    _database: Database = PrivateAttr()

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Open the pool; the embedded server is started when it is not up."""
        from stemma.store.database import Database
        from stemma.store.settings import load_settings

        self._settings = load_settings()
        self._database = Database.open(self._settings)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close the pool."""
        self._database.close()

    def record(self, *entries: NewEntry) -> None:
        """Append entries to the ledger; those that it has already, with the same ids, stay as they are."""
        from stemma.ledger.service import Ledger

        with Ledger(self._database.urls, self._settings) as ledger:
            ledger.append(entries).result()

    def commit(self, change: Change[T]) -> T:
        """Write a change with its entries, and return its result; raises what it is refused with."""
        from stemma.ledger.service import Ledger

        with Ledger(self._database.urls, self._settings) as ledger:
            return ledger.commit(change).result()

    @property
    def settings(self) -> Settings:
        """The settings in force for this run."""
        return self._settings

    @property
    def database(self) -> Database:
        """The pool of this run."""
        return self._database
