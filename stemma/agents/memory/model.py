"""What a memory is: whose it is, where it comes from, and how long it stays.

Short-term memories are the last calls, word for word; episodic ones are summaries of calls; semantic ones are facts
with their source; vector ones are passages, found by nearness alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from stemma.agents.model import Tier

MAX_TEXT: Final = 4_000
MOST_PINNED: Final = 20
"""Pins of one owner with one agent: they are recalled before all else, within the same budget."""
MOST_GIVEN: Final = 1_000
"""Memories of one tier and owner with one agent; all of them are looked at in every recall."""

GivenTier = Literal["semantic", "vector"]
"""The tiers of what people give an agent to remember; the others come from calls."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """Something that an agent remembers, redacted. Without an `owner` it is shared by all who call the agent.

    `origins` are the memories that it was distilled from. What is pinned does not expire and is recalled first.
    """

    id: UUID
    agent: str
    owner: str | None
    tier: Tier
    text: str
    source: Mapping[str, Any]
    origins: tuple[UUID, ...]
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    pinned_by: str | None
    pinned_at: datetime | None

    @property
    def pinned(self) -> bool:
        """Whether somebody said that it stays."""
        return self.pinned_at is not None

    @property
    def told_source(self) -> str:
        """Where it comes from, in words."""
        match self.source["kind"]:
            case "call":
                return f"call {self.source['job']} of {self.created_at:%Y-%m-%d}"
            case "day":
                return f"{len(self.origins)} calls of {self.source['day']}"
            case _:
                return f"told by {self.created_by} on {self.created_at:%Y-%m-%d}"
