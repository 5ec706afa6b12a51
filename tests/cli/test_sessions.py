"""`stemma sign-in`, `sessions` and `files` as their user meets them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from stemma.access import links
from stemma.ledger.service import Ledger
from stemma.store.database import Database
from stemma.store.files import FileStore
from stemma.store.settings import Settings

Stemma = Callable[..., Any]


@pytest.fixture
def use(settings: Settings, database: Database) -> Callable[[str], str]:
    """Sign in by a link; returns the session's id."""

    def redeem(url: str) -> str:
        token = url.rpartition("/")[2]
        with Ledger(database.urls, settings) as ledger:
            change = database.read(lambda connection: links.redeem(connection, settings, token))
            return str(ledger.commit(change).result(20).session.id)

    return redeem


def test_links_are_printed_and_sessions_listed_and_ended(
    stemma: Stemma, done: Callable[..., Any], use: Callable[[str], str]
) -> None:
    assert "Nobody has signed in" in stemma("sessions", "list").out
    first, second = (use(done("sign-in")["url"]) for _ in range(2))
    assert "http://127.0.0.1:8400/sign-in/stl_" in stemma("sign-in").out
    listed = done("sessions", "list")
    assert [(one["id"], one["key_name"], one["state"]) for one in listed] == [
        (second, "local", "active"),
        (first, "local", "active"),
    ]
    assert "token_hmac" not in listed[0]
    assert stemma("sessions", "end", first).out == f"Ended {first} of the key local.\n"
    again = stemma("sessions", "end", first)
    assert (again.code, again.out) == (4, "") and "session_ended" in again.err
    assert [one["id"] for one in done("sessions", "end", "--all")] == [second]
    assert stemma("sessions", "end", "--all").out == "There was no session to end.\n"
    key_id = listed[0]["key_id"]
    assert [one["state"] for one in done("sessions", "list", "--key", key_id)] == ["ended", "ended"]
    assert done("sessions", "list", "--key", str(uuid4())) == []


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("sessions", "end"), 2, "usage_invalid"),
        (("sessions", "end", str(uuid4()), "--all"), 2, "usage_invalid"),
        (("sessions", "end", str(uuid4())), 3, "session_not_found"),
        (("sessions", "end", "mine"), 2, "usage_invalid"),
        (("files", "sign", "nothing"), 3, "file_not_found"),
        (("files", "sign", "../nothing"), 2, "key_invalid"),
        (("files", "sign", "there.txt", "--expires", "soon"), 2, "duration_invalid"),
        (("files", "sign", "there.txt", "--expires", "8d"), 2, "expiry_invalid"),
        (("files", "sign", "there.txt", "--name", "a/b"), 2, "name_invalid"),
    ],
)
@pytest.mark.usefixtures("database")
def test_what_cannot_be_done_is_told_in_one_line(
    stemma: Stemma, settings: Settings, arguments: tuple[str, ...], code: int, told: str
) -> None:
    FileStore.open_default(settings).write("there.txt", b"x")
    ended = stemma(*arguments)
    assert (ended.code, ended.out) == (code, "") and told in ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_file_is_signed(done: Callable[..., Any], stemma: Stemma, settings: Settings) -> None:
    FileStore.open_default(settings).write("maps/a b.png", b"x")
    assert done("files", "sign", "maps/a b.png")["url"].startswith("http://127.0.0.1:8400/files/maps/a%20b.png?v=1&")
    assert "&name=plan.png&sig=" in stemma("files", "sign", "maps/a b.png", "--name", "plan.png").out
