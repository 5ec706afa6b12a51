"""Writing down what calls to models used: one thread per process, whose transactions take all that waits.

An fsync takes milliseconds, so that calls which end while one is under way share the next. What was accepted is written
when the database is back, however long it stayed away, as long as the process lives.
"""

from __future__ import annotations

import collections
import logging
import queue
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Self

import psycopg

from stemma.errors import Unavailable
from stemma.llm.holding import Used, write
from stemma.store.database import Connection, connect

logger = logging.getLogger(__name__)

MAX_BATCH: Final = 512
_MAX_WAITING: Final = 20_000
_PATIENCE: Final = 20.0
_PAUSE: Final = 0.1
_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class _Row:
    used: Used
    written: Future[None] = field(default_factory=Future)


class UsageWriter:
    """The process's writer. Thread-safe; `close()` writes what waits, or use it as a context manager."""

    def __init__(self, url: str) -> None:
        """`url` is the libpq URI of a role that may insert."""
        self._url = url
        self._queue: queue.SimpleQueue[_Row | None] = queue.SimpleQueue()
        self._late: collections.deque[_Row] = collections.deque()
        self._accepting = threading.Lock()
        self._closed = False
        self._connection: Connection | None = None
        self._away_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="usage-writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def put(self, used: Used) -> Future[None]:
        """Write what a call used; the future is done when it is on disk.

        It raises Unavailable when the database stayed away for 20 s, after which the row is still written once it is
        back, and what the database says of a row that it refuses. Raises Unavailable after `close`, or where too much
        waits.
        """
        row = _Row(used)
        with self._accepting:
            if self._closed:
                raise Unavailable("meter_closed", "What calls to models use is not written down any more.")
            if self.waiting() >= _MAX_WAITING:
                what = "Too many calls to models wait to be written down."
                raise Unavailable("meter_busy", what, hint="Try again once the database answers.")
            self._queue.put(row)
        return row.written

    def waiting(self) -> int:
        """How many rows wait for the writer's thread."""
        return self._queue.qsize() + len(self._late)

    def close(self) -> None:
        """Accept nothing more, write what waits, and end the thread.

        Where the database is away for 20 s, how many rows were lost is logged.
        """
        with self._accepting:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while batch := self._drain():
            self._write(batch)
        if self._connection is not None:
            self._connection.close()

    def _drain(self) -> list[_Row]:
        """What waits, at most `MAX_BATCH`; waits for the first. Nothing at the end."""
        batch = [self._late.popleft() for _ in range(min(len(self._late), MAX_BATCH))]
        while len(batch) < MAX_BATCH:
            try:
                row = self._queue.get_nowait() if batch else self._queue.get()
            except queue.Empty:
                break
            if row is None:
                # What is in the batch is written before the end is met again.
                self._queue.put(None)
                break
            batch.append(row)
        return batch

    def _write(self, batch: list[_Row]) -> None:
        """Write a batch; when it fails, each row alone, so that a bad one fails alone."""
        error = self._transact(batch)
        if error is None or len(batch) == 1 or self._away_since is not None:
            if error is not None:
                told = " ".join(str(error).split())
                logger.error("what %d calls to models used could not be written: %s", len(batch), told)
            _resolve(batch, error)
            return
        for row in batch:
            self._write([row])

    def _transact(self, batch: list[_Row]) -> Exception | None:
        """Write a batch, again when the connection is lost, unless it turns out to have been committed unheard."""
        transaction: str | None = None
        attempts = 0
        while True:
            try:
                if self._connection is None:
                    self._connection = _open(self._url)
                if transaction is None or not _committed(self._connection, transaction):
                    with self._connection.transaction():
                        transaction = _transaction_id(self._connection)
                        write(self._connection, [row.used for row in batch])
            except (Unavailable, psycopg.OperationalError, psycopg.InterfaceError) as error:
                if self._connection is not None and not self._connection.closed:
                    attempts += 1
                    if attempts == _ATTEMPTS or not isinstance(error, psycopg.errors.DeadlockDetected):
                        return error
                    transaction = None
                else:
                    self._connection = None
                    if not self._wait_out(batch, error):
                        return error
            except Exception as error:
                # Also a row that cannot even be sent, which must not end the thread that writes all. The database is
                # there: of a batch, each row is tried alone.
                self._away_since = None
                return error
            else:
                self._away_since = None
                return None

    def _wait_out(self, batch: list[_Row], error: Exception) -> bool:
        """Pause before the next attempt; whether there is to be one. Nobody waits for longer than 20 s."""
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            logger.warning("the writer of usage lost the database: %s", " ".join(str(error).split()))
        if now - self._away_since > _PATIENCE:
            if self._closed:
                return False
            self._put_off()
            refusal = Unavailable(
                "usage_unwritten",
                "The database does not answer, so that what this used could not be written down yet.",
                hint="It is written once the database is back.",
            )
            _resolve([*batch, *self._late], refusal)
        time.sleep(_PAUSE)
        return True

    def _put_off(self) -> None:
        """Take what came meanwhile out of the queue, to be written later."""
        while True:
            try:
                row = self._queue.get_nowait()
            except queue.Empty:
                return
            if row is None:
                self._queue.put(None)
                return
            self._late.append(row)


def _resolve(rows: Iterable[_Row], error: Exception | None) -> None:
    for row in rows:
        if not row.written.done():
            if error is None:
                row.written.set_result(None)
            else:
                row.written.set_exception(error)


def _open(url: str) -> Connection:
    connection = connect(url, autocommit=True)
    # What was acknowledged is on the disk, whatever the server's default is.
    connection.execute(
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
    )
    return connection


def _transaction_id(connection: Connection) -> str:
    (found,) = connection.execute("SELECT pg_current_xact_id()::text").fetchone() or ("",)
    return str(found)


def _committed(connection: Connection, transaction: str) -> bool:
    """How a transaction ended whose connection was lost; waits for its end."""
    while True:
        (status,) = connection.execute("SELECT pg_xact_status(%s::xid8)", (transaction,)).fetchone() or (None,)
        if status != "in progress":
            return bool(status == "committed")
        time.sleep(_PAUSE)
