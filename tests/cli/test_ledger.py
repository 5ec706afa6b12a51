"""`stemma verify` and `stemma keys rotate-signing`: what they print, and how they end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stemma.ledger.entries import NewEntry
from stemma.ledger.service import Ledger
from stemma.ledger.signer import sign_once
from stemma.store.database import Database
from stemma.store.settings import Settings

Stemma = Callable[..., Any]


@pytest.fixture
def head(settings: Settings, database: Database) -> Path:
    """Three entries under a head; gives the head's file."""
    with Ledger(database.urls, settings) as ledger:
        entries = [NewEntry("audit", "key.created", "user:ada", f"key/{number}", {}) for number in range(3)]
        ledger.append(entries).result(20)
    sign_once(database.urls.app, settings)
    (path,) = (settings.home / "ledger-heads").rglob("*.json")
    return path


def test_a_clean_ledger_is_shown(head: Path, done: Stemma, stemma: Stemma) -> None:
    report = done("verify", "--deep", "--head", head, "--chain", "audit")
    assert report["clean"] and report["deep"] and report["entries"] == 3 and report["findings"] == []
    assert report["chains"] == [{"chain": "audit", "entries": 3, "signed": 3}]
    shown = stemma("verify")
    assert shown.code == 0 and "audit" in shown.out and "everything fits" in shown.out and shown.err == ""


def test_tampering_ends_with_a_failed_check(head: Path, stemma: Stemma, database: Database) -> None:
    with psycopg.connect(database.urls.owner) as connection:
        connection.execute("ALTER TABLE ledger DISABLE TRIGGER ALL")
        connection.execute("DELETE FROM ledger WHERE seq = 3")
    told = stemma("verify", "--json")
    assert told.code == 6 and [finding["code"] for finding in told.document["findings"]] == ["tail_missing"]
    shown = stemma("verify")
    assert shown.code == 6 and "tail_missing" in shown.out
    assert shown.err.startswith("error ledger_tampered") and len(shown.err.splitlines()) == 1


def test_a_head_that_is_not_there_or_none_is_one_line(settings: Settings, stemma: Stemma, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello")
    for path, code, word in ((tmp_path / "none", 3, "head_missing"), (tmp_path / "note.txt", 2, "head_unreadable")):
        ended = stemma("verify", "--head", path)
        assert ended.code == code and ended.out == "" and word in ended.err and len(ended.err.splitlines()) == 1


def test_the_signing_key_is_rotated(head: Path, done: Stemma, stemma: Stemma, settings: Settings) -> None:
    first = done("keys", "rotate-signing")
    assert first["previous"] and first["endorsement"]
    assert first["key_id"] in stemma("keys", "rotate-signing").out
    assert done("verify")["clean"]
    (settings.home / "keys" / "ledger-signing.pem").unlink()
    refused = stemma("keys", "rotate-signing")
    assert refused.code == 5 and "signing_key_lost" in refused.err
    assert done("keys", "rotate-signing", "--lost")["previous"] is None
    ended = stemma("verify", "--json")
    assert ended.code == 6 and [f["code"] for f in ended.document["findings"]] == ["key_not_endorsed"]
