"""Switches: who may throw which, what they leave of the providers, and how soon a process knows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.access.permissions import Role
from stemma.access.principal import Principal, local_principal
from stemma.errors import Forbidden, InvalidInput
from stemma.ledger.change import Change
from stemma.llm import switches
from stemma.llm.switches import SwitchBoard, Switches
from stemma.store.database import Database

Commit = Callable[[Change[Any]], Any]
PROVIDERS = ("openai", "local", "offline")


@given(
    st.sets(
        st.sampled_from(["offline", "stealth", "secrets-online", "provider/openai", "provider/local", "agent/nova"])
    ),
    st.booleans(),
)
def test_the_offline_provider_is_always_left_and_nothing_leaves_the_machine_unasked(
    names: set[str], founder: bool
) -> None:
    on = Switches.of(names)
    left = on.allowed(PROVIDERS, founder=founder)
    assert "offline" in left
    assert left == tuple(name for name in PROVIDERS if name in left)
    if on.offline or (on.stealth and founder):
        assert "openai" not in left
    assert not {f"provider/{name}" for name in left} & names


def test_a_switch_is_thrown_felt_and_taken_back(database: Database, commit: Commit) -> None:
    founder = local_principal()
    with SwitchBoard(database.urls.app) as board:
        assert board.now() == Switches()
        for name in ("stealth", "agent/nova", "stealth"):
            commit(database.read(lambda c, name=name: switches.throw(c, founder, name, on=True)))
        wanted = Switches(stealth=True, excluded=frozenset({"agent/nova"}))
        assert _soon(board, wanted) == wanted
        assert board.now().excludes_agent("nova")
        commit(database.read(lambda c: switches.throw(c, founder, "stealth", on=False)))
        assert _soon(board, Switches(excluded=wanted.excluded)).stealth is False
    assert [switch.name for switch in database.read(switches.list_switches)] == ["agent/nova"]


def test_the_ledger_names_the_switch_and_nothing_else(database: Database, commit: Commit) -> None:
    commit(database.read(lambda c: switches.throw(c, local_principal(), "offline", on=True)))
    query = "SELECT body FROM ledger WHERE kind = 'switch.thrown' ORDER BY chain"
    bodies = database.read(lambda c: c.execute(query).fetchall())
    assert len(bodies) == 2
    assert all(b'"on":true' in bytes(body) for (body,) in bodies)


@pytest.mark.parametrize("name", ["", "provider/offline", "provider/", "agent/A", "stealth ", "x" * 300])
def test_what_is_no_switch_is_refused(database: Database, name: str) -> None:
    with pytest.raises(InvalidInput, match=r"switch|offline provider"):
        database.read(lambda c: switches.throw(c, local_principal(), name, on=True))


def test_who_may_not_is_refused(database: Database) -> None:
    builder = Principal("key:x", Role.BUILDER, frozenset({"admin:*"}))
    with pytest.raises(Forbidden):
        database.read(lambda c: switches.throw(c, builder, "offline", on=True))


def _soon(board: SwitchBoard, wanted: Switches) -> Switches:
    deadline = time.monotonic() + 10
    while board.now() != wanted and time.monotonic() < deadline:
        board._ending.wait(0.02)
    return board.now()
