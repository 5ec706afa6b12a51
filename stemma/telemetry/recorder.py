"""Writing down every minute how things stand: a thread of the API process, one such process to a machine."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Self

from stemma.ledger.service import Ledger
from stemma.store.database import Database
from stemma.telemetry.checks import Check
from stemma.telemetry.health import Observation, observe, record
from stemma.telemetry.metrics import Load

logger = logging.getLogger(__name__)

PERIOD: Final = 60.0
_MOST_WAITING = 500
_PATIENCE = 2.0


class Recorder:
    """Looks once a period, the first time after one, and writes what it saw. `close()`, or use it as a context manager.

    What cannot be written because the database is away is kept, up to some hours, and written when it is back.
    """

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        *,
        instance: str,
        checks: Callable[[], Mapping[str, Check]],
        load: Callable[[], Load],
        period: float = PERIOD,
    ) -> None:
        """`load` gives what was counted since the process began; `period` is in seconds."""
        self._database = database
        self._ledger = ledger
        self._instance = instance
        self._checks = checks
        self._load = load
        self._counted = load()
        self._waiting: list[Observation] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(period,), name="health-recorder", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread, after the look that it is at."""
        self._ended.set()
        self._thread.join()

    def look(self) -> None:
        """Look, and write what was seen; raises what the database or the ledger says, and keeps it then."""
        checks, counted = self._checks(), self._load()
        self._waiting += observe(checks, counted.since(self._counted), datetime.now(UTC))
        self._counted = counted
        del self._waiting[:-_MOST_WAITING]
        self._write(tuple(self._waiting))
        self._waiting.clear()

    def _write(self, seen: tuple[Observation, ...]) -> None:
        with self._database.transaction(timeout=_PATIENCE) as connection:
            change = record(connection, self._instance, seen)
            # The ledger takes nothing that has no entry.
            if not change.entries:
                for statement in change.companions:
                    connection.execute(statement.query, statement.bound(()))
        if change.entries:
            self._ledger.commit(change).result()

    def _run(self, period: float) -> None:
        told = False
        while not self._ended.wait(period):
            try:
                self.look()
                told = False
            except Exception as error:
                if not told:
                    logger.warning("health could not be written: %s", " ".join(str(error).split()))
                told = True
