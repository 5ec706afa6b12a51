"""Receipts: what is in one, that each materialization has exactly one, and what happens to those that are altered."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stemma.errors import InvalidInput, NotFound
from stemma.ledger.entries import canonical, entry_hash
from stemma.ledger.receipt_catalog import list_receipts, newest_receipt, read_receipt, read_tree
from stemma.ledger.receipts import Input, Materialization, receipt_id, sync, without_receipt
from stemma.ledger.service import Ledger
from stemma.ledger.signer import sign_once
from stemma.ledger.verification import Report
from stemma.store.database import Database
from stemma.store.outputs import Artifact
from stemma.store.settings import Settings

Make = Callable[..., Materialization]
Tamper = Callable[..., int]
Verify = Callable[..., Report]


@pytest.fixture
def ledger(database: Database, settings: Settings) -> Iterator[Ledger]:
    with Ledger(database.urls, settings) as opened:
        yield opened


def made_from(*materializations: Materialization) -> tuple[Input, ...]:
    return tuple(Input(m.asset, m.partition, m.data_version, m.run_id) for m in materializations)


@pytest.fixture
def family(new_materialization: Make) -> list[Materialization]:
    """Two partitions of a page, and a book made from both and from something that was never materialized."""
    pages = [new_materialization("book/pages", f"run-{name}", event, partition=name)
             for event, name in enumerate(("a", "b"), start=1)]  # fmt: skip
    unknown = Input("book/cover", None, None, None)
    book = new_materialization(
        "book/bound", "run-book", 3, inputs=(*made_from(*pages), unknown), sources=(Artifact("glue", "x/y", "00", 1),)
    )
    return [*pages, book]


def entries(database: Database, chain: str) -> list[tuple[str, dict[str, Any]]]:
    with database.snapshot() as connection:
        rows = connection.execute("SELECT subject, body FROM ledger WHERE chain = %s ORDER BY seq", (chain,)).fetchall()
    return [(subject, json.loads(body)["data"]) for subject, body in rows]


def test_a_receipt_says_everything_itself(database: Database, ledger: Ledger, family: list[Materialization]) -> None:
    assert sync(database, ledger, family).written == 3
    with database.snapshot() as connection:
        book = newest_receipt(connection, "book/bound")
        page = newest_receipt(connection, "book/pages", "a")
    expected = family[2]
    for name in ("run_id", "event", "data_version", "code_version", "commit", "sources", "artifacts", "started_at",
                 "seconds", "cpu_seconds", "cost_usd", "actor", "asset", "partition", "subject"):  # fmt: skip
        assert getattr(book, name) == getattr(expected, name), name
    assert (book.id, book.materialized_at) == (expected.receipt, expected.at)
    first, second, unknown = book.inputs
    assert (first.receipt, first.entry_hash, first.partition) == (page.id, page.entry_hash, "a")
    assert second.entry_hash and (unknown.receipt, unknown.entry_hash) == (None, None)


def test_only_a_changed_data_version_is_a_transition(
    database: Database, ledger: Ledger, new_materialization: Make
) -> None:
    for event, version in enumerate(("v1", "v1", "v2"), start=1):
        made = new_materialization("book/bound", f"run-{event}", event, data_version=version)
        assert sync(database, ledger, [made]).written == 1
    told = [(subject, data["previous"], data["data_version"]) for subject, data in entries(database, "historian")]
    assert told == [("book/bound", None, "v1"), ("book/bound", "v1", "v2")]


def test_what_has_a_receipt_gets_no_other(database: Database, ledger: Ledger, family: list[Materialization]) -> None:
    assert sync(database, ledger, family[:1]).written == 1
    assert without_receipt(database, family) == family[1:]
    assert sync(database, ledger, [*family, *family]).written == 2
    assert sync(database, ledger, family).written == 0
    assert len(entries(database, "receipts")) == 3


def test_two_processes_at_once_write_each_receipt_once(
    database: Database, settings: Settings, new_materialization: Make
) -> None:
    many = [new_materialization("book/bound", f"run-{number}", number) for number in range(1, 21)]
    with Ledger(database.urls, settings) as one, Ledger(database.urls, settings) as other, ThreadPoolExecutor() as pool:
        reports = list(pool.map(lambda ledger: sync(database, ledger, many), (one, other)))
    assert not any(report.refused for report in reports)
    assert sorted(data["run_id"] for _, data in entries(database, "receipts")) == sorted(m.run_id for m in many)


@given(st.data())
@hypothesis_settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_and_any_repeats_give_the_same_receipts(
    database: Database, ledger: Ledger, new_materialization: Make, data: st.DataObject
) -> None:
    case = uuid4().hex
    pages = [new_materialization("book/pages", f"{case}-{n}", n, partition=f"p{n % 2}") for n in range(1, 5)]
    every = [*pages, new_materialization("book/bound", f"{case}-book", 5, inputs=made_from(*pages))]
    for _ in range(data.draw(st.integers(1, 3))):
        sync(database, ledger, data.draw(st.lists(st.sampled_from(every), max_size=6)))
    sync(database, ledger, data.draw(st.permutations(every)))
    stored = [said for _, said in entries(database, "receipts") if said["run_id"].startswith(case)]
    assert sorted(said["run_id"] for said in stored) == sorted(made.run_id for made in every)
    for made in every:
        with database.snapshot() as connection:
            receipt = read_receipt(connection, made.receipt)
        assert (receipt.subject, receipt.artifacts) == (made.subject, made.artifacts)
        # An input that got its receipt later stays without one.
        named = {item.receipt for item in receipt.inputs} - {None}
        assert named <= {item.receipt for item in made.inputs}


def test_what_cannot_have_a_receipt_is_named_after_the_others(
    database: Database, ledger: Ledger, new_materialization: Make
) -> None:
    bad = [
        new_materialization("x/unversioned", "r1", 1, data_version=None),
        new_materialization("x/unhashed", "r2", 2, artifacts=()),
        new_materialization("x/huge", "r3", 3, sources=(Artifact("s", "x/y", "a" * 300_000, 1),)),
        new_materialization("x/invisible", "r4", 4, actor="user:\x07"),
    ]
    good = new_materialization("x/good", "r5", 5)
    report = sync(database, ledger, [*bad, good])
    assert [(r.subject, r.run_id, r.event, r.code) for r in report.refused] == [
        ("x/unversioned", "r1", 1, "data_version_missing"),
        ("x/unhashed", "r2", 2, "output_hash_missing"),
        ("x/huge", "r3", 3, "entry_too_large"),
        ("x/invisible", "r4", 4, "actor_invalid"),
    ]
    assert "x/unhashed, run r2, event 2" in str(report.refused[1])
    assert report.written == 1 and [subject for subject, _ in entries(database, "receipts")] == ["x/good"]


def test_the_id_is_known_before_and_differs_by_run_asset_and_partition() -> None:
    ids = {
        receipt_id(run, asset, partition)
        for run in ("r", "s")
        for asset in ("a/b", "a/b[x]")
        for partition in (None, "", "x")
    }
    assert len(ids) == 12 and receipt_id("r", "a/b", "x") in ids


# Reading


def test_the_tree_leads_back_to_the_sources(
    database: Database, ledger: Ledger, family: list[Materialization], new_materialization: Make
) -> None:
    shelf = new_materialization("book/shelf", "run-shelf", 4, inputs=made_from(family[2], family[0], family[2]))
    sync(database, ledger, [*family, shelf])
    with database.snapshot() as connection:
        tree = read_tree(connection, shelf.receipt)
        flat = read_tree(connection, shelf.receipt, depth=0)
        shallow = read_tree(connection, shelf.receipt, depth=1)
    book, page, again = tree.inputs
    assert [node.receipt.subject for node in tree.inputs] == ["book/bound", "book/pages[a]", "book/bound"]
    assert book.inputs[2].asset == "book/cover" and not page.cut
    assert again.cut and again.inputs == ()
    assert flat.cut and flat.inputs == () and [node.cut for node in shallow.inputs] == [True, False, True]


def test_a_list_is_paged_and_filtered(database: Database, ledger: Ledger, new_materialization: Make) -> None:
    made = [new_materialization("a/b", f"r{n}", n, partition="xy"[n % 2]) for n in range(1, 6)]
    sync(database, ledger, [*made, new_materialization("a/c", "r1", 9)])
    with database.snapshot() as connection:
        first = list_receipts(connection, limit=4)
        rest = list_receipts(connection, limit=4, cursor=first.next_cursor)
        of_x = list_receipts(connection, asset="a/b", partition="x")
        of_run = list_receipts(connection, run_id="r1")
        with pytest.raises(InvalidInput):
            list_receipts(connection, cursor="of another list")
    assert [r.seq for r in (*first.data, *rest.data)] == [6, 5, 4, 3, 2, 1] and rest.next_cursor is None
    assert [r.run_id for r in of_x.data] == ["r4", "r2"]
    assert {r.subject for r in of_run.data} == {"a/b[y]", "a/c"}


def test_a_partition_is_asked_for_where_there_are_several(
    database: Database, ledger: Ledger, family: list[Materialization]
) -> None:
    sync(database, ledger, family)
    with database.snapshot() as connection:
        with pytest.raises(InvalidInput, match="a, b"):
            newest_receipt(connection, "book/pages")
        with pytest.raises(NotFound):
            newest_receipt(connection, "book/pages", "c")
        with pytest.raises(NotFound):
            read_receipt(connection, uuid4())


# Tampering


@pytest.fixture
def issued(database: Database, ledger: Ledger, settings: Settings, family: list[Materialization]) -> None:
    """Three receipts under a head."""
    sync(database, ledger, family)
    ledger.close()
    sign_once(database.urls.app, settings)


def findings(report: Report) -> set[tuple[str, str | None, int | None]]:
    assert not report.clean
    return {(finding.code, finding.chain, finding.seq) for finding in report.findings}


def moved(body: bytes) -> bytes:
    """The receipt of `book/pages[a]` as one of another asset."""
    document = json.loads(body)
    document["subject"] = "book/forged"
    document["data"] |= {"asset": "book/forged", "partition": None}
    return canonical(document)


def bodies(database: Database) -> list[tuple[int, bytes, bytes]]:
    with database.snapshot() as connection:
        return connection.execute(
            "SELECT seq, prev_hash, body FROM ledger WHERE chain = 'receipts' ORDER BY seq"
        ).fetchall()


def test_untouched_receipts_are_clean(issued: None, report: Verify) -> None:
    assert report(deep=True).clean and report(chain="receipts").clean


def test_a_receipt_moved_to_another_asset_by_its_column(issued: None, tamper: Tamper, report: Verify) -> None:
    tamper("UPDATE ledger SET subject = 'book/forged' WHERE chain = 'receipts' AND seq = 1")
    found = report()
    assert findings(found) == {("column_edited", "receipts", 1)} and "subject" in found.findings[0].message


def test_a_receipt_moved_to_another_asset_by_its_body(
    issued: None, tamper: Tamper, report: Verify, database: Database
) -> None:
    forged = moved(bodies(database)[0][2])
    tamper(("UPDATE ledger SET body = %s, subject = 'book/forged' WHERE chain = 'receipts' AND seq = 1", (forged,)))
    found = report()
    assert findings(found) == {("body_edited", "receipts", 1), ("receipt_moved", "receipts", 1)}
    assert any("book/forged" in f.message and "book/pages[a]" in f.message for f in found.findings)


@pytest.mark.parametrize("filed", [False, True], ids=["ledger alone", "with the table of receipts"])
def test_a_receipt_moved_to_another_asset_with_the_whole_chain_after_it(
    issued: None, tamper: Tamper, report: Verify, database: Database, filed: bool
) -> None:
    stored = bodies(database)
    before = stored[0][1]
    for seq, _, body in stored:
        body = moved(body) if seq == 1 else body
        hashed = entry_hash(before, seq, body)
        tamper((
            "UPDATE ledger SET body = %s, prev_hash = %s, entry_hash = %s, subject = %s"
            " WHERE chain = 'receipts' AND seq = %s",
            (body, before, hashed, json.loads(body)["subject"], seq),
        ))  # fmt: skip
        before = hashed
    if filed:
        tamper(
            "ALTER TABLE receipts DISABLE TRIGGER ALL",
            "UPDATE receipts SET asset = 'book/forged', partition = NULL WHERE seq = 1",
        )
    named = findings(report())
    assert ("chain_rewritten", "receipts", 1) in named
    assert (("receipt_moved", "receipts", 1) in named) is not filed


def test_a_receipt_filed_under_another_asset(issued: None, tamper: Tamper, report: Verify) -> None:
    change = "ALTER TABLE receipts DISABLE TRIGGER ALL"
    for column, value in (("asset", "book/forged"), ("partition", "z"), ("run_id", "other"), ("seq", 99)):
        (kept,) = ("a",) if column == "partition" else ("book/pages",) if column == "asset" else ("run-a",)
        kept = 1 if column == "seq" else kept
        tamper(change, (f"UPDATE receipts SET {column} = %s WHERE run_id = 'run-a'", (value,)))
        assert findings(report()) == {("receipt_moved", "receipts", 1)}, column
        tamper((f"UPDATE receipts SET {column} = %s WHERE {column} = %s", (kept, value)))
    tamper("DELETE FROM receipts WHERE seq = 2")
    assert findings(report()) == {("receipt_moved", "receipts", 2)}
    tamper("INSERT INTO receipts VALUES (gen_random_uuid(), 9, 'book/forged', NULL, 'r')")
    assert findings(report()) == {("receipt_moved", "receipts", 2), ("receipt_moved", "receipts", None)}
    assert report(chain="historian").clean


def test_nobody_changes_the_table_of_receipts(issued: None, database: Database) -> None:
    for statement in ("UPDATE receipts SET asset = 'x'", "DELETE FROM receipts", "TRUNCATE receipts"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), database.owner() as connection:
            connection.execute(statement)


def test_a_damaged_receipt_keeps_nobody_from_getting_the_next(
    issued: None, tamper: Tamper, database: Database, settings: Settings, new_materialization: Make
) -> None:
    noise = random.Random(1).randbytes(64)
    tamper(("UPDATE ledger SET body = %s WHERE chain = 'receipts' AND subject = 'book/bound'", (noise,)))
    with Ledger(database.urls, settings) as ledger:
        report = sync(database, ledger, [new_materialization("book/bound", "later", 9)])
    assert report.written == 1 and report.refused == ()
