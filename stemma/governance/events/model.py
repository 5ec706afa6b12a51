"""What an event is: as it comes, and as it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from stemma.ledger.entries import format_time


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be recorded. `type` names a published event type, `entity` is what or whom it is about.

    Who sends it again with the same `id` records it once. Without `occurred_at` it happened when it was received.
    """

    type: str
    data: Mapping[str, Any]
    occurred_at: datetime | None = None
    entity: str | None = None
    correlation_id: str | None = None
    id: UUID = field(default_factory=uuid4)


@dataclass(frozen=True, slots=True)
class Event:
    """An event as kept. `type_version` is the version of its type that its data satisfied when it was received;
    `sha256`, hexadecimal, is over the canonical JSON (RFC 8785) of what the sender said: id, type, entity, correlation
    id, time and data.
    """

    id: UUID
    type: str
    type_version: str
    entity: str | None
    correlation_id: str | None
    occurred_at: datetime
    received_at: datetime
    actor: str
    data: Mapping[str, Any]
    sha256: str

    def seen(self) -> dict[str, Any]:
        """The event as policies see it, a JSON value."""
        return {
            "id": str(self.id),
            "type": self.type,
            "entity": self.entity,
            "occurred_at": format_time(self.occurred_at),
            "correlation_id": self.correlation_id,
            "data": dict(self.data),
        }
