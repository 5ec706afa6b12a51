"""`stemma erase` on a studio with its own server: nothing that is left, wherever, opens what was sealed."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stemma.ledger.entries import Entry, NewEntry
from stemma.ledger.service import Ledger
from stemma.ledger.signer import sign_once
from stemma.personal.keys import Keyring
from stemma.personal.sealing import ERASED, Sealer, reveal
from stemma.store import embedded, migrations
from stemma.store.database import Database, resolve_urls
from stemma.store.settings import Settings

Stemma = Callable[..., Any]
SECRETS = ("Ada Lovelace", "+44 20 7946 0958", "penicillin")


@pytest.fixture(scope="module")
def studio(new_home: Callable[[], Path]) -> Iterator[Settings]:
    """A home with its own embedded server, named by the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("STEMMA_DATABASE_URL", "STEMMA_DATABASE_OWNER_URL", "STEMMA_DAGSTER_DATABASE_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("STEMMA_HOME", str(new_home()))
        patch.setenv("STEMMA_POSTGRES_SHARED_BUFFERS", "16MB")
        settings = Settings()
        migrations.upgrade(embedded.ensure_running(settings)["owner"])
        yield settings
        embedded.stop(settings, force=True)


@dataclass(frozen=True)
class Sealed:
    """Two entries about a person, and the bytes of their key: as made, wrapped, and as files spell them."""

    entries: tuple[Entry, ...]
    key: tuple[bytes, ...]


def seal(settings: Settings, name: str, *values: str) -> Sealed:
    """Append an entry for each value, sealed for this person."""
    with Database.open(settings) as database, Ledger(database.urls, settings) as ledger:
        entries = []
        with database.transaction() as connection:
            sealer = Sealer(connection, settings)
            subject = sealer.subject(name)
            for value in values:
                data = {"said": sealer.seal(subject, value, path="/said")}
                change = sealer.change(
                    [NewEntry("decisions:care", "visit", "user:nurse", subject.reference, data)], lambda stored: stored
                )
                entries += ledger.commit(change).result(20)
            key = Keyring.open(connection, settings).held(subject)
        assert key is not None
        (path,) = (settings.home / "keys" / "subjects").rglob(f"{subject.pseudonym}.json")
        wrapped = json.loads(path.read_bytes())["wrapped"]
    return Sealed(tuple(entries), (key.secret, key.secret.hex().encode(), bytes.fromhex(wrapped), wrapped.encode()))


def shown(settings: Settings, sealed: Sealed) -> list[Any]:
    with Database.open(settings) as database, database.snapshot() as connection:
        return [reveal(connection, settings, entry.data)["said"] for entry in sealed.entries]


def holding(settings: Settings, needles: tuple[bytes, ...]) -> list[str]:
    """Every file of the home and of the server's data that holds one of these, and the database's dump."""
    with psycopg.connect(embedded.superuser_uri(settings), autocommit=True) as superuser:
        superuser.execute("CHECKPOINT")
    urls = resolve_urls(settings)
    dumps = [
        subprocess.run([embedded.binaries() / "pg_dump", url], capture_output=True, check=True).stdout
        for url in (urls.owner, urls.dagster)
    ]
    assert b"CREATE TABLE public.ledger" in dumps[0]
    folders = {settings.home, embedded.status(settings).data}
    files = {path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}
    assert any("pg_wal" in path.parts for path in files)
    found = [str(path) for path in sorted(files) if any(needle in path.read_bytes() for needle in needles)]
    return found + ["pg_dump" for dump in dumps if any(needle in dump for needle in needles)]


def test_after_an_erasure_no_byte_is_readable_anywhere(studio: Settings, done: Stemma, stemma: Stemma) -> None:
    sealed, other = seal(studio, *SECRETS), seal(studio, "Bob", "a rash")
    words = tuple(word.encode() for secret in SECRETS for word in (secret, secret.casefold(), secret.encode().hex()))
    assert shown(studio, sealed) == list(SECRETS[1:])
    held = holding(studio, sealed.key)
    assert len(held) == 1 and "/keys/subjects/" in held[0]
    archive = Path(done("db", "backup")["path"])
    assert sealed.key[3] in archive.read_bytes()

    erased = done("erase", SECRETS[0], "--yes")
    assert erased["sealed"] == [{"chain": "decisions:care", "fields": 2}] and not erased["again"]
    assert erased["archives"] == [str(archive)]
    again = stemma("erase", SECRETS[0], "--yes")
    assert again.code == 0 and "was erased already" in again.out and str(archive) in again.out
    archive.unlink()
    done("db", "backup", studio.home / "backups" / "later.tar")

    assert holding(studio, (*sealed.key, *words)) == []
    assert shown(studio, sealed) == [ERASED] * 2 and shown(studio, other) == ["a rash"]
    report = done("verify", "--deep")
    assert report["clean"] and (report["sealed"], report["erased"]) == (3, 2)
    said = stemma("verify")
    assert said.code == 0 and "3 sealed personal fields, 2 of them erased" in said.out
    assert done("erase", SECRETS[0], "--yes")["archives"] == []


def test_an_older_backup_does_not_bring_an_erased_subject_back(studio: Settings, done: Stemma, tmp_path: Path) -> None:
    sealed, other = seal(studio, "Grace Hopper", "moth"), seal(studio, "Barbara Liskov", "type")
    done("db", "backup", tmp_path / "before.tar")
    erased = done("erase", "Grace Hopper", "--yes")

    done("db", "restore", tmp_path / "before.tar", "--force")
    assert shown(studio, sealed) == [ERASED] and shown(studio, other) == ["type"]
    assert holding(studio, sealed.key) == []
    assert all(path.stat().st_mode & 0o077 == 0 for path in (studio.home / "keys").rglob("*") if path.is_file())
    # The restored ledger is older than the newest heads: an operator moves these out of the store.
    for head in (studio.home / "ledger-heads").rglob("??????.??????-*.json"):
        head.unlink()
    sign_once(resolve_urls(studio).app, studio)
    report = done("verify")
    assert report["clean"] and report["erased"] >= 1
    repeated = done("erase", "grace hopper", "--yes")
    assert repeated["again"] and repeated["subject"] == erased["subject"]

    done("db", "restore", tmp_path / "before.tar", "--force")
    assert shown(studio, sealed) == [ERASED] and shown(studio, other) == ["type"]


def test_an_unknown_subject_ends_with_one_line_that_does_not_name_them(studio: Settings, stemma: Stemma) -> None:
    for arguments in (("erase", "Nobody Known", "--yes"), ("erase", "Nobody Known", "--yes", "--json")):
        ended = stemma(*arguments)
        assert ended.code == 3 and "subject_unknown" in ended.out + ended.err
        assert "Nobody" not in ended.out + ended.err and len(ended.err.splitlines()) <= 1
    ended = stemma("erase", "\x1b[2J", "--yes")
    assert ended.code == 2 and "subject_invalid" in ended.err


def test_without_a_terminal_it_takes_a_yes(studio: Settings, stemma: Stemma) -> None:
    sealed = seal(studio, "Edsger Dijkstra", "goto")
    for arguments in (("erase", "Edsger Dijkstra"), ("erase", "Edsger Dijkstra", "--json")):
        ended = stemma(*arguments)
        assert ended.code == 2 and "confirmation_missing" in ended.out + ended.err
    assert shown(studio, sealed) == ["goto"]


def test_on_a_terminal_it_says_what_it_will_do_and_asks(
    studio: Settings, stemma: Stemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = seal(studio, "Alan Turing", "apple")
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "wb", buffering=0) as keyboard, os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        for answer, said, left in ((b"n\n", "Nothing was erased.", ["apple"]), (b"y\n", "Erased subject/", [ERASED])):
            keyboard.write(answer)
            ended = stemma("erase", "Alan Turing")
            assert ended.code == 0 and said in ended.out and "Turing" not in ended.out + ended.err
            assert "sealed fields: 1 on decisions:care" in ended.err and "Nobody can undo this" in ended.err
            assert shown(studio, sealed) == left
