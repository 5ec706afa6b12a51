"""Heads: signed soon after a commit, kept in the second store, never at odds with each other; keys and proofs."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from stemma.errors import CheckFailed, NotFound, StemmaError, Unavailable
from stemma.ledger import proofs, signer
from stemma.ledger.entries import Entry, NewEntry
from stemma.ledger.heads import HeadStore, sign_head
from stemma.ledger.keys import keys_folder, public_keys, rotate_signing_key, signing_key
from stemma.ledger.proofs import prove_consistency, prove_inclusion
from stemma.ledger.service import Ledger
from stemma.ledger.signer import LedgerSigner, sign_once
from stemma.ledger.verification import Report
from stemma.ledger.writer import LedgerWriter
from stemma.store.database import Connection, Database
from stemma.store.settings import REPOSITORY, Settings

CHAIN = "decisions:finance"
Until = Callable[..., None]


def covered(settings: Settings, chain: str = CHAIN) -> int:
    newest = HeadStore(settings).newest()
    tree = newest.head.of(chain) if newest else None
    return tree.size if tree else 0


def test_a_head_follows_each_commit_and_proves_it(
    database: Database,
    settings: Settings,
    new_entry: Callable[..., NewEntry],
    until: Until,
    report: Callable[..., Report],
) -> None:
    with Ledger(database.urls, settings) as ledger:
        for number in range(1, 8):
            (entry,) = ledger.append([new_entry(number)]).result(20)
            until(lambda entry=entry: covered(settings) >= entry.seq, "a head")
            head = HeadStore(settings).newest()
            assert head is not None
            with database.snapshot() as connection:
                proof = prove_inclusion(connection, head, CHAIN, entry.seq)
            assert proof.holds(public_keys(settings))
            assert not replace(proof, entry_hash=bytes(32)).holds(public_keys(settings))
            assert not replace(proof, seq=proof.seq + 1).holds(public_keys(settings))
            assert not proof.holds({})
        until(lambda: ledger.status().head_key == HeadStore(settings).keys()[-1])
        assert ledger.status().leading and ledger.status().alert is None
    assert report().clean


def test_closing_signs_the_tail(
    database: Database, settings: Settings, new_entry: Callable[..., NewEntry], until: Until
) -> None:
    with Ledger(database.urls, settings) as ledger:
        until(lambda: ledger.status().leading)
        futures = [ledger.append([new_entry(number)]) for number in range(50)]
    assert all(future.done() for future in futures) and covered(settings) == 50


def test_what_comes_from_others_while_the_signer_ends_is_signed(
    database: Database,
    settings: Settings,
    writer: LedgerWriter,
    new_entry: Callable[..., NewEntry],
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resign, left = signer._resign, [1, 2]

    def come_and_go_before(connection: Connection) -> None:
        if left:
            writer.append([new_entry(left.pop())]).result(20)
            assert sign_once(database.urls.app, settings) is None
        resign(connection)

    monkeypatch.setattr(signer, "_resign", come_and_go_before)
    with LedgerSigner(database.urls.app, settings) as ending:
        until(lambda: ending.status().leading)
    assert left == [] and covered(settings) == 2


def test_starting_signs_what_others_left(
    database: Database, settings: Settings, writer: LedgerWriter, new_entry: Callable[..., NewEntry], until: Until
) -> None:
    writer.append([new_entry(1)]).result(20)
    with LedgerSigner(database.urls.app, settings) as started:
        until(lambda: covered(settings) == 1)
        writer.append([new_entry(2), new_entry(1, "audit")]).result(20)
        until(lambda: covered(settings) == 2 and covered(settings, "audit") == 1)
        until(lambda: started.status().head_at is not None)


def test_one_process_signs_and_another_takes_over(
    database: Database, settings: Settings, writer: LedgerWriter, new_entry: Callable[..., NewEntry], until: Until
) -> None:
    first, second = LedgerSigner(database.urls.app, settings), LedgerSigner(database.urls.app, settings)
    try:
        until(lambda: first.status().leading or second.status().leading)
        assert sign_once(database.urls.app, settings) is None
        leader, other = (first, second) if first.status().leading else (second, first)
        assert not other.status().leading
        leader.close()
        until(lambda: other.status().leading)
        writer.append([new_entry(1)]).result(20)
        until(lambda: covered(settings) == 1)
    finally:
        first.close()
        second.close()


def test_heads_of_one_hour_supersede_one_another_and_are_consistent(
    filled: list[Entry],
    database: Database,
    settings: Settings,
    writer: LedgerWriter,
    new_entry: Callable[..., NewEntry],
) -> None:
    store = HeadStore(settings)
    old = store.newest()
    writer.append([new_entry(13)]).result(20)
    new = sign_once(database.urls.app, settings)
    assert old is not None and new is not None and new.head.time > old.head.time
    assert store.keys() == ([new.key] if old.key[:13] == new.key[:13] else [old.key, new.key])
    assert sign_once(database.urls.app, settings) is None
    keys = public_keys(settings)
    with database.snapshot() as connection:
        proof = prove_consistency(connection, old, new, CHAIN)
        assert proof.holds(keys) and not replace(proof, path=(bytes(32), *proof.path[1:])).holds(keys)
        with pytest.raises(NotFound):
            prove_consistency(connection, new, old, CHAIN)


def test_a_proof_needs_an_entry_a_head_and_what_was_signed(
    filled: list[Entry],
    database: Database,
    settings: Settings,
    writer: LedgerWriter,
    new_entry: Callable[..., NewEntry],
    tamper: Callable[..., int],
) -> None:
    head = HeadStore(settings).newest()
    assert head is not None
    writer.append([new_entry(13)]).result(20)
    for chain, seq, code in (
        (CHAIN, 13, "head_pending"),
        (CHAIN, 14, "entry_not_found"),
        (CHAIN, 0, "entry_not_found"),
        ("none", 1, "entry_not_found"),
    ):
        with database.snapshot() as connection, pytest.raises(StemmaError) as caught:
            prove_inclusion(connection, head, chain, seq)
        assert caught.value.code == code
    tamper(("UPDATE ledger SET entry_hash = %s WHERE seq = 2", (bytes(32),)))
    with database.snapshot() as connection, pytest.raises(CheckFailed) as failed:
        prove_inclusion(connection, head, CHAIN, 1)
    assert failed.value.code == "ledger_contradicts_head"


def test_every_entry_is_proved_under_every_head_and_block_by_block(
    database: Database,
    settings: Settings,
    writer: LedgerWriter,
    new_entry: Callable[..., NewEntry],
    tamper: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blocks of four hashes instead of 1,024, so that a short chain has what a long one has."""
    monkeypatch.setattr(proofs, "_BLOCK", 4)
    monkeypatch.setattr(proofs, "_BLOCKS_AT_ONCE", 2)
    monkeypatch.setattr(proofs, "_REMEMBERED", 2)
    sizes, heads = [1, 2, 7, 16, 21, 31, 32, 43], []
    for before, size in pairwise([0, *sizes]):
        writer.append([new_entry(number) for number in range(before, size)]).result(20)
        heads.append(sign_once(database.urls.app, settings))
    keys = public_keys(settings)
    with database.snapshot() as connection:
        for number, head in enumerate(heads):
            for seq in range(1, sizes[number] + 1):
                assert prove_inclusion(connection, head, CHAIN, seq).holds(keys)
            for old in heads[: number + 1]:
                assert prove_consistency(connection, old, head, CHAIN).holds(keys)
    proofs.forget()
    tamper(("UPDATE ledger SET entry_hash = %s WHERE seq = 30", (bytes(32),)))
    with database.snapshot() as connection:
        # Under the last head, entries 1 to 32 make one subtree; those after it do not lean on what is in there.
        assert prove_inclusion(connection, heads[-1], CHAIN, 33).holds(keys)
        with pytest.raises(CheckFailed):
            prove_inclusion(connection, heads[-1], CHAIN, 1)
    tamper("DELETE FROM ledger WHERE seq = 43")
    with database.snapshot() as connection, pytest.raises(CheckFailed) as caught:
        prove_inclusion(connection, heads[-1], CHAIN, 43)
    assert caught.value.code == "ledger_contradicts_head"


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM ledger WHERE seq = 12",
        "DELETE FROM ledger WHERE chain = 'audit'",
        "UPDATE ledger SET entry_hash = sha256('x') WHERE chain = 'decisions:finance' AND seq = 12",
    ],
)
def test_nothing_that_contradicts_a_head_is_signed(
    filled: list[Entry],
    database: Database,
    settings: Settings,
    tamper: Callable[..., int],
    until: Until,
    statement: str,
) -> None:
    tamper(
        statement,
        "INSERT INTO ledger SELECT chain, 13, prev_hash, body, entry_hash, gen_random_uuid(), kind, actor, subject,"
        " created_at FROM ledger WHERE chain = 'decisions:finance' AND seq = 11",
    )
    before = HeadStore(settings).keys()
    with pytest.raises(CheckFailed) as caught:
        sign_once(database.urls.app, settings)
    assert caught.value.code == "ledger_contradicts_head"
    with LedgerSigner(database.urls.app, settings) as started:
        until(lambda: started.status().alert_code == "ledger_contradicts_head")
    assert HeadStore(settings).keys() == before


def test_a_forged_newest_head_is_not_continued(
    filled: list[Entry],
    database: Database,
    settings: Settings,
    writer: LedgerWriter,
    new_entry: Callable[..., NewEntry],
) -> None:
    (key,) = HeadStore(settings).keys()
    path = settings.home / "ledger-heads" / key
    genuine = json.loads(path.read_text())
    for part, value in (("signature", "A" * 86 + "=="), ("frontiers", {})):
        path.write_text(json.dumps({**genuine, part: value}))
        with pytest.raises(CheckFailed) as caught:
            sign_once(database.urls.app, settings)
        assert caught.value.code == "head_forged"


FULL_STORE = """
    import resource, signal, sys, time
    from stemma.ledger.entries import NewEntry
    from stemma.ledger.service import Ledger
    from stemma.store.database import resolve_urls
    from stemma.store.settings import load_settings

    def until(condition):
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, ledger.status()
            time.sleep(0.01)

    settings = load_settings()
    ledger = Ledger(resolve_urls(settings), settings)
    send = lambda n: ledger.append([NewEntry("audit", "k", "a", f"s{n}", {})]).result(20)
    send(0)
    until(lambda: ledger.status().head_key)
    first = ledger.status().head_key
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    for n in range(1, 20):
        send(n)
    until(lambda: ledger.status().alert_code)
    print(ledger.status().alert_code, flush=False)
    assert ledger.status().head_key == first
    send(20)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    until(lambda: ledger.status().alert_code is None and ledger.status().head_key != first)
    ledger.close()
"""


def test_a_full_second_store_holds_up_nothing_and_the_head_comes_later(
    settings: Settings, database: Database, report: Callable[..., Report]
) -> None:
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_STORE)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert (child.returncode, child.stdout) == (0, "disk_full\n"), child.stderr
    assert child.stderr.count("no head of the ledger can be signed") == 1
    assert covered(settings, "audit") == 21 and report().clean


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A file system in memory that has no room left, and what makes room on it again."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("this user may not mount a file system of its own")
    try:
        with contextlib.suppress(OSError), (folder / "filling").open("wb", buffering=0) as filling:
            while True:
                filling.write(bytes(4096))
        yield folder, (folder / "filling").unlink
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_real_disk_without_room_holds_up_nothing_and_the_head_comes_later(
    settings: Settings,
    database: Database,
    new_entry: Callable[..., NewEntry],
    until: Until,
    full_disk: tuple[Path, Callable[[], None]],
) -> None:
    folder, make_room = full_disk
    elsewhere = settings.model_copy(update={"ledger_heads_url": str(folder)})
    with Ledger(database.urls, elsewhere) as ledger:
        for number in range(5):
            ledger.append([new_entry(number)]).result(20)
        until(lambda: ledger.status().alert_code == "disk_full", "the alert")
        ledger.append([new_entry(5)]).result(20)
        assert ledger.status().head_key is None and HeadStore(elsewhere).keys() == []
        make_room()
        until(lambda: ledger.status().alert is None and covered(elsewhere) == 6, "the head")


def test_an_unusable_second_store_is_told(
    settings: Settings, database: Database, new_entry: Callable[..., NewEntry], until: Until, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    (tmp_path / "heads").write_text("a file where the folder should be")
    elsewhere = settings.model_copy(update={"ledger_heads_url": str(tmp_path / "heads")})
    with caplog.at_level(logging.ERROR), Ledger(database.urls, elsewhere) as ledger:
        ledger.append([new_entry(1)]).result(20)
        until(lambda: ledger.status().alert is not None)
        assert ledger.status().alert_code == "storage_not_writable"
        (tmp_path / "heads").unlink()
        until(lambda: ledger.status().head_key is not None and ledger.status().alert is None)
    assert covered(elsewhere) == 1
    assert len([line for line in caplog.messages if "no head" in line]) == 1


# Keys


def test_keys_are_private_and_made_once(settings: Settings) -> None:
    first = signing_key(settings)
    assert signing_key(settings).key_id == first.key_id and list(public_keys(settings)) == [first.key_id]
    folder = keys_folder(settings)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "ledger-signing.pem").stat().st_mode) == 0o600


def test_heads_of_rotated_keys_stay_verifiable(
    filled: list[Entry],
    database: Database,
    settings: Settings,
    writer: LedgerWriter,
    new_entry: Callable[..., NewEntry],
    report: Callable[..., Report],
) -> None:
    for number in (13, 14):
        rotate_signing_key(settings)
        writer.append([new_entry(number)]).result(20)
        assert sign_once(database.urls.app, settings) is not None
    result = report()
    assert result.clean and result.heads == 3
    keys = public_keys(settings)
    assert len(keys) == 3 and [key.previous for key in keys.values()] == [None, *list(keys)[:2]]


def test_a_history_that_was_altered_is_refused(settings: Settings) -> None:
    signing_key(settings)
    rotate_signing_key(settings)
    path = keys_folder(settings) / "ledger-public-keys.json"
    genuine = json.loads(path.read_text())
    for change in (
        [genuine[1]],
        [genuine[0], genuine[1] | {"endorsement": "A" * 86 + "=="}],
        [genuine[0], genuine[1] | {"created_at": "2001-01-01T00:00:00.000000Z"}],
        [genuine[0] | {"key_id": "0" * 16}],
        [{}],
        "nothing",
    ):
        path.write_text(json.dumps(change))
        with pytest.raises(CheckFailed) as caught:
            public_keys(settings)
        assert caught.value.code == "key_history_broken"


def test_a_lost_key_is_told_and_can_be_left_behind(
    filled: list[Entry],
    database: Database,
    settings: Settings,
    writer: LedgerWriter,
    new_entry: Callable[..., NewEntry],
    report: Callable[..., Report],
) -> None:
    private = keys_folder(settings) / "ledger-signing.pem"
    writer.append([new_entry(13)]).result(20)
    for spoil in (private.unlink, lambda: private.write_text("no key")):
        spoil()
        for ask in (lambda: sign_once(database.urls.app, settings), lambda: rotate_signing_key(settings)):
            with pytest.raises(Unavailable) as caught:
                ask()
            assert caught.value.code == "signing_key_lost" and "--lost" in (caught.value.hint or "")
    assert report().clean
    rotate_signing_key(settings, lost=True)
    assert sign_once(database.urls.app, settings) is not None
    assert {finding.code for finding in report().findings} == {"key_not_endorsed"}
    for path in keys_folder(settings).glob("*"):
        if path.is_file():
            path.unlink()
    writer.append([new_entry(14)]).result(20)
    with pytest.raises(Unavailable) as caught:
        sign_once(database.urls.app, settings)
    assert caught.value.code == "signing_key_lost"


def test_a_lost_key_holds_up_no_append(
    filled: list[Entry], database: Database, settings: Settings, new_entry: Callable[..., NewEntry], until: Until
) -> None:
    private = keys_folder(settings) / "ledger-signing.pem"
    kept = private.read_bytes()
    private.unlink()
    with Ledger(database.urls, settings) as ledger:
        ledger.append([new_entry(13)]).result(20)
        until(lambda: ledger.status().alert_code == "signing_key_lost", "the alert")
        ledger.append([new_entry(14)]).result(20)
        assert covered(settings) == 12
        private.write_bytes(kept)
        until(lambda: ledger.status().alert is None and covered(settings) == 14, "the head")


@pytest.mark.parametrize("named", [True, False])
def test_an_interrupted_rotation_is_finished_or_forgotten(settings: Settings, named: bool) -> None:
    old = signing_key(settings)
    folder = keys_folder(settings)
    before, history = (folder / "ledger-signing.pem").read_bytes(), (folder / "ledger-public-keys.json").read_bytes()
    new = rotate_signing_key(settings)
    (folder / "ledger-signing.pem").rename(folder / "ledger-signing.next.pem")
    (folder / "ledger-signing.pem").write_bytes(before)
    if not named:
        (folder / "ledger-public-keys.json").write_bytes(history)
    assert signing_key(settings).key_id == (new.key_id if named else old.key_id)
    assert not (folder / "ledger-signing.next.pem").exists()


def test_what_replaces_a_head_while_heads_are_read_is_read_too(settings: Settings) -> None:
    store, key = HeadStore(settings), signing_key(settings)
    first, second, third = (sign_head(datetime(2026, 1, 1, hour, tzinfo=UTC), {}, key) for hour in range(3))
    store.write(first)
    store.write(second)
    reading = store.read_all()
    read = [next(reading)[0]]
    store.write(third)
    store.supersede(second.key)
    assert [*read, *(name for name, _ in reading)] == [first.key, third.key]
