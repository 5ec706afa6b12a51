"""Sealing into the ledger and revealing again: keys, lost keys, altered fields, and appenders at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stemma.errors import Conflict, InvalidInput, Unavailable
from stemma.ledger.entries import Entry, NewEntry
from stemma.personal.fields import in_body
from stemma.personal.sealing import ERASED, UNREADABLE, Sealer, reveal
from stemma.store.database import Database
from stemma.store.settings import Settings

Commit = Callable[..., Any]
Record = Callable[..., Entry]
Shown = Callable[[Entry], dict[str, Any]]
Erase = Callable[[str], Any]


def key_files(settings: Settings) -> list[Path]:
    return sorted((settings.home / "keys" / "subjects").rglob("*.json"))


def test_what_was_sealed_is_revealed_and_stored_nowhere_in_clear(
    record: Record, shown: Shown, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    entry = record("Ada Lovelace", "cough", "fever")
    assert shown(entry) == {"patient": "Ada Lovelace", "notes": ["cough", "fever"], "ward": 7}
    assert b"Ada" not in entry.body and b"cough" not in entry.body and "Ada" not in entry.subject
    assert "Ada" not in caplog.text and "cough" not in caplog.text
    (path,) = key_files(settings)
    assert path.stat().st_mode & 0o777 == 0o600 and (settings.home / "keys").stat().st_mode & 0o777 == 0o700
    assert path.stem == entry.subject.removeprefix("subject/")


def test_a_subject_has_one_key_and_another_subject_another(record: Record, settings: Settings) -> None:
    first, again, other = record("Ada Lovelace", "a"), record(" ada LOVELACE", "b"), record("Bob", "c")
    used = [set(in_body(entry.body)) for entry in (first, again, other)]
    assert used[0] == used[1] and len(used[0]) == 1 and used[0].isdisjoint(used[2])
    assert len(key_files(settings)) == 2


def test_a_field_that_was_altered_moved_or_made_up_is_shown_as_unreadable(
    record: Record, database: Database, settings: Settings
) -> None:
    data = record("Ada", "cough", "fever").data
    first, second = data["notes"]
    altered = json.loads(json.dumps(first).replace('"ciphertext": "', '"ciphertext": "AAAA'))
    foreign = json.loads(json.dumps(first).replace(first["personal"]["key"], "00000000-0000-0000-0000-000000000001"))
    with database.snapshot() as connection:
        shown = reveal(connection, settings, {**data, "notes": [second, first, altered, foreign]})
    assert shown == {"patient": "Ada", "notes": [UNREADABLE] * 4, "ward": 7}


def test_a_sealed_field_needs_a_place(database: Database, settings: Settings) -> None:
    with database.transaction() as connection:
        sealer = Sealer(connection, settings)
        with pytest.raises(InvalidInput, match="place"):
            sealer.seal(sealer.subject("Ada"), "x", path="")


def test_many_appenders_of_a_new_subject_share_one_key(
    record: Record, shown: Shown, settings: Settings, database: Database
) -> None:
    with ThreadPoolExecutor(8) as threads:
        entries = list(threads.map(lambda number: record("Ada", f"note {number}"), range(24)))
    assert [shown(entry)["notes"] for entry in entries] == [[f"note {number}"] for number in range(24)]
    assert len(key_files(settings)) == 1
    assert database.read(lambda c: c.execute("SELECT count(*) FROM subject_keys").fetchone()) == (1,)


def test_a_key_whose_entry_was_never_appended_is_used_by_the_next(
    record: Record, database: Database, settings: Settings
) -> None:
    with database.transaction() as connection:
        sealer = Sealer(connection, settings)
        field = sealer.seal(sealer.subject("Ada"), "x", path="/x")
    (used,) = set(in_body(record("Ada", "cough").body))
    assert str(used[1]) == field["personal"]["key"]


def test_a_lost_key_file_is_named_and_nothing_is_sealed_beside_it(
    record: Record, shown: Shown, settings: Settings
) -> None:
    entry = record("Ada", "cough")
    (path,) = key_files(settings)
    kept = path.read_bytes()
    path.unlink()
    assert shown(entry)["patient"] == UNREADABLE
    with pytest.raises(Unavailable) as caught:
        record("Ada", "fever")
    assert caught.value.code == "personal_key_missing" and "Ada" not in str(caught.value)
    path.write_bytes(b"{}")
    assert shown(entry)["patient"] == UNREADABLE
    with pytest.raises(Unavailable) as caught:
        record("Ada", "fever")
    assert caught.value.code == "personal_key_unreadable" and "Ada" not in str(caught.value)
    path.write_bytes(kept)
    assert shown(entry)["patient"] == "Ada"


def test_a_lost_root_key_is_never_replaced_silently(record: Record, shown: Shown, settings: Settings) -> None:
    entry = record("Ada", "cough")
    root = settings.home / "keys" / "personal-root.key"
    kept = root.read_bytes()
    for broken in (None, b"", b"00", b"not hexadecimal"):
        root.unlink()
        if broken is not None:
            root.write_bytes(broken)
        with pytest.raises(Unavailable) as caught:
            record("Bob", "fever")
        assert caught.value.code == "personal_root_lost"
        assert shown(entry)["patient"] == UNREADABLE
        root.write_bytes(kept)
    assert shown(entry)["patient"] == "Ada"


def test_what_was_sealed_before_an_erasure_is_not_appended_after_it(
    record: Record, erase: Erase, database: Database, settings: Settings, commit: Commit
) -> None:
    record("Ada", "cough")
    with database.transaction() as connection:
        sealer = Sealer(connection, settings)
        data = {"note": sealer.seal(sealer.subject("Ada"), "fever", path="/note")}
        change = sealer.change(
            [NewEntry("decisions:care", "visit", "user:nurse", "ward/7", data)], lambda entries: None
        )
    erase("Ada")
    with pytest.raises(Conflict):
        commit(change)
    count = database.read(lambda c: c.execute("SELECT count(*) FROM ledger WHERE subject = 'ward/7'").fetchone())
    assert count == (0,)


def test_sealing_while_a_subject_is_erased_and_sealed_again(
    record: Record, shown: Shown, erase: Erase, settings: Settings, database: Database
) -> None:
    """Each entry is refused, erased, or sealed under a key that lives; none is lost under a dead key."""
    before = [record("Ada", "first")]

    def note(number: int) -> Entry | None:
        try:
            return record("Ada", f"note {number}")
        except (Conflict, Unavailable) as error:
            assert error.code in ("companion_conflict", "personal_key_missing")
            return None

    with ThreadPoolExecutor(8) as threads:
        notes = [threads.submit(note, number) for number in range(40)]
        erased = threads.submit(erase, "Ada")
        notes += [threads.submit(note, number) for number in range(40, 80)]
        assert not erased.result().again
        appended = [entry for entry in (future.result() for future in notes) if entry is not None]
    after = record("Ada", "last")
    rows = database.read(lambda c: c.execute("SELECT key_id FROM subject_keys WHERE erased_at IS NULL").fetchall())
    living = {key_id for (key_id,) in rows}
    assert len(living) == 1
    for entry in (*before, *appended, after):
        ((_, key_id),) = set(in_body(entry.body))
        patient = shown(entry)["patient"]
        assert patient == ("Ada" if key_id in living else ERASED)
    assert shown(before[0])["patient"] == ERASED and shown(after)["patient"] == "Ada"
