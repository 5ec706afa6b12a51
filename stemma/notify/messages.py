"""What is told: a topic, a title, a text and data. Where it goes is for the subscriptions to say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from stemma.redaction import redact, redact_value

_MAX_TITLE = 200
_MAX_TEXT = 4_000


@dataclass(frozen=True, slots=True)
class Message:
    """News for whoever subscribed to its topic, such as `run.failed`; `data` is JSON.

    Who may tell the same twice gives it an id that follows from what it tells: it is sent once.
    """

    topic: str
    title: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)
    id: UUID = field(default_factory=uuid4)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def public_id(self) -> str:
        """What receivers know it by, the same in every attempt."""
        return f"msg_{self.id.hex}"


def presentable(message: Message) -> Message:
    """The message as it may leave the studio: redacted, cut, and without what no database keeps."""
    return Message(
        topic=message.topic,
        title=redact(" ".join(_storable(message.title).split())).text[:_MAX_TITLE],
        text=redact(_storable(message.text)).text[:_MAX_TEXT],
        data=redact_value(_storable_value(message.data)),
        id=message.id,
        created_at=message.created_at,
    )


def _storable(text: str) -> str:
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def _storable_value(value: Any) -> Any:
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, Mapping):
        return {_storable(str(key)): _storable_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable_value(item) for item in value]
    return value
