"""`stemma approvals`: what is shown, what is confirmed, and how the commands end."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stemma.store.database import Database
from stemma.store.settings import REPOSITORY, Settings

Stemma = Callable[..., Any]


@pytest.fixture
def ask(done: Stemma, settings: Settings, tmp_path: Path) -> Callable[..., Any]:
    """Ask for an approval of a small file."""
    (tmp_path / "refunds.yml").write_bytes(b"limit: 100\n")
    (tmp_path / "refunds.diff").write_text("@@ -1 +1 @@\n-limit: 50\n+limit: 100\n")

    def request(*options: str, reason: str = "As agreed.") -> Any:
        named = ("--reason", reason, "--diff", tmp_path / "refunds.diff", "--risk", "high")
        return done("approvals", "request", "publish", "policy/refunds", tmp_path / "refunds.yml", *named, *options)

    return request


def at_terminal(answer: str, *arguments: str) -> tuple[int, str]:
    """Run a command in a terminal of its own and give it an answer; its exit code and what it showed."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cli", *arguments]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, answer.encode())
        shown = b""
        # Linux reports the end of the other side as an error.
        while True:
            try:
                shown += os.read(ours, 1 << 16)
            except OSError:
                break
    os.close(ours)
    return process.returncode, shown.decode()


def test_an_approval_is_asked_for_shown_and_approved(
    ask: Callable[..., Any], done: Stemma, stemma: Stemma, tmp_path: Path
) -> None:
    asked = ask()
    assert asked["state"] == "pending" and asked["size"] == 11 and asked["requested_by"].startswith("local:")
    shown = stemma("approvals", "show", asked["id"], "--content", tmp_path / "seen.yml")
    assert shown.code == 0 and (tmp_path / "seen.yml").read_bytes() == b"limit: 100\n"
    for word in ("policy/refunds", "high", "As agreed.", "+limit: 100", asked["content_sha256"], asked["etag"], "UTC"):
        assert word in shown.out
    assert asked["id"] in stemma("approvals", "list", "--state", "pending").out
    told = stemma("approvals", "approve", asked["id"], "--etag", asked["etag"])
    assert told.code == 0 and "is approved" in told.out
    assert done("approvals", "list", "--state", "pending")["data"] == []
    approved = done("approvals", "show", asked["id"])
    assert [given["verdict"] for given in approved["decisions"]] == ["approve"]
    assert done("verify")["clean"]


def test_nothing_is_decided_unseen(ask: Callable[..., Any], stemma: Stemma, done: Stemma) -> None:
    asked = ask()
    for command in (
        ("approve",),
        ("deny", "--reason", "No."),
        ("withdraw",),
        ("approve", "--yes"),
        ("approve", "--json"),
    ):
        ended = stemma("approvals", command[0], asked["id"], *command[1:])
        assert ended.code == 2 and "etag_required" in ended.err + ended.out
    stale = stemma("approvals", "deny", asked["id"], "--reason", "No.", "--etag", "of-another")
    assert stale.code == 4 and "approval_changed" in stale.err and len(stale.err.splitlines()) == 1
    assert done("approvals", "show", asked["id"]) == asked


def test_a_terminal_is_shown_and_asked(ask: Callable[..., Any], done: Stemma) -> None:
    asked = ask()
    code, shown = at_terminal("n\n", "approvals", "approve", asked["id"])
    assert code == 0 and "+limit: 100" in shown and "Nothing was changed." in shown
    assert done("approvals", "show", asked["id"]) == asked
    code, shown = at_terminal("y\n", "approvals", "deny", asked["id"], "--reason", "Too much.")
    assert code == 0 and "Deny this?" in shown
    assert done("approvals", "show", asked["id"])["state"] == "denied"


def test_a_request_is_denied_or_withdrawn_once(ask: Callable[..., Any], done: Stemma, stemma: Stemma) -> None:
    first, second = ask(), ask("--second-person", "--approvals-needed", "2", "--decider", "Admin", "--hours", "0.5")
    assert second["deciders"] == ["Admin"] and second["second_person"] and second["approvals_needed"] == 2
    denied = done("approvals", "deny", first["id"], "--reason", "No.", "--etag", f'"{first["etag"]}"')
    assert denied["state"] == "denied"
    refused = stemma("approvals", "approve", second["id"], "--etag", second["etag"])
    assert refused.code == 7 and "role_forbidden" in refused.err
    assert done("approvals", "withdraw", second["id"], "--etag", second["etag"])["state"] == "withdrawn"
    again = stemma("approvals", "withdraw", second["id"], "--etag", second["etag"])
    assert again.code == 4 and "approval_settled" in again.err


def test_a_requester_cannot_draw_our_lines(ask: Callable[..., Any], stemma: Stemma) -> None:
    asked = ask(reason="Fine.\n  state     approved\x1b[2J \u202eevil")
    lines = stemma("approvals", "show", asked["id"]).out.splitlines()
    assert [line for line in lines if line.startswith("  state")] == ["  state     pending"]
    assert not any(sign in line for line in lines for sign in ("\x1b", "\u202e"))


def test_what_cannot_be_used_is_one_line(ask: Callable[..., Any], stemma: Stemma, tmp_path: Path) -> None:
    asked = ask()
    file = tmp_path / "refunds.yml"
    (tmp_path / "latin.diff").write_bytes(b"\xe9")
    wanted = ("approvals", "request", "publish", "x")
    for code, word, command in [
        (3, "path_missing", (*wanted, tmp_path / "none", "--reason", "r")),
        (2, "path_unreadable", (*wanted, tmp_path, "--reason", "r")),
        (2, "text_invalid", (*wanted, file, "--reason", "r", "--diff", tmp_path / "latin.diff")),
        (2, "lifetime_invalid", (*wanted, file, "--reason", "r", "--hours", "nan")),
        (2, "lifetime_invalid", (*wanted, file, "--reason", "r", "--hours", "1e300")),
        (2, "decider_invalid", (*wanted, file, "--reason", "r", "--decider", "Viewer")),
        (2, "path_unwritable", ("approvals", "show", asked["id"], "--content", file)),
        (2, "usage_invalid", ("approvals", "show", "7")),
        (2, "cursor_invalid", ("approvals", "list", "--cursor", "x")),
        (3, "approval_unknown", ("approvals", "show", "8e03978e-40d5-43dd-bc93-6894a57f9324")),
    ]:
        ended = stemma(*command)
        assert ended.code == code and word in ended.err and len(ended.err.splitlines()) == 1, ended


def test_the_deadline_is_settled_by_looking(
    ask: Callable[..., Any], done: Stemma, database: Database, pass_deadline: Callable[..., None]
) -> None:
    asked = ask()
    pass_deadline(asked["id"])
    assert done("approvals", "show", asked["id"])["state"] == "expired"
    with database.snapshot() as connection:
        kinds = connection.execute("SELECT kind FROM ledger WHERE chain = 'approvals' ORDER BY seq").fetchall()
    assert kinds == [("approval.requested",), ("approval.expired",)]
