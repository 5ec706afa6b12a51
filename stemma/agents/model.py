"""What an agent is, and what the relay asks of those who give it tools, a memory and a founder's confidences.

Shapes alone. Who reads the roster, calls models and writes things down is said in `stemma.agents`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Protocol
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.knowledge.models import Hit
from stemma.llm.model import Caller, Part, Prompt, ToolCall, ToolsMode, ToolSpec, Usage

Tier = Literal["short_term", "episodic", "semantic", "vector"]

DEFAULT_ROLES: Final = (Role.GODMODE, Role.SUPER_ADMIN, Role.ADMIN_AGENT)

AgentName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
_Entry = Annotated[str, StringConstraints(min_length=1, max_length=300)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SystemPrompt(_Part):
    """What the model is told first: published in the registry as `agents.<name>`, so that calls follow its newest
    version of this major.
    """

    version: str
    changelog: str
    text: Annotated[str, StringConstraints(min_length=1, max_length=16_000)]


class ModelPreference(_Part):
    """Which model answers: providers are tried in this order, those configured where none is named."""

    providers: tuple[_Entry, ...] = ()
    name: _Entry | None = None
    max_tokens: Annotated[int, Field(ge=1, le=32_768)] = 2048
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    tools_mode: ToolsMode = "auto"
    timeout: Annotated[float, Field(gt=0, le=600)] = 120.0


class SecretUse(_Part):
    """Where a secret of the agent's vault may be sent: to one host, with its port where that is not 443, and as which
    header, behind a scheme such as `Bearer` where that is not empty.
    """

    host: Annotated[str, StringConstraints(pattern=r"^[a-z0-9.-]{1,253}(:[0-9]{1,5})?$")]
    header: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,60}$")] = "Authorization"
    scheme: Annotated[str, StringConstraints(pattern=r"^([A-Za-z][A-Za-z0-9-]{0,30})?$")] = "Bearer"


class Grant(_Part):
    """What of a tool an agent may use. Each list is an allowlist, and an empty one allows nothing of its sort:
    folders below the studio's home, hosts of the network, keys of assets, nodes of governance, names of secrets.
    """

    paths: tuple[_Entry, ...] = ()
    hosts: tuple[_Entry, ...] = ()
    assets: tuple[_Entry, ...] = ()
    nodes: tuple[_Entry, ...] = ()
    secrets: Mapping[_Entry, SecretUse] = Field(default_factory=dict)


class MemoryProfile(_Part):
    """What an agent remembers: in which tiers, the last `turns` calls of one key, the `top` most relevant of the other
    tiers, together at most `budget` tokens of a prompt, for `days`.
    """

    tiers: tuple[Tier, ...] = ("short_term", "episodic", "semantic", "vector")
    turns: Annotated[int, Field(ge=0, le=50)] = 6
    top: Annotated[int, Field(ge=0, le=50)] = 6
    budget: Annotated[int, Field(ge=0, le=16_000)] = 1500
    days: Annotated[int, Field(ge=1, le=3_650)] = 90


class Agent(_Part):
    """An agent as its file says. `tools` maps names of tools to what of them it may use; others are denied."""

    name: AgentName
    title: Annotated[str, StringConstraints(min_length=1, max_length=60)]
    purpose: Annotated[str, StringConstraints(min_length=1, max_length=1_000, pattern=r"\S")]
    prompt: SystemPrompt
    model: ModelPreference = ModelPreference()
    tools: Mapping[_Entry, Grant] = Field(default_factory=dict)
    tool_rounds: Annotated[int, Field(ge=0, le=20)] = 6
    roles: tuple[Role, ...] = DEFAULT_ROLES
    memory: MemoryProfile = MemoryProfile()


@dataclass(frozen=True, slots=True)
class Call:
    """A request to an agent. `principal` has the role that the request was narrowed to; `context` is the caller's."""

    agent: Agent
    principal: Principal
    request_id: str
    route: str
    asked: str
    context: Mapping[str, Any] | None = None
    memory: bool = True

    @property
    def founder(self) -> bool:
        """Whether it leaves no trace."""
        return self.principal.role is Role.GODMODE


@dataclass(frozen=True, slots=True)
class Answer:
    """What an agent answered, as a whole; `cost` is in US dollars, None where unknown.

    `prompt` is the version of what the agent was told, `rounds` how often the model was asked.
    """

    text: str
    prompt: str
    provider: str
    model: str
    rounds: int
    usage: Usage
    cost: Decimal | None
    latency_ms: float
    ttft_ms: float | None
    citations: tuple[Hit, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolContext:
    """For whom a tool is used. `principal` has the role that the call was narrowed to.

    `job_id` is None in a founder's call, which leaves no trace: a tool must not write down what such a call asked.
    """

    agent: Agent
    principal: Principal
    request_id: str
    job_id: UUID | None
    founder: bool = False


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool gave: `text` for the model, redacted, bounded and marked as data; `code` is an error's.

    `facts` go to the job's timeline, and so hold no content: what was looked up, which approval waits.
    """

    text: str
    code: str | None = None
    citations: tuple[Hit, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


class Models(Protocol):
    """Who answers: the router of `stemma.llm`."""

    def stream(self, prompt: Prompt, caller: Caller) -> AsyncIterator[Part]:
        """The answer part by part; closing it stops the provider."""
        ...


class ToolBox(Protocol):
    """The tools that there are."""

    def specs(self, agent: Agent, principal: Principal) -> tuple[ToolSpec, ...]:
        """Those that both the agent and the caller may use."""
        ...

    async def invoke(self, call: ToolCall, context: ToolContext) -> ToolResult:
        """Carry out what a model asks for. Whatever is wrong with that is told in the result: only a fault of the
        studio's own is raised. The relay tells the job's timeline before and after.
        """
        ...


@dataclass(frozen=True, slots=True)
class Recollection:
    """Something remembered, as it may be put before a model. `source` says where it is from."""

    id: UUID
    tier: Tier
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """A call that was answered."""

    job_id: UUID
    request_id: str
    asked: str
    answered: str
    citations: tuple[Hit, ...] = ()


class Memory(Protocol):
    """What agents remember. Both functions run in a thread; the relay asks neither where memory is off, and never has
    a founder's call remembered.
    """

    def recall(self, agent: Agent, principal: Principal, text: str, budget: int) -> list[Recollection]:
        """What helps to answer `text`, the oldest turn first, within `budget` tokens."""
        ...

    def remember(self, agent: Agent, principal: Principal, exchange: Exchange) -> None:
        """Remember an exchange, redacted; it has been answered whether or not this succeeds."""
        ...


class Confidant(Protocol):
    """What founders confide to their own calls."""

    def confide(self, agent: Agent, prompt: Prompt) -> Prompt:
        """The prompt of a founder's call with the confidences in it, and only providers that may be told them."""
        ...
