"""What every adapter is: a source of events that can be read on from where it was left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from stemma.governance.events.model import NewEvent


@dataclass(frozen=True, slots=True)
class Batch:
    """What one page of a source comes to, and the cursor behind it."""

    events: tuple[NewEvent, ...]
    cursor: str


class Adapter(Protocol):
    """A source of events. The same fact has the same event id whenever it is read."""

    @property
    def source(self) -> str:
        """What it reads, such as `github/owner/name`: its cursor is kept under this."""
        ...

    def read(self, cursor: str | None) -> Iterator[Batch]:
        """What came after the cursor, the oldest first; from the beginning without one.

        Raises Unavailable where the service does not answer or asks to wait for long, Forbidden where it does not take
        the key, NotFound where there is nothing of that name.
        """
        ...
