"""Entries to append, and waiting for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from stemma.ledger.entries import NewEntry


@pytest.fixture(scope="session")
def new_entry() -> Callable[[int], NewEntry]:
    """Make the entry of this number."""
    return lambda number: NewEntry("historian", "tested", "test", f"number/{number}", {})


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """Wait for a condition; fails after 20 s."""

    def wait(condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come about"
            time.sleep(0.01)

    return wait
