"""`stemma vault`: values come from standard input alone, and none is shown."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from stemma.agents.vault.secrets import open_secret
from stemma.store.database import Database
from stemma.store.settings import Settings

Stemma = Callable[..., Any]
VALUE = "canary-0123456789"


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a text on standard input."""
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_a_secret_is_set_listed_rotated_and_removed(
    settings: Settings, database: Database, stemma: Stemma, done: Stemma, typed: Callable[[str], None]
) -> None:
    assert "No agent has a secret." in stemma("vault", "list").out
    typed(f"{VALUE}\n")
    made = done("vault", "set", "riven", "GITHUB_TOKEN")
    assert (made["agent"], made["name"]) == ("riven", "GITHUB_TOKEN") and VALUE not in str(made)
    assert done("vault", "rotate")["sealed"] == 1
    assert len(list((settings.home / "keys").glob("vault-*.key"))) == 1
    opened = database.read(lambda c: open_secret(c, settings, "riven", "GITHUB_TOKEN"))
    assert opened.get_secret_value() == VALUE
    listed = stemma("vault", "list")
    assert "GITHUB_TOKEN" in listed.out and VALUE not in listed.out
    done("vault", "remove", "riven", "GITHUB_TOKEN")
    assert done("vault", "list", "--agent", "riven")["data"] == []


@pytest.mark.parametrize(
    ("agent", "name", "value", "code", "exit_code"),
    [
        ("nobody", "TOKEN", VALUE, "agent_unknown", 3),
        ("riven", "token", VALUE, "secret_name_invalid", 2),
        ("riven", "TOKEN", "", "secret_invalid", 2),
    ],
)
def test_a_mistake_is_one_line(
    settings: Settings, stemma: Stemma, typed: Callable[[str], None], agent: str, name: str, value: str, code: str,
    exit_code: int,
) -> None:  # fmt: skip
    typed(value)
    ended = stemma("vault", "set", agent, name)
    assert ended.code == exit_code and code in ended.err and len(ended.err.splitlines()) == 1
    assert VALUE not in ended.err
