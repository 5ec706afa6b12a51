"""A change as the capabilities hand it over: what is written, in one transaction, and what it is answered with.

Capabilities make a `Change` without touching the ledger; `Ledger.commit` writes it. A face may add statements that
belong in the same transaction, such as the record of an idempotency key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from stemma.ledger.entries import Entry, NewEntry
from stemma.ledger.writer import Statement

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """Entries to append, statements that commit with them, and the result as a function of the stored entries."""

    entries: tuple[NewEntry, ...]
    companions: tuple[Statement, ...]
    result: Callable[[tuple[Entry, ...]], T]

    def joined(self, other: Change[Any]) -> Change[T]:
        """Both, so that they commit together or not at all; the result is this one's.

        Each goes on seeing its own entries alone.
        """
        mine = slice(len(self.entries))
        others = slice(len(self.entries), None)
        return Change(
            (*self.entries, *other.entries),
            (
                *(_seeing(mine, statement) for statement in self.companions),
                *(_seeing(others, statement) for statement in other.companions),
            ),
            lambda stored: self.result(stored[mine]),
        )


def _seeing(part: slice, statement: Statement) -> Statement:
    given = statement.parameters
    return replace(statement, parameters=lambda stored: given(stored[part])) if callable(given) else statement
