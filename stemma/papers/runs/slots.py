"""Who works on which run, and that no more than two do: advisory locks of one connection, which die with their holder.

The locks of a session go when its connection does, so that nothing has to be taken back from a process that was killed.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final
from uuid import UUID

import psycopg

from stemma.errors import Conflict
from stemma.papers.runs.model import AT_ONCE
from stemma.store.database import Connection, connect

_SLOTS: Final = 0x50324E
_POLL_SECONDS: Final = 0.5
_TAKE_RUN: Final = "SELECT pg_try_advisory_lock(hashtextextended(%s, %s))"
_TAKE_SLOT: Final = "SELECT pg_try_advisory_lock(%s, %s)"


class Held:
    """A run and one of the places, as one session of the database has them. Belongs to one thread."""

    def __init__(self, url: str, connection: Connection, run_id: UUID, slot: int) -> None:
        self.slot = slot
        self._url = url
        self._connection = connection
        self._run_id = run_id

    def is_cancelled(self) -> bool:
        """Whether somebody asked for the run to stop.

        After the database was away both locks are taken again, unless somebody else has them by now: then the run
        counts as lost, and it stops too.
        """
        try:
            row = self._connection.execute(
                "SELECT cancel_requested_at IS NOT NULL OR status <> 'running' FROM p2n.runs WHERE id = %s",
                (self._run_id,),
            ).fetchone()
            return row is None or bool(row[0])
        except psycopg.Error:
            with contextlib.suppress(Exception):
                self._connection.close()
                self._connection = connect(self._url, autocommit=True)
                return not (_take_run(self._connection, self._run_id) and _take_slot(self._connection, self.slot))
            return False

    def close(self) -> None:
        """Give both back."""
        self._connection.close()


@contextlib.contextmanager
def held(
    url: str,
    run_id: UUID,
    *,
    stopped: threading.Event,
    waiting: Callable[[], None] = lambda: None,
    patience: float | None = None,
) -> Iterator[Held | None]:
    """Hold a run and one of the places for the block; waits for a place, at most `patience` seconds.

    None where `stopped` was set while it waited. Raises Conflict where another process holds the run, or where no
    place became free.
    """
    connection = connect(url, autocommit=True)
    try:
        if not _take_run(connection, run_id):
            raise Conflict("paper_run_held", f"Another process works on run {run_id}.", field="run_id")
        deadline = None if patience is None else time.monotonic() + patience
        told = False
        while (slot := _free_slot(connection)) is None:
            if not told:
                waiting()
                told = True
            if deadline is not None and time.monotonic() > deadline:
                raise Conflict("paper_runs_busy", f"{AT_ONCE} runs execute already.", hint="Try again later.")
            if stopped.wait(_POLL_SECONDS):
                yield None
                return
        place = Held(url, connection, run_id, slot)
        try:
            yield place
        finally:
            place.close()
    finally:
        connection.close()


def is_dead(connection: Connection, run_id: UUID) -> bool:
    """Whether no process holds the run."""
    row = connection.execute(
        "SELECT pg_try_advisory_xact_lock_shared(hashtextextended(%s, %s))", (str(run_id), _SLOTS)
    ).fetchone()
    return bool(row and row[0])


def _free_slot(connection: Connection) -> int | None:
    return next((slot for slot in range(AT_ONCE) if _take_slot(connection, slot)), None)


def _take_slot(connection: Connection, slot: int) -> bool:
    row = connection.execute(_TAKE_SLOT, (_SLOTS, slot)).fetchone()
    return bool(row and row[0])


def _take_run(connection: Connection, run_id: UUID) -> bool:
    row = connection.execute(_TAKE_RUN, (str(run_id), _SLOTS)).fetchone()
    return bool(row and row[0])
