"""Appending: order, atomicity, idempotency, and what happens when batches, connections and processes die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from stemma.errors import Conflict, InvalidInput, Unavailable
from stemma.ledger.entries import NewEntry, genesis
from stemma.ledger.verification import Report
from stemma.ledger.writer import LedgerWriter, Statement, _executions, _Request, row
from stemma.store.database import Database
from stemma.store.settings import REPOSITORY, Settings

CHAIN = "decisions:finance"


@pytest.fixture
def notes(database: Database) -> Iterator[Callable[[], list[tuple[int, str]]]]:
    """A table for companions; gives its rows."""
    with database.owner(autocommit=True) as connection:
        connection.execute("CREATE TABLE notes (seq bigint, text text UNIQUE)")

    def rows() -> list[tuple[int, str]]:
        with database.snapshot() as connection:
            return connection.execute("SELECT seq, text FROM notes ORDER BY seq").fetchall()

    yield rows


def note(text: str, *, rows: int | None = None) -> Statement:
    query = sql.SQL(
        "INSERT INTO notes VALUES (%s, %s) ON CONFLICT DO NOTHING" if rows else "INSERT INTO notes VALUES (%s, %s)"
    )
    return Statement(query, lambda entries: (entries[0].seq, text), rows)


def noted(text: str, *, rows: int | None = 1) -> Statement:
    """The same as a row, which others may join."""
    query = """
        INSERT INTO notes SELECT seq, text FROM ROWS FROM (json_to_recordset(%(rows)s::json) AS (seq bigint, text text))
            WITH ORDINALITY AS given (seq, text, place) WHERE text <> 'nothing' ORDER BY place
    """
    return Statement(query, lambda entries: row({"seq": entries[0].seq, "text": text}), rows, as_rows=True)


def count(database: Database) -> int:
    with database.snapshot() as connection:
        (number,) = connection.execute("SELECT count(*) FROM ledger").fetchone() or (0,)
        return int(number)


@pytest.fixture
def held(database: Database) -> Iterator[Callable[[], None]]:
    """Hold the ledger's table so that appends wait until told; gives the release."""
    connection = psycopg.connect(database.urls.owner)
    connection.execute("LOCK TABLE ledger IN EXCLUSIVE MODE")
    yield connection.rollback
    connection.close()


def test_entries_follow_one_another_and_read_back(
    writer: LedgerWriter, new_entry: Callable[..., NewEntry], report: Callable[..., Report], database: Database
) -> None:
    first, second = writer.append([new_entry(1), new_entry(2)]).result(20)
    (other,) = writer.append([new_entry(1, "audit")]).result(20)
    (third,) = writer.append([new_entry(3, text="żółw 🐢")]).result(20)
    assert [first.seq, second.seq, third.seq, other.seq] == [1, 2, 3, 1]
    assert first.prev_hash == genesis(CHAIN) and other.prev_hash == genesis("audit")
    assert (second.prev_hash, third.prev_hash) == (first.entry_hash, second.entry_hash)
    with database.snapshot() as connection:
        row = connection.execute(
            "SELECT body, entry_hash, subject, created_at FROM ledger WHERE id = %s", (third.id,)
        ).fetchone()
    assert row == (third.body, third.entry_hash, "invoice/3", third.created_at)
    assert third.data == {"amount": 30, "text": "żółw 🐢"}
    assert report(deep=True).clean


def test_companions_commit_with_their_entries(
    writer: LedgerWriter, new_entry: Callable[..., NewEntry], notes: Callable[[], list[tuple[int, str]]]
) -> None:
    (entry,) = writer.append([new_entry(1)], [note("one"), note("two")]).result(20)
    assert sorted(notes()) == [(entry.seq, "one"), (entry.seq, "two")]


def test_a_bad_member_of_a_batch_fails_alone(
    writer: LedgerWriter,
    new_entry: Callable[..., NewEntry],
    notes: Callable[[], list[tuple[int, str]]],
    held: Callable[[], None],
    report: Callable[..., Report],
) -> None:
    futures = [writer.append([new_entry(n)], [note("same" if n in (3, 5) else f"n{n}")]) for n in range(8)]
    refused = writer.append([new_entry(9)], [note("same", rows=1)])
    held()
    outcomes = [future.exception(20) for future in futures]
    assert [type(error) for error in outcomes if error] == [psycopg.errors.UniqueViolation]
    assert outcomes[3] is None and isinstance(outcomes[5], psycopg.errors.UniqueViolation)
    conflict = refused.exception(20)
    assert isinstance(conflict, Conflict) and conflict.code == "companion_conflict"
    assert len(notes()) == 7
    after = report()
    assert after.clean and after.entries == 7


def test_rows_of_a_batch_are_written_together_and_a_bad_one_fails_alone(
    writer: LedgerWriter,
    held: Callable[[], None],
    new_entry: Callable[..., NewEntry],
    notes: Callable[[], list[tuple[int, str]]],
) -> None:
    companions = [
        (noted("a"), noted("b")),
        (noted("nothing"),),
        (noted("c"), note("d"), noted("e")),
        (noted("f", rows=None), noted("nothing", rows=None)),
    ]
    pending = [writer.append([new_entry(number)], one) for number, one in enumerate(companions)]
    held()
    with pytest.raises(Conflict) as refused:
        pending[1].result(20)
    assert refused.value.code == "companion_conflict"
    assert [pending[place].result(20)[0].seq for place in (0, 2, 3)] == [1, 2, 3]
    assert sorted(notes()) == [(1, "a"), (1, "b"), (2, "c"), (2, "d"), (2, "e"), (3, "f")]


def test_rows_are_joined_where_that_moves_nothing_before_what_comes_first(new_entry: Callable[..., NewEntry]) -> None:
    def one(name: LiteralString) -> Statement:
        return Statement(name, name, as_rows=name.islower())

    appends: tuple[tuple[LiteralString, ...], ...] = (("a", "b"), ("b", "a", "b"), ("a", "X"), ("X", "b"), ("b", "a"))
    waiting = [(_Request([new_entry(1)], [one(name) for name in names], Future()), ()) for names in appends]
    executed = [(one.query, one.parameters) for one in _executions(waiting)]
    joined = [("a", "[a,a]"), ("b", "[b,b]"), ("a", "[a]"), ("b", "[b]"), "X", "X", ("b", "[b,b]"), ("a", "[a]")]
    assert executed == [(one, one) if one == "X" else (one[0], {"rows": one[1]}) for one in joined]


def test_the_same_id_is_appended_once(
    writer: LedgerWriter,
    new_entry: Callable[..., NewEntry],
    notes: Callable[[], list[tuple[int, str]]],
    held: Callable[[], None],
    report: Callable[..., Report],
) -> None:
    entry = new_entry(1)
    futures = [writer.append([entry], [note("once")]) for _ in range(3)]
    held()
    stored = {future.result(20)[0] for future in futures}
    stored.add(writer.append([entry], [note("once")]).result(20)[0])
    assert len(stored) == 1 and len(notes()) == 1 and report().entries == 1


def test_an_id_of_another_entry_is_refused(writer: LedgerWriter, new_entry: Callable[..., NewEntry]) -> None:
    entry = new_entry(1)
    writer.append([entry]).result(20)
    for changed in (replace(entry, subject="invoice/2"), replace(entry, chain="audit")):
        with pytest.raises(Conflict) as caught:
            writer.append([changed]).result(20)
        assert caught.value.code == "entry_id_taken"
    with pytest.raises(Conflict):
        writer.append([entry, new_entry(2)]).result(20)


def test_what_makes_no_append_is_refused_at_once(writer: LedgerWriter, new_entry: Callable[..., NewEntry]) -> None:
    entry = new_entry(1)
    for entries in ([], [entry, entry], [new_entry(n) for n in range(1001)]):
        with pytest.raises(InvalidInput) as caught:
            writer.append(entries)
        assert caught.value.code == "entries_invalid"


def test_a_cancelled_append_is_not_written(
    writer: LedgerWriter,
    new_entry: Callable[..., NewEntry],
    held: Callable[[], None],
    until: Callable[..., None],
    report: Callable[..., Report],
) -> None:
    running = writer.append([new_entry(1)])
    waiting = [writer.append([new_entry(n)]) for n in (2, 3)]
    until(running.running)
    cancelled = waiting[1].cancel()
    held()
    running.result(20)
    waiting[0].result(20)
    assert report().entries == (2 if cancelled else 3)


def test_coroutines_are_answered_each_for_itself(
    writer: LedgerWriter,
    new_entry: Callable[..., NewEntry],
    notes: Callable[[], list[tuple[int, str]]],
    report: Callable[..., Report],
) -> None:
    async def append() -> list[Any]:
        appends = [writer.append_async([new_entry(n)], [note(f"n{n}")]) for n in range(8)]
        appends.append(writer.append_async([new_entry(9)], [note("n5")]))
        with pytest.raises(InvalidInput):
            writer.append_async([])
        return await asyncio.gather(*appends, return_exceptions=True)

    *stored, refused = asyncio.run(append())
    assert isinstance(refused, psycopg.errors.UniqueViolation)
    assert [(entry.seq, f"n{n}") for n, (entry,) in enumerate(stored)] == notes()
    after = report()
    assert after.clean and after.entries == 8


def test_an_event_loop_that_ended_or_gave_up_holds_up_nobody(
    writer: LedgerWriter, new_entry: Callable[..., NewEntry], held: Callable[[], None], report: Callable[..., Report]
) -> None:
    async def leave(*, cancel: bool) -> None:
        left = writer.append_async([new_entry(1)])
        if cancel:
            left.cancel()

    asyncio.run(leave(cancel=False))
    asyncio.run(leave(cancel=True))
    last = writer.append([new_entry(2)])
    held()
    ((entry,), after) = last.result(20), report()
    assert after.clean and after.entries == entry.seq >= 2


def test_closing_writes_what_was_accepted_and_takes_no_more(
    database: Database, new_entry: Callable[..., NewEntry]
) -> None:
    writer = LedgerWriter(database.urls.app)
    futures = [writer.append([new_entry(n)]) for n in range(200)]
    writer.close()
    assert all(future.done() for future in futures) and count(database) == 200
    with pytest.raises(Unavailable) as caught:
        writer.append([new_entry(1)])
    assert caught.value.code == "ledger_closed"
    writer.close()


def test_a_server_that_never_answers_fails_the_append(
    new_entry: Callable[..., NewEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stemma.ledger.writer._PATIENCE", 0.3)
    with LedgerWriter("postgresql://nobody@127.0.0.1:1/none") as writer:
        futures = [writer.append([new_entry(n)]) for n in range(100)]
        for future in futures:
            error = future.exception(20)
            assert isinstance(error, Unavailable) and error.code == "ledger_unreachable"


def test_many_threads_and_chains_never_deadlock(
    writer: LedgerWriter, database: Database, new_entry: Callable[..., NewEntry], report: Callable[..., Report]
) -> None:
    with LedgerWriter(database.urls.app) as other, ThreadPoolExecutor(16) as pool:

        def send(number: int) -> None:
            chains = ("a", "b") if number % 2 else ("b", "a")
            target = writer if number % 3 else other
            target.append([new_entry(number, chain) for chain in chains]).result(20)

        list(pool.map(send, range(120)))
    result = report()
    assert result.clean and [chain.entries for chain in result.chains] == [120, 120]


def test_lost_connections_lose_and_double_nothing(
    writer: LedgerWriter,
    database: Database,
    new_entry: Callable[..., NewEntry],
    notes: Callable[[], list[tuple[int, str]]],
    backend_killer: Callable[[], int],
    report: Callable[..., Report],
) -> None:
    finished = threading.Event()
    killed = [0]

    def disturb() -> None:
        while not finished.wait(0.02):
            killed.append(backend_killer())

    def client(number: int) -> list[tuple[int, str]]:
        """Append, each time after the last was acknowledged, until enough connections have died."""
        told = []
        while sum(killed) < 10:
            name = f"{number}/{len(told)}"
            (entry,) = writer.append([new_entry(number)], [note(name)]).result(60)
            told.append((entry.seq, name))
        return told

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        with ThreadPoolExecutor(32) as pool:
            told = [pair for pairs in pool.map(client, range(32)) for pair in pairs]
    finally:
        finished.set()
        disturber.join()
    assert sorted(told) == notes()
    assert [seq for seq, _ in sorted(told)] == list(range(1, len(told) + 1))
    result = report()
    assert result.clean and result.entries == len(told)


def test_a_commit_whose_acknowledgement_was_lost_is_found_again(
    database: Database,
    new_entry: Callable[..., NewEntry],
    notes: Callable[[], list[tuple[int, str]]],
    monkeypatch: pytest.MonkeyPatch,
    report: Callable[..., Report],
) -> None:
    """The connection dies after the server has committed and before the writer hears of it."""
    write = LedgerWriter._write
    attempts = []

    def lose_the_answer(self: LedgerWriter, connection: psycopg.Connection, batch: list) -> list:
        stored = write(self, connection, batch)
        attempts.append(stored)
        if len(attempts) == 1:
            connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return stored

    monkeypatch.setattr(LedgerWriter, "_write", lose_the_answer)
    with LedgerWriter(database.urls.app) as writer:
        (entry,) = writer.append([new_entry(1)], [note("once")]).result(20)
    assert len(attempts) == 2 and attempts[0][0][0] == entry
    assert notes() == [(1, "once")] and report().entries == 1


@pytest.mark.parametrize("role", ["app", "owner"])
def test_nobody_changes_what_was_appended(
    database: Database, writer: LedgerWriter, new_entry: Callable[..., NewEntry], role: str
) -> None:
    writer.append([new_entry(1)]).result(20)
    with psycopg.connect(getattr(database.urls, role), autocommit=True) as connection:
        for replication_role in ("origin", "replica"):
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                connection.execute(sql.SQL("SET session_replication_role = {}").format(replication_role))
            for statement in ("UPDATE ledger SET subject = 'x'", "DELETE FROM ledger", "TRUNCATE ledger"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)
        assert connection.execute("SELECT count(*) FROM ledger").fetchone() == (1,)


APPENDING = """
import os, sys, threading
from stemma.ledger.entries import NewEntry
from stemma.ledger.service import Ledger
from stemma.store.database import resolve_urls
from stemma.store.settings import load_settings

settings = load_settings()
ledger = Ledger(resolve_urls(settings), settings)

def client(number):
    for turn in range(int(sys.argv[2])):
        entry = NewEntry("decisions:finance", "decision", sys.argv[1], f"{number}/{turn}", {"n": turn})
        (stored,) = ledger.append([entry]).result()
        os.write(1, f"{stored.seq} {stored.entry_hash.hex()}\\n".encode())

threads = [threading.Thread(target=client, args=(n,), daemon=True) for n in range(64)]
for thread in threads: thread.start()
for thread in threads: thread.join()
ledger.close()
"""


def appending(name: str, turns: int) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-c", APPENDING, name, str(turns)]
    return subprocess.Popen(
        program, stdout=subprocess.PIPE, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )


def acknowledged(output: bytes) -> dict[int, str]:
    """What the child was told before it died; its last line may be cut."""
    return {int(line.split()[0]): line.split()[1].decode() for line in output.splitlines(True) if line.endswith(b"\n")}


def test_killed_processes_lose_nothing_that_was_acknowledged(
    settings: Settings, database: Database, report: Callable[..., Report]
) -> None:
    told: dict[int, str] = {}
    for number in range(int(os.environ.get("STEMMA_TEST_KILLS", "2"))):
        child = appending(f"child-{number}", 1_000_000)
        assert child.stdout is not None
        output = b"".join(child.stdout.readline() for _ in range(300 + 37 * number))
        child.send_signal(signal.SIGKILL)
        output += child.stdout.read()
        child.wait()
        child.stdout.close()
        told |= acknowledged(output)
        result = report()
        assert result.clean, result.findings
    with database.snapshot() as connection:
        stored = dict(connection.execute("SELECT seq, encode(entry_hash, 'hex') FROM ledger").fetchall())
    assert len(told) >= 600 and {seq: stored.get(seq) for seq in told} == told


def test_two_processes_never_break_a_chain(database: Database, report: Callable[..., Report]) -> None:
    children = [appending(name, 10) for name in ("left", "right")]
    told = [acknowledged(child.communicate(timeout=60)[0]) for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert sorted([*told[0], *told[1]]) == list(range(1, 1281))
    result = report(deep=True)
    assert result.clean and result.chains[0].signed == 1280


def test_ids_can_be_derived_from_what_an_entry_is_about(
    writer: LedgerWriter, new_entry: Callable[..., NewEntry]
) -> None:
    name = uuid.uuid5(uuid.NAMESPACE_URL, "materialization/17")
    first = writer.append([replace(new_entry(1), id=name)]).result(20)
    again = writer.append([replace(new_entry(1), id=name)]).result(20)
    assert first == again and first[0].id == name
