"""Appending: one thread per process drains a queue, and one transaction commits what it drained.

An fsync takes milliseconds and one append per transaction pays it each time, so requests that wait together commit
together. Canonical bytes are made by the caller's thread; the chain's lock is held only to read its tail, insert and
commit. A future is resolved after its commit, never before.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import date
from operator import attrgetter
from typing import Any, LiteralString, Protocol, Self
from uuid import UUID

import psycopg
from psycopg import sql

from stemma.errors import Conflict, InvalidInput, StemmaError, Unavailable
from stemma.ledger.entries import Draft, Entry, NewEntry, draft, genesis
from stemma.store.database import Connection, connect

logger = logging.getLogger(__name__)

MAX_BATCH = 64
_MAX_QUEUED = 4096
_MAX_ENTRIES = 1000
_MAX_ROWS = 1 << 20
_PATIENCE = 20.0
_RETRY_PAUSE = 0.1
_GATHERING = 0.001
_ATTEMPTS = 5

# The entries of others are visible to the last two statements only because the locks are held before they start:
# whoever wrote to these chains held the same ones.
_BEGIN = """
    BEGIN;
    SELECT pg_advisory_xact_lock(key) FROM unnest(%(keys)s::bigint[]) AS key;
    SELECT chain, seq, prev_hash, body, entry_hash, id, kind, actor, subject, created_at
        FROM ledger WHERE id = ANY(%(ids)s::uuid[]);
    SELECT name, tail.seq, tail.entry_hash FROM unnest(%(chains)s::text[]) AS name CROSS JOIN LATERAL
        (SELECT seq, entry_hash FROM ledger WHERE chain = name COLLATE "C" ORDER BY seq DESC LIMIT 1) AS tail
"""
_COPY = """
    COPY ledger (chain, seq, prev_hash, body, entry_hash, id, kind, actor, subject, created_at)
    FROM STDIN (FORMAT binary)
"""
_COLUMN_TYPES = ("text", "int8", "bytea", "bytea", "bytea", "uuid", "text", "text", "text", "timestamptz")
_columns = attrgetter("chain", "seq", "prev_hash", "body", "entry_hash", "id", "kind", "actor", "subject", "created_at")

Parameters = Sequence[Any] | Mapping[str, Any]
"""Of a statement; a string has rows."""
Query = LiteralString | sql.SQL | sql.Composed


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that commits with its entries, or not at all.

    `parameters` may be a function of the entries as appended, for rows that name their seq or hash. With `rows`, any
    other number of affected rows raises `refusal`, or Conflict, and undoes the whole append. A batch that fails
    is run again, so that the same statement may be executed more than once; it is committed once.

    What is written very often is given as rows: `parameters` are JSON objects, as text and with commas between them,
    and the query takes `%(rows)s`, the array of them. Rows of several appends are written by one execution, so that the
    query may depend on nothing that such statements of other appends write.
    """

    query: Query
    parameters: Parameters | Callable[[tuple[Entry, ...]], Parameters] = ()
    rows: int | None = None
    refusal: StemmaError | None = None
    as_rows: bool = False

    def said(self, entries: tuple[Entry, ...]) -> Parameters:
        """Its parameters beside these entries, as they were given."""
        return self.parameters(entries) if callable(self.parameters) else self.parameters

    def bound(self, entries: tuple[Entry, ...]) -> Parameters | None:
        """Its parameters beside these entries, as it is executed alone."""
        said = self.said(entries)
        return {"rows": f"[{said}]"} if self.as_rows else said or None


def row(values: Mapping[str, Any]) -> str:
    """A row as JSON: bytes in hexadecimal, UUIDs and times as Postgres reads them."""
    return json.dumps(values, default=_written)


def _written(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if isinstance(value, date) else str(value)


_Answer = tuple[Entry, ...]
_AnyFuture = Future[_Answer] | asyncio.Future[_Answer]


class Observer(Protocol):
    """Who looks on while entries are appended; its methods return at once and raise nothing."""

    def accepted(self, entries: int) -> Callable[[_AnyFuture], None] | None:
        """An append was accepted, in its caller's context; what this returns is called when the append has ended."""

    def committed(self, appends: int, entries: int, seconds: float) -> None:
        """One transaction wrote these, in the writer's thread; `seconds` with every try it took."""


class _Request:
    """What waits to be written; with `loop`, `future` is one of that event loop."""

    __slots__ = ("companions", "drafts", "future", "ids", "loop")

    def __init__(
        self,
        entries: Sequence[NewEntry],
        companions: Sequence[Statement],
        future: _AnyFuture,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.drafts = [draft(entry) for entry in entries]
        self.companions = tuple(companions)
        self.ids = {item.entry.id for item in self.drafts}
        self.future = future
        self.loop = loop


class LedgerWriter:
    """The process's appender. Thread-safe; `close()` waits for what was accepted, or use it as a context manager."""

    def __init__(
        self, url: str, *, on_commit: Callable[[], None] | None = None, observer: Observer | None = None
    ) -> None:
        """`url` is the libpq URI of a role that may insert; `on_commit` is called after each commit."""
        self._url = url
        self._on_commit = on_commit or (lambda: None)
        self._observer = observer
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._accepting = threading.Lock()
        self._closed = False
        self._connection: Connection | None = None
        self._unreachable_since: float | None = None
        self._last_batch = 1
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, entries: Sequence[NewEntry], companions: Sequence[Statement] = ()) -> Future[tuple[Entry, ...]]:
        """Append entries, and run their companions, in one transaction; the future has the entries as stored.

        Entries whose ids are stored already, with the same content, are returned as they are, and their companions are
        not run again: a caller that does not know whether its append was committed sends it again. The future raises
        Conflict where an id belongs to another entry or a companion's `rows` differ, what the database says about a
        companion, and Unavailable when the database stayed away for 20 s; then the append may have been committed.

        Raises InvalidInput and TooLarge for what cannot be an entry, Unavailable when too much waits or after `close`.
        """
        future: Future[_Answer] = Future()
        self._accept(_Request(entries, companions, future))
        return future

    def append_async(
        self, entries: Sequence[NewEntry], companions: Sequence[Statement] = ()
    ) -> asyncio.Future[tuple[Entry, ...]]:
        """`append` for coroutines: the running event loop is woken once for all that a transaction wrote of its own."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Answer] = loop.create_future()
        self._accept(_Request(entries, companions, future, loop))
        return future

    def _accept(self, request: _Request) -> None:
        if not 0 < len(request.drafts) <= _MAX_ENTRIES or len(request.ids) < len(request.drafts):
            what = f"An append takes 1 to {_MAX_ENTRIES:,} entries, each with an id of its own."
            raise InvalidInput("entries_invalid", what, field="entries")
        with self._accepting:
            if self._closed:
                raise Unavailable("ledger_closed", "The ledger's writer is closed.")
            if self._queue.qsize() >= _MAX_QUEUED:
                raise Unavailable("ledger_busy", "Too many appends wait for the ledger.", hint="Try again in a second.")
            self._queue.put(request)
        if self._observer is not None and (ended := self._observer.accepted(len(request.drafts))):
            request.future.add_done_callback(ended)

    def waiting(self) -> int:
        """How many appends wait for the writer's thread."""
        return self._queue.qsize()

    def close(self) -> None:
        """Accept nothing more, write what was accepted, and end the thread."""
        with self._accepting:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        going_on = True
        while going_on:
            batch, going_on = self._drain()
            for group in _without_shared_ids(request for request in batch if _starts(request)):
                self._commit(group)
        if self._connection is not None:
            self._connection.close()

    def _drain(self) -> tuple[list[_Request], bool]:
        """What waits, at most `MAX_BATCH`, and whether there will be more.

        Clients that were just answered send their next append in a moment; without waiting for as many as came last
        time, they and those that came meanwhile would take turns at half-filled batches.
        """
        batch: list[_Request] = []
        deadline = 0.0
        while len(batch) < MAX_BATCH:
            left = max(deadline - time.monotonic(), 0.0) if len(batch) < self._last_batch else 0.0
            try:
                request = self._queue.get(timeout=left) if batch else self._queue.get()
            except queue.Empty:
                break
            if request is None:
                return batch, False
            if not batch:
                deadline = time.monotonic() + _GATHERING
            batch.append(request)
        self._last_batch = len(batch)
        return batch, True

    def _commit(self, batch: list[_Request]) -> None:
        """Commit a batch; when it fails, each member alone, so that a bad one fails alone."""
        started = time.monotonic()
        try:
            stored = self._transact(batch)
        except Exception as error:
            if len(batch) == 1 or self._unreachable_since is not None:
                _answer(batch, [error] * len(batch))
                return
            logger.info("a batch of %d appends failed, each is tried alone: %s", len(batch), error)
            for request in batch:
                self._commit([request])
            return
        _answer(batch, stored)
        if self._observer is not None:
            self._observer.committed(len(batch), sum(map(len, stored)), time.monotonic() - started)
        self._on_commit()

    def _transact(self, batch: list[_Request]) -> list[tuple[Entry, ...]]:
        """Write a batch, again when the connection is lost: what was committed unheard is found by its ids."""
        attempts = 0
        while True:
            try:
                if self._connection is None:
                    self._connection = _open(self._url)
                stored = self._write(self._connection, batch)
            except (Unavailable, psycopg.OperationalError, psycopg.InterfaceError) as error:
                if self._connection is not None and not self._connection.closed:
                    attempts += 1
                    passing = isinstance(error, (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable))
                    if not passing or len(batch) > 1 or attempts == _ATTEMPTS:
                        raise
                else:
                    self._connection = None
                    self._wait_out(error)
            else:
                self._unreachable_since = None
                return stored

    def _wait_out(self, error: Exception) -> None:
        """Pause before the next attempt; raises Unavailable when the database has been away for too long."""
        now = time.monotonic()
        if self._unreachable_since is None:
            self._unreachable_since = now
            logger.warning("the ledger's writer lost the database: %s", " ".join(str(error).split()))
        if now - self._unreachable_since > _PATIENCE:
            raise Unavailable(
                "ledger_unreachable",
                "The database did not answer, so that nobody knows whether the entries were appended.",
                hint="Send them again with the same ids once it is back.",
            ) from error
        time.sleep(_RETRY_PAUSE)

    def _write(self, connection: Connection, batch: list[_Request]) -> list[tuple[Entry, ...]]:
        drafts = [item for request in batch for item in request.drafts]
        try:
            known, tails = _begin(connection, drafts)
            stored = [_place(request, known, tails) for request in batch]
            pairs = zip(batch, stored, strict=True)
            new = [(request, entries) for request, entries in pairs if entries[0].id not in known]
            _insert(connection, [entry for _, entries in new for entry in entries])
            _accompany(connection, new)
            connection.commit()
        except BaseException:
            if not connection.closed:
                connection.rollback()
            raise
        return stored


def _starts(request: _Request) -> bool:
    """Whether the request is still wanted; from now on nobody can take it back."""
    if isinstance(request.future, Future):
        return request.future.set_running_or_notify_cancel()
    return not request.future.cancelled()


def _answer(batch: Sequence[_Request], answers: Sequence[_Answer | Exception]) -> None:
    """Resolve the futures, those of one event loop together: waking it takes longer than resolving one."""
    elsewhere: dict[asyncio.AbstractEventLoop, list[tuple[_AnyFuture, _Answer | Exception]]] = {}
    for request, answer in zip(batch, answers, strict=True):
        if request.loop is None:
            _resolve(request.future, answer)
        else:
            elsewhere.setdefault(request.loop, []).append((request.future, answer))
    for loop, resolved in elsewhere.items():
        # A loop that has ended has nobody who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve_all, resolved)


def _resolve_all(resolved: Sequence[tuple[_AnyFuture, _Answer | Exception]]) -> None:
    for future, answer in resolved:
        if not future.done():
            _resolve(future, answer)


def _resolve(future: _AnyFuture, answer: _Answer | Exception) -> None:
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _without_shared_ids(requests: Iterable[_Request]) -> list[list[_Request]]:
    """Groups in which no id occurs twice, in the order in which they came."""
    groups: list[list[_Request]] = []
    seen: set[UUID] = set()
    for request in requests:
        if not groups or not seen.isdisjoint(request.ids):
            groups.append([])
            seen = set()
        groups[-1].append(request)
        seen.update(request.ids)
    return groups


def _open(url: str) -> Connection:
    connection = connect(url, autocommit=True)
    # An acknowledged entry is on the disk, whatever the server's default is.
    connection.execute(
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
    )
    return connection


def _lock_key(chain: str) -> int:
    """The advisory lock of a chain, apart from those that other capabilities take."""
    digest = hashlib.sha256(b"stemma ledger lock\x00" + chain.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _begin(connection: Connection, drafts: Sequence[Draft]) -> tuple[dict[UUID, Entry], dict[str, tuple[int, bytes]]]:
    """Begin a transaction that holds the drafts' chains; gives what their ids name already, and the chains' tails."""
    chains = sorted({item.entry.chain for item in drafts})
    # Bound by the client, so that it is one round trip.
    cursor = psycopg.ClientCursor(connection).execute(
        _BEGIN,
        {
            "keys": _array(str(key) for key in sorted({_lock_key(chain) for chain in chains})),
            "ids": _array(item.entry.id.hex for item in drafts),
            "chains": _array(chains),
        },
    )
    cursor.nextset()
    cursor.nextset()
    known = {entry.id: entry for entry in (Entry(*row) for row in cursor)}
    cursor.nextset()
    tails = {chain: (0, genesis(chain)) for chain in chains}
    tails.update({chain: (seq, bytes(hashed)) for chain, seq, hashed in cursor})
    return known, tails


def _array(words: Iterable[str]) -> str:
    """An array's literal, of words that need no quotes; making one of a list costs psycopg ten times as much."""
    return "{" + ",".join(words) + "}"


def _place(request: _Request, known: Mapping[UUID, Entry], tails: dict[str, tuple[int, bytes]]) -> tuple[Entry, ...]:
    """The request's entries in their places; moves the tails."""
    there = [known.get(item.entry.id) for item in request.drafts]
    if any(there):
        return tuple(_repeated(item, entry) for item, entry in zip(request.drafts, there, strict=True))
    entries = []
    for item in request.drafts:
        seq, hashed = tails[item.entry.chain]
        entry = item.seal(seq + 1, hashed)
        tails[entry.chain] = (entry.seq, entry.entry_hash)
        entries.append(entry)
    return tuple(entries)


def _repeated(sent: Draft, stored: Entry | None) -> Entry:
    if stored is None or not sent.repeats(stored):
        raise Conflict(
            "entry_id_taken",
            "The ledger has another entry with one of these ids.",
            field="id",
            hint="Send an append again exactly as it was, or give its entries new ids.",
        )
    return stored


def _insert(connection: Connection, entries: list[Entry]) -> None:
    # Half the time of an INSERT of arrays, which are put together in Python.
    if entries:
        with connection.cursor().copy(_COPY) as copy:
            copy.set_types(_COLUMN_TYPES)
            for entry in entries:
                copy.write_row(_columns(entry))


def _accompany(connection: Connection, new: Sequence[tuple[_Request, _Answer]]) -> None:
    executions = _executions(new)
    if not executions:
        return
    with connection.pipeline():
        cursors = [connection.execute(one.query, one.parameters) for one in executions]
    for one, cursor in zip(executions, cursors, strict=True):
        if one.rows is not None and cursor.rowcount != one.rows:
            what = f"affected {cursor.rowcount} rows instead of {one.rows}; nothing was appended"
            raise one.refusal or Conflict("companion_conflict", f"What belongs to the entry {what}.")


class _Execution:
    """What is executed at once: a statement, or the rows of several."""

    __slots__ = ("_length", "_said", "_statement", "rows")

    def __init__(self, statement: Statement) -> None:
        self._statement = statement
        self._said: list[Parameters] = []
        self._length = 0
        self.rows: int | None = 0

    def takes(self, statement: Statement) -> bool:
        """Whether the statement may be executed with what is here."""
        both = statement.as_rows and self._statement.as_rows and self.query == statement.query
        return both and self._length < _MAX_ROWS

    def add(self, statement: Statement, entries: _Answer) -> None:
        """Execute the statement, which this takes, beside these entries."""
        said = statement.said(entries)
        self._said.append(said)
        self._length += len(said)
        self.rows = None if self.rows is None or statement.rows is None else self.rows + statement.rows

    @property
    def query(self) -> Query:
        return self._statement.query

    @property
    def parameters(self) -> Parameters | None:
        return {"rows": f"[{','.join(map(str, self._said))}]"} if self._statement.as_rows else self._said[0] or None

    @property
    def refusal(self) -> StemmaError | None:
        return self._statement.refusal


def _executions(new: Sequence[tuple[_Request, _Answer]]) -> list[_Execution]:
    """What is executed for these, in order.

    Rows join those of an append before theirs, unless something of their own append is executed after these, or a
    statement that is executed alone.
    """
    executions: list[_Execution] = []
    joinable = 0
    for request, entries in new:
        place = joinable
        for statement in request.companions:
            while place < len(executions) and not executions[place].takes(statement):
                place += 1
            if place == len(executions):
                executions.append(_Execution(statement))
            executions[place].add(statement, entries)
            if not statement.as_rows:
                place = joinable = len(executions)
    return executions
