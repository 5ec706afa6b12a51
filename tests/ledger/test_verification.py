"""Tampering as the database's owner with the triggers off: each way is found and named."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stemma.errors import InvalidInput, NotFound
from stemma.ledger.entries import Entry, NewEntry, canonical, entry_hash, genesis
from stemma.ledger.heads import HeadStore
from stemma.ledger.keys import signing_key
from stemma.ledger.signer import sign_once
from stemma.ledger.verification import MAX_FINDINGS, Report
from stemma.ledger.writer import LedgerWriter
from stemma.store.database import Database
from stemma.store.settings import Settings

CHAIN = "decisions:finance"
Tamper = Callable[..., int]
Verify = Callable[..., Report]


def named(report: Report) -> set[tuple[str, int | None]]:
    """The findings without their words."""
    assert not report.clean
    return {(finding.code, finding.seq) for finding in report.findings}


def edited(entry: Entry) -> bytes:
    document = json.loads(entry.body)
    document["data"]["amount"] = 1_000_000
    return canonical(document)


def rewrite(tamper: Tamper, entries: list[Entry], start: int) -> None:
    """Give the chain another entry `start` and recompute everything after it."""
    before = entries[start - 2].entry_hash if start > 1 else genesis(CHAIN)
    for entry in entries[start - 1 :]:
        body = edited(entry) if entry.seq == start else entry.body
        hashed = entry_hash(before, entry.seq, body)
        tamper((
            "UPDATE ledger SET body = %s, prev_hash = %s, entry_hash = %s WHERE chain = %s AND seq = %s",
            (body, before, hashed, CHAIN, entry.seq),
        ))  # fmt: skip
        before = hashed


def test_an_untouched_ledger_is_clean(filled: list[Entry], report: Verify) -> None:
    result = report(deep=True)
    assert result.clean and result.findings == () and result.entries == 15 and result.heads == 1
    assert [(chain.chain, chain.entries, chain.signed) for chain in result.chains] == [
        ("audit", 3, 3),
        (CHAIN, 12, 12),
    ]
    assert report(chain="audit").entries == 3


def test_an_empty_ledger_is_clean(report: Verify) -> None:
    assert report().clean


def test_a_ledger_whose_first_head_is_still_to_come_is_clean(
    writer: LedgerWriter, new_entry: Callable[..., NewEntry], report: Verify, settings: Settings
) -> None:
    """As a process leaves it that dies after it made the key and before it kept a head."""
    writer.append([new_entry(1)]).result(20)
    signing_key(settings)
    assert report().clean


def test_an_edited_body(filled: list[Entry], tamper: Tamper, report: Verify) -> None:
    tamper(("UPDATE ledger SET body = %s WHERE chain = %s AND seq = 5", (edited(filled[4]), CHAIN)))
    assert named(report()) == {("body_edited", 5)}


def test_an_edited_hash(filled: list[Entry], tamper: Tamper, report: Verify) -> None:
    tamper(("UPDATE ledger SET entry_hash = %s WHERE chain = %s AND seq = 5", (bytes(32), CHAIN)))
    assert ("hash_edited", 5) in named(report())


def test_an_edited_previous_hash(filled: list[Entry], tamper: Tamper, report: Verify) -> None:
    tamper(("UPDATE ledger SET prev_hash = %s WHERE chain = %s AND seq = 5", (bytes(32), CHAIN)))
    assert named(report()) == {("prev_hash_edited", 5)}


def test_a_deleted_last_row(filled: list[Entry], tamper: Tamper, report: Verify) -> None:
    assert tamper(("DELETE FROM ledger WHERE chain = %s AND seq = 12", (CHAIN,))) == 1
    assert named(report()) == {("tail_missing", 12)}
    assert report(chain="audit").clean


def test_a_deleted_chain(filled: list[Entry], tamper: Tamper, report: Verify) -> None:
    tamper("DELETE FROM ledger WHERE chain = 'audit'")
    (finding,) = report().findings
    assert (finding.code, finding.chain) == ("chain_missing", "audit")
    tamper("TRUNCATE ledger")
    assert {finding.chain for finding in report().findings} == {"audit", CHAIN}


def test_a_missing_row(filled: list[Entry], tamper: Tamper, report: Verify) -> None:
    tamper(("DELETE FROM ledger WHERE chain = %s AND seq BETWEEN 4 AND 6", (CHAIN,)))
    assert ("entry_missing", 4) in named(report())
    tamper(("DELETE FROM ledger WHERE chain = %s AND seq = 1", (CHAIN,)))
    assert {("entry_missing", 1), ("entry_missing", 4)} <= named(report())


def test_a_row_rewritten_with_its_own_hash(filled: list[Entry], tamper: Tamper, report: Verify) -> None:
    body = edited(filled[4])
    hashed = entry_hash(filled[4].prev_hash, 5, body)
    tamper((
        "UPDATE ledger SET body = %s, entry_hash = %s WHERE chain = %s AND seq = 5", (body, hashed, CHAIN)
    ))  # fmt: skip
    assert ("link_broken", 6) in named(report())


@pytest.mark.parametrize("start", [1, 5, 12])
def test_a_row_rewritten_with_the_whole_chain_after_it(
    filled: list[Entry], tamper: Tamper, report: Verify, start: int
) -> None:
    rewrite(tamper, filled[:12], start)
    assert named(report()) == {("chain_rewritten", 1)}


def test_several_heads_narrow_down_where_it_was_rewritten(
    filled: list[Entry],
    tamper: Tamper,
    report: Verify,
    writer: LedgerWriter,
    database: Database,
    settings: Settings,
    new_entry: Callable[..., NewEntry],
    tmp_path: Path,
) -> None:
    first = HeadStore(settings).newest()
    assert first is not None
    (tmp_path / "kept.json").write_bytes(first.to_bytes())
    later = [writer.append([new_entry(number)]).result(20)[0] for number in (13, 14, 15)]
    sign_once(database.urls.app, settings)
    # The signer leaves it where the second head is of another hour.
    HeadStore(settings).supersede(first.key)
    rewrite(tamper, [*filled[:12], *later], 14)
    assert named(report()) == {("chain_rewritten", 1)}
    assert named(report(head_file=tmp_path / "kept.json")) == {("chain_rewritten", 13)}


def test_a_swapped_pair(filled: list[Entry], tamper: Tamper, report: Verify) -> None:
    swap = "UPDATE ledger SET seq = %s WHERE chain = %s AND seq = %s"
    tamper((swap, (99, CHAIN, 4)), (swap, (4, CHAIN, 9)), (swap, (9, CHAIN, 99)))
    assert {("entry_moved", 4), ("entry_moved", 9)} <= named(report())


def test_swapped_bodies(filled: list[Entry], tamper: Tamper, report: Verify) -> None:
    for seq, other in ((4, filled[4]), (5, filled[3])):
        tamper(("UPDATE ledger SET body = %s WHERE chain = %s AND seq = %s", (other.body, CHAIN, seq)))
    found = report()
    assert named(found) == {("entry_moved", 4), ("entry_moved", 5)}


def test_an_entry_moved_to_another_chain(filled: list[Entry], tamper: Tamper, report: Verify) -> None:
    """With every hash made anew, so that only the body tells."""
    tail, moved = filled[14], filled[11]
    hashed = entry_hash(tail.entry_hash, 4, moved.body)
    tamper((
        "UPDATE ledger SET chain = 'audit', seq = 4, prev_hash = %s, entry_hash = %s WHERE chain = %s AND seq = 12",
        (tail.entry_hash, hashed, CHAIN),
    ))  # fmt: skip
    assert {("entry_moved", 4), ("tail_missing", 12)} == named(report())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("subject", "invoice/999"),
        ("kind", "payment"),
        ("actor", "user:mallory"),
        ("id", "00000000-0000-0000-0000-000000000001"),
        ("created_at", "infinity"),
        ("created_at", "2001-01-01"),
    ],
)
def test_a_column_that_no_longer_says_what_the_body_says(
    filled: list[Entry], tamper: Tamper, report: Verify, column: str, value: str
) -> None:
    tamper((f"UPDATE ledger SET {column} = %s WHERE chain = %s AND seq = 7", (value, CHAIN)))
    found = report()
    assert named(found) == {("column_edited", 7)}
    assert column.replace("created_", "") in found.findings[0].message


def test_a_doubled_row_and_nulls_where_constraints_were_dropped(
    filled: list[Entry], tamper: Tamper, report: Verify
) -> None:
    tamper(
        "ALTER TABLE ledger DROP CONSTRAINT ledger_pkey, DROP CONSTRAINT ledger_id_key",
        "INSERT INTO ledger SELECT * FROM ledger WHERE seq = 2 AND chain = 'audit'",
    )
    assert ("seq_duplicate", 2) in named(report())
    for column in ("body", "prev_hash", "entry_hash", "kind", "seq", "chain"):
        tamper(f"ALTER TABLE ledger ALTER {column} DROP NOT NULL")
        tamper(f"UPDATE ledger SET {column} = NULL WHERE seq = 3 AND chain = 'audit'")
        assert not report(deep=True).clean
    tamper((f"UPDATE ledger SET seq = %s WHERE chain = '{CHAIN}' AND seq = 4", (2**63 - 1,)))
    assert not report().clean


def test_a_body_that_is_not_canonical(filled: list[Entry], tamper: Tamper, report: Verify) -> None:
    entry = filled[14]
    for body, code in ((entry.body.replace(b":", b": ", 1), "not_canonical"), (b"[]", "body_unreadable")):
        hashed = entry_hash(entry.prev_hash, 3, body)
        tamper((
            "UPDATE ledger SET body = %s, entry_hash = %s WHERE chain = 'audit' AND seq = 3", (body, hashed)
        ))  # fmt: skip
        assert (code, 3) in named(report(deep=True))


def test_forged_heads(filled: list[Entry], tamper: Tamper, report: Verify, settings: Settings, tmp_path: Path) -> None:
    """A head that covers less hides a deletion only if it is believed."""
    store = HeadStore(settings)
    (key,) = store.keys()
    path = settings.home / "ledger-heads" / key
    genuine = path.read_text()
    for change in (
        lambda head: head["head"]["chains"][1].update(size=11),
        lambda head: head["head"].update(time="2031-01-01T00:00:00.000000Z"),
        lambda head: head["head"].update(key_id="0" * 16),
        lambda head: head.update(signature="A" * 86 + "=="),
    ):
        document = json.loads(genuine)
        change(document)
        path.write_text(json.dumps(document))
        assert {code for code, _ in named(report())} == {"head_forged", "heads_missing"}
    document = json.loads(genuine)
    document["frontiers"]["audit"] = ["00" * 32, "11" * 32]
    path.write_text(json.dumps(document))
    assert {code for code, _ in named(report())} == {"head_forged"}
    for text in ("", "{}", "[" * 100_000, '{"head": {"version": 1}}', genuine[:-20]):
        path.write_text(text)
        assert {code for code, _ in named(report())} == {"head_unreadable", "heads_missing"}
    path.unlink()
    assert {code for code, _ in named(report())} == {"heads_missing"}


def test_a_kept_head_outlives_the_store(
    filled: list[Entry], tamper: Tamper, report: Verify, settings: Settings, tmp_path: Path
) -> None:
    store = HeadStore(settings)
    (key,) = store.keys()
    kept = tmp_path / "kept.json"
    kept.write_bytes((settings.home / "ledger-heads" / key).read_bytes())
    assert report(head_file=kept).clean
    tamper(("DELETE FROM ledger WHERE chain = %s AND seq > 10", (CHAIN,)))
    store.supersede(key)
    assert ("tail_missing", 11) in named(report(head_file=kept))
    with pytest.raises(NotFound):
        report(head_file=tmp_path / "none.json")
    kept.write_text("no head")
    with pytest.raises(InvalidInput) as caught:
        report(head_file=kept)
    assert caught.value.code == "head_unreadable"


def test_a_replaced_key_is_nobodys(filled: list[Entry], report: Verify, settings: Settings) -> None:
    history = settings.home / "keys" / "ledger-public-keys.json"
    (key,) = json.loads(history.read_text())
    history.write_text(json.dumps([key | {"public": "A" * 43 + "="}]))
    assert {"key_history_broken", "head_forged"} <= {code for code, _ in named(report())}


def test_there_is_an_end_to_findings(
    tamper: Tamper, report: Verify, writer: LedgerWriter, new_entry: Callable[..., NewEntry]
) -> None:
    for batch in range(3):
        writer.append([new_entry(batch * 500 + number) for number in range(500)]).result(20)
    tamper("UPDATE ledger SET actor = 'user:mallory'")
    result = report()
    assert len(result.findings) == MAX_FINDINGS and result.omitted == 500


FLIPPED = ("chain", "prev_hash", "body", "entry_hash", "kind", "actor", "subject", "seq", "id", "created_at")


def flip(rng: random.Random, connection: psycopg.Connection, chain: str, seq: int) -> str | None:
    """Change one byte of one column's bytes; returns the column, or None where its type refuses the result."""
    column = rng.choice(FLIPPED)
    where = "FROM ledger WHERE chain = %s AND seq = %s"
    (kind,) = connection.execute(f"SELECT pg_typeof({column})::text {where}", (chain, seq)).fetchone() or ("",)
    reading = {
        "bytea": "{}",
        "text": "convert_to({}, 'UTF8')",
        "bigint": "int8send({})",
        "uuid": "uuid_send({})",
        "timestamp with time zone": "timestamptz_send({})",
    }[kind].format(column)
    (raw,) = connection.execute(f"SELECT {reading} {where}", (chain, seq)).fetchone() or (b"",)
    flipped = bytearray(raw)
    flipped[rng.randrange(len(raw))] ^= rng.randrange(1, 256)
    try:
        value: Any = bytes(flipped)
        if kind == "text":
            value = value.decode()
        elif kind == "uuid":
            value = value.hex()
        elif kind != "bytea":
            value = int.from_bytes(value, "big", signed=True)
        given = "'2000-01-01 UTC'::timestamptz + %s * interval '1 microsecond'" if kind.startswith("time") else "%s"
        with connection.transaction():
            connection.execute(
                f"UPDATE ledger SET {column} = {given} WHERE chain = %s AND seq = %s", (value, chain, seq)
            )
    except (psycopg.Error, UnicodeDecodeError):
        return None
    return column


def test_random_flips_are_all_found(filled: list[Entry], database: Database, report: Verify, tamper: Tamper) -> None:
    rng = random.Random(8785)
    columns = set()
    tamper("CREATE TABLE good AS SELECT * FROM ledger")
    flipped = 0
    while flipped < int(os.environ.get("STEMMA_TEST_FLIPS", "250")):
        entry = filled[rng.randrange(len(filled))]
        with psycopg.connect(database.urls.owner) as connection:
            connection.execute("ALTER TABLE ledger DISABLE TRIGGER ALL")
            column = flip(rng, connection, entry.chain, entry.seq)
        if column is None:
            continue
        flipped += 1
        columns.add(column)
        assert not report().clean, (flipped, column)
        tamper("TRUNCATE ledger", "INSERT INTO ledger SELECT * FROM good")
    assert columns == set(FLIPPED)
    assert report().clean


def test_hashing_is_what_the_documents_say(filled: list[Entry]) -> None:
    """Anyone can check an entry with SHA-256 alone."""
    before = sha256(b"stemma ledger chain\x00" + CHAIN.encode()).digest()
    for seq, entry in enumerate(filled[:12], start=1):
        before = sha256(before + seq.to_bytes(8, "big") + entry.body).digest()
        assert before == entry.entry_hash
