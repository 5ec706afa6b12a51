"""A change as the capabilities hand it over: what is written, in one transaction, and what it is answered with.

Capabilities make a `Change` without touching the ledger; `Ledger.commit` writes it. A face may add statements that
belong in the same transaction, such as the record of an idempotency key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from stemma.ledger.entries import Entry, NewEntry
from stemma.ledger.writer import Statement

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """Entries to append, statements that commit with them, and the result as a function of the stored entries."""

    entries: tuple[NewEntry, ...]
    companions: tuple[Statement, ...]
    result: Callable[[tuple[Entry, ...]], T]
