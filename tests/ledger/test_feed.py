"""Reading a chain as a feed: whatever the filter and the pages, every entry that is wanted comes once, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from stemma.errors import InvalidInput
from stemma.ledger.entries import Entry, NewEntry
from stemma.ledger.feed import Filter, Stretch, follow, list_entries, read_after, read_tails, tail
from stemma.ledger.writer import LedgerWriter
from stemma.store.database import Connection, Database

KINDS = ("key.created", "key.revoked", "keyring.made", "run.failed")
ACTORS = ("user:ada", "user:bob")
SUBJECTS = ("a", "b", "c")


@pytest.fixture
def journal(writer: LedgerWriter) -> list[Entry]:
    """Sixty entries of the Historian, as one after the other, and others of another chain."""
    made = [
        NewEntry("historian", KINDS[n * 7 % 4], ACTORS[n * 5 % 2], SUBJECTS[n * 11 % 3], {"number": n})
        for n in range(60)
    ]
    futures = [writer.append([entry]) for entry in made]
    writer.append([NewEntry("audit", "key.created", "user:ada", "a", {}) for _ in range(5)]).result(20)
    return [entry for future in futures for entry in future.result(20)]


def matches(entry: Entry, wanted: Filter) -> bool:
    kind = wanted.kind or entry.kind
    return (
        (entry.kind.startswith(kind) if kind.endswith(".") else entry.kind == kind)
        and entry.subject == (wanted.subject or entry.subject)
        and entry.actor == (wanted.actor or entry.actor)
        and (wanted.since is None or entry.created_at >= wanted.since)
        and (wanted.until is None or entry.created_at < wanted.until)
    )


def pages(connection: Connection, wanted: Filter, limit: int) -> list[Entry]:
    page = list_entries(connection, "historian", wanted, limit=limit)
    found = list(page.data)
    while page.next_cursor is not None:
        page = list_entries(connection, "historian", wanted, cursor=page.next_cursor, limit=limit)
        assert 0 < len(page.data) <= limit
        found += page.data
    return found


def stretches(connection: Connection, wanted: Filter, limit: int) -> list[Entry]:
    stretch = Stretch((), 0, more=True)
    found: list[Entry] = []
    while stretch.more:
        stretch = read_after(connection, "historian", wanted, stretch.seq, limit=limit)
        found += stretch.entries
    assert stretch.seq == tail(connection, "historian")
    return found


@given(data=st.data(), limit=st.integers(1, 70))
@examples(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_wanted_entry_comes_once_and_in_order(
    journal: list[Entry], database: Database, data: st.DataObject, limit: int
) -> None:
    times = st.none() | st.sampled_from([entry.created_at for entry in journal])
    wanted = Filter(
        data.draw(st.sampled_from([None, "key.", "run.", "key.created", "none.such"])),
        data.draw(st.sampled_from([None, *SUBJECTS])),
        data.draw(st.sampled_from([None, *ACTORS])),
        data.draw(times),
        data.draw(times),
    )
    expected = [entry for entry in journal if matches(entry, wanted)]
    with database.snapshot() as connection:
        assert pages(connection, wanted, limit) == expected[::-1]
        assert stretches(connection, wanted, limit) == expected


def test_what_a_filter_leaves_out_is_passed_over_for_good(journal: list[Entry], database: Database) -> None:
    with database.snapshot() as connection:
        stretch = read_after(connection, "historian", Filter(kind="none.such"), 0)
        assert stretch == Stretch((), len(journal), more=False)
        assert read_after(connection, "historian", Filter(), len(journal) + 7).seq == len(journal) + 7
        assert read_tails(connection) == {"audit": 5, "historian": 60}
        assert tail(connection, "none") == 0


def test_a_page_is_bounded_in_bytes(writer: LedgerWriter, database: Database) -> None:
    for number in range(9):
        writer.append([NewEntry("historian", "note.made", "a", "b", {"n": number, "text": "x" * 200_000})]).result(20)
    with database.snapshot() as connection:
        page = list_entries(connection, "historian", Filter(), limit=9)
        assert len(page.data) == 6 and page.next_cursor
        stretch = read_after(connection, "historian", Filter(), 0)
        assert (len(stretch.entries), stretch.more) == (6, True)
        assert [entry.seq for entry in pages(connection, Filter(), 9)] == list(range(9, 0, -1))


@pytest.mark.parametrize("kind", ["", ".", "Key.created", "key.created.", "key..", "x" * 128, "key created", "é"])
def test_what_is_no_kind_is_refused(kind: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Filter(kind=kind)
    assert (caught.value.code, caught.value.field) == ("kind_invalid", "kind")


@pytest.mark.parametrize("text", ["a\x1b[31m", "a\nb", "\udc80", "x" * 501])
def test_subjects_and_actors_that_no_entry_has_are_refused(text: str) -> None:
    for field in ("subject", "actor"):
        with pytest.raises(InvalidInput) as caught:
            Filter(**{field: text})
        assert caught.value.field == field


def test_a_cursor_of_another_chain_is_refused(journal: list[Entry], database: Database) -> None:
    with database.snapshot() as connection:
        cursor = list_entries(connection, "historian", Filter(), limit=1).next_cursor
        with pytest.raises(InvalidInput, match="cursor"):
            list_entries(connection, "audit", Filter(), cursor=cursor)


def test_following_gives_what_is_there_and_what_comes(
    journal: list[Entry], writer: LedgerWriter, database: Database, new_entry: Callable[..., NewEntry]
) -> None:
    entries = follow(database.urls, "historian", Filter(), 58)
    assert [next(entries).seq for _ in range(2)] == [59, 60]

    def write() -> None:
        for number, chain in ((1, "historian"), (2, "elsewhere"), (3, "historian")):
            writer.append([new_entry(number, chain)]).result(20)

    later = threading.Thread(target=write)
    later.start()
    assert [next(entries).seq for _ in range(2)] == [61, 62]
    later.join()
