"""What is asked of a language model and what comes back, whichever provider answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from stemma.knowledge.models import Hit

Speaker = Literal["system", "user", "assistant", "tool"]
ToolsMode = Literal["auto", "native", "prompted"]
FinishReason = Literal["stop", "length", "tool_calls"]
Counted = Literal["provider", "estimated"]


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool that a model may ask for; `parameters` is a JSON Schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that a model asks for. `arguments` is the text it gave, which may be anything."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `tool_calls` are an assistant's, `tool_call_id` says which of them a tool's turn answers."""

    speaker: Speaker
    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked.

    `model` is the provider's own when None. `providers` are tried in this order, those configured when empty.
    `tools_mode` says how tools are offered: by the provider's own way, described in words with JSON asked for, or, by
    default, the first where the model has it. `schema` is a JSON Schema that the answer has to satisfy as JSON.
    """

    messages: tuple[Message, ...]
    model: str | None = None
    providers: tuple[str, ...] = ()
    tools: tuple[ToolSpec, ...] = ()
    tools_mode: ToolsMode = "auto"
    schema: Mapping[str, Any] | None = None
    max_tokens: int = 2048
    temperature: float | None = None
    timeout: float = 120.0


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a call is made. `op` is what for, such as `run`, `agent`, `explain`, `distil`, `claims`.

    A founder's call leaves no trace but in the totals of its day.
    """

    actor: str
    route: str
    op: str
    request_id: str
    key_id: UUID | None = None
    agent: str | None = None
    job_id: UUID | None = None
    founder: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a call; `tokens_cached` are those of `tokens_in` that the provider had cached."""

    tokens_in: int
    tokens_out: int
    tokens_cached: int = 0
    counted: Counted = "provider"


@dataclass(frozen=True, slots=True)
class Delta:
    """Text that was added to the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Restarted:
    """The provider failed in the middle: what came so far is void, and another one begins anew."""

    provider: str
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The last part of an answer: who gave it, what was used, and what that cost in US dollars, None where unknown.

    `citations` are what an extractive answer was taken from.
    """

    provider: str
    model: str
    reason: FinishReason
    usage: Usage
    cost: Decimal | None
    latency_ms: float
    ttft_ms: float | None
    tool_calls: tuple[ToolCall, ...] = ()
    citations: tuple[Hit, ...] = ()


Part = Delta | Restarted | Finished


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer as a whole."""

    text: str
    finished: Finished
