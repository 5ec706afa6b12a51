"""What a provider is asked and what it gives, whichever it is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from stemma.knowledge.models import Hit
from stemma.llm.model import FinishReason, Message, ToolCall, ToolSpec, Usage
from stemma.llm.providers.patience import Patience

Feature = Literal["tools", "schema"]
State = Literal["ready", "unavailable", "resting", "disabled"]


@dataclass(frozen=True, slots=True)
class Request:
    """What one provider is asked. `tools` and `schema` are to be told in its own way: those that are told in words
    stand in `messages` already.
    """

    messages: tuple[Message, ...]
    model: str
    tools: tuple[ToolSpec, ...]
    schema: Mapping[str, Any] | None
    max_tokens: int
    temperature: float | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a provider's answer; `usage` is None where it did not say."""

    reason: FinishReason
    usage: Usage | None
    tool_calls: tuple[ToolCall, ...] = ()
    citations: tuple[Hit, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """How a provider stands, and why where it is not ready. `checked_at` is when it was last looked at."""

    state: State
    detail: str
    models: tuple[str, ...] = ()
    checked_at: datetime | None = None


Answering = AsyncGenerator[str | Ended, None]
"""Pieces of text as they come, and `Ended` last. Closing it ends the call at the provider."""


class Provider(Protocol):
    """A provider. It belongs to the event loop that opened it."""

    name: str

    @property
    def model(self) -> str:
        """The model that answers where none is named; empty where that is not known now."""
        ...

    @property
    def standing(self) -> Standing:
        """How it stood when it was last looked at."""
        ...

    def has(self, feature: Feature, model: str) -> bool:
        """Whether the model has a way of its own for this, as far as is known."""
        ...

    def ask(self, request: Request, patience: Patience) -> Answering:
        """Answer; raises ProviderFailed, and FeatureMissing before anything was answered."""
        ...

    async def look(self) -> Standing:
        """Look how it stands now; never raises for a provider that is away."""
        ...
