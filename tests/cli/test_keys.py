"""`stemma keys`: what is printed, once, and how mistakes end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stemma.access.authentication import authenticate
from stemma.errors import Unauthenticated
from stemma.store.database import Database
from stemma.store.settings import Settings

Stemma = Callable[..., Any]
CREATE = ("keys", "create", "--name", "ci", "--role", "Builder", "--scope", "search:*", "--scope", "ingest:write")


def test_a_key_is_created_listed_rotated_and_revoked(
    settings: Settings, database: Database, stemma: Stemma, done: Stemma
) -> None:
    assert "No API keys" in stemma("keys", "list").out
    made = done(*CREATE, "--expires-in", "90d")
    assert authenticate(database, settings, made["key"]).may("ingest:write")
    assert made["created_by"].startswith("local:") and made["expires_at"]
    listed = stemma("keys", "list")
    assert made["id"] in listed.out and "active" in listed.out and made["key"] not in listed.out
    rotated = done("keys", "rotate", made["id"])
    assert authenticate(database, settings, rotated["key"])
    with pytest.raises(Unauthenticated):
        authenticate(database, settings, made["key"])
    assert stemma("keys", "revoke", made["id"]).out == f"Revoked ci ({made['id']}).\n"
    (row,) = done("keys", "list")
    assert row["state"] == "revoked" and "key" not in row
    assert done("verify", "--chain", "audit")["clean"]


def test_a_key_is_shown_once_and_how_it_is_used_is_said(settings: Settings, stemma: Stemma) -> None:
    shown = stemma(*CREATE)
    assert shown.code == 0 and shown.err == ""
    assert shown.out.count("stm_") == 1 and "Signing secret" in shown.out and "this once" in shown.out


def test_every_key_is_revoked_at_once(settings: Settings, stemma: Stemma, done: Stemma) -> None:
    ids = {done(*CREATE)["id"] for _ in range(3)}
    (settings.home / "keys" / "api-keys.pepper").unlink()
    lost = stemma(*CREATE)
    assert lost.code == 5 and "pepper_lost" in lost.err and len(lost.err.splitlines()) == 1
    assert {key["id"] for key in done("keys", "revoke", "--all")} == ids
    assert "no key to revoke" in stemma("keys", "revoke", "--all").out
    assert done(*CREATE)["key"]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "expected"),
    [
        (("create", "--name", "x", "--role", "Emperor", "--scope", "search:*"), 2, "role_unknown"),
        (("create", "--name", "x", "--role", "Viewer", "--scope", "search"), 2, "scope_unknown"),
        (("create", "--name", "x", "--role", "Viewer"), 2, "usage_invalid"),
        ((*CREATE[1:], "--expires-in", "tomorrow"), 2, "duration_invalid"),
        ((*CREATE[1:], "--expires-in", "0d"), 2, "duration_invalid"),
        ((*CREATE[1:], "--expires-in", "999999w"), 2, "duration_invalid"),
        (("rotate", "8e03978e-40d5-43dd-bc93-6894a57f9324"), 3, "key_not_found"),
        (("rotate", "nonsense"), 2, "usage_invalid"),
        (("revoke",), 2, "usage_invalid"),
        (("revoke", "8e03978e-40d5-43dd-bc93-6894a57f9324", "--all"), 2, "usage_invalid"),
    ],
)
def test_a_mistake_is_one_line(
    settings: Settings, stemma: Stemma, arguments: tuple[str, ...], exit_code: int, expected: str
) -> None:
    ended = stemma("keys", *arguments)
    assert ended.code == exit_code and ended.out == ""
    assert expected in ended.err and len(ended.err.splitlines()) == 1
