"""`stemma historian`: what it lists, what it follows, and what it refuses; and what commands leave there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stemma.ledger.entries import Entry
from stemma.ledger.journal import transition
from stemma.ledger.writer import LedgerWriter
from stemma.store.database import Database
from stemma.store.settings import REPOSITORY, Settings

Stemma = Callable[..., Any]


@pytest.fixture
def told(database: Database) -> list[Entry]:
    """Three transitions."""
    with LedgerWriter(database.urls.app) as writer:
        made = [
            ("lamp.lit", "lamp/1", "user:ada"),
            ("lamp.out", "lamp/1", "user:bob"),
            ("key.made", "key/1", "user:ada"),
        ]
        entries = [transition(kind, subject=subject, actor=actor, data={"n": 1}) for kind, subject, actor in made]
        return list(writer.append(entries).result(20))


def test_transitions_are_listed_by_filter(told: list[Entry], done: Stemma, stemma: Stemma) -> None:
    assert [row["seq"] for row in done("historian")] == [3, 2, 1]
    assert [row["seq"] for row in done("historian", "--kind", "lamp.", "--actor", "user:ada")] == [1]
    assert [row["seq"] for row in done("historian", "--subject", "lamp/1", "--limit", "1")] == [2]
    assert [row["seq"] for row in done("historian", "--since", told[2].created_at.isoformat())] == [3]
    assert done("historian", "--since", "2999-01-01") == []
    shown = stemma("historian")
    assert shown.code == 0 and "lamp.out" in shown.out and '"n": 1' in shown.out


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [
        ("--kind", "No Kind", "kind_invalid"),
        ("--since", "yesterday", "time_invalid"),
        ("--since", "0001-01-01T00:00+23:00", "time_invalid"),
        ("--actor", "a\nb", "actor_invalid"),
        ("--limit", "0", "usage_invalid"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    settings: Settings, stemma: Stemma, option: str, value: str, code: str
) -> None:
    ended = stemma("historian", option, value)
    assert ended.code == 2 and ended.out == "" and code in ended.err and len(ended.err.splitlines()) == 1


def test_following_prints_a_line_for_each(told: list[Entry], database: Database) -> None:
    command = [sys.executable, "-m", "cli", "historian", "--follow", "--json", "--since", "2000-01-01"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert [json.loads(process.stdout.readline())["seq"] for _ in told] == [1, 2, 3]
            with LedgerWriter(database.urls.app) as writer:
                writer.append([transition("lamp.lit", subject="lamp/2", actor="user:ada", data={})]).result(20)
            assert json.loads(process.stdout.readline())["subject"] == "lamp/2"
        finally:
            process.kill()


def test_what_commands_change_is_recorded(settings: Settings, done: Stemma, stemma: Stemma, notes: Path) -> None:
    done("sources", "add", "notes", notes)
    done("sources", "remove", "notes")
    assert stemma("index", "rollback").code == 4
    rows = done("historian")
    assert [(row["kind"], row["subject"]) for row in rows] == [
        ("source.removed", "source/notes"),
        ("source.registered", "source/notes"),
    ]
    assert all(row["actor"].startswith("local:") for row in rows)
    assert done("verify")["clean"]


def test_status_tells_of_heads_that_cannot_be_written(
    told: list[Entry], settings: Settings, done: Stemma, stemma: Stemma, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.write_text("a file where the folder should be")
    monkeypatch.setenv("STEMMA_LEDGER_HEADS_URL", str(full))
    ledger = done("status")["ledger"]
    assert (ledger["entries"], ledger["waiting"], ledger["head_at"]) == (3, 3, None)
    assert "could not be stored" in ledger["alert"]
    assert "Alert: " in stemma("status").out
    full.unlink()
    ledger = done("status")["ledger"]
    assert (ledger["waiting"], ledger["alert"]) == (0, None) and ledger["head_at"]
