"""What a tool is: what it takes, what its caller has to be permitted, and what it is handed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, field_validator
from pydantic_core import PydanticCustomError

from stemma.agents.model import Grant, ToolContext

if TYPE_CHECKING:
    from stemma.governance.decisions.deciding import Decider
    from stemma.knowledge.models import Hit
    from stemma.knowledge.search import Searcher
    from stemma.ledger.service import Ledger
    from stemma.store.database import Database
    from stemma.store.fetch import Network
    from stemma.store.settings import Settings


class Arguments(BaseModel):
    """What a tool takes; nothing else is accepted."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        if isinstance(value, str) and "\0" in value:
            raise PydanticCustomError("text_holds_nul", "The text holds the character U+0000")
        return value


@dataclass(frozen=True, slots=True)
class Studio:
    """What tools work with. `reachable` names networks that are fetched from in spite of their addresses, for tests."""

    settings: Settings
    database: Database
    searcher: Searcher
    decider: Callable[[], Decider]
    ledger: Ledger
    reachable: Sequence[Network] = ()


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a tool: for whom, and what of it the agent was granted."""

    studio: Studio
    context: ToolContext
    grant: Grant


@dataclass(frozen=True, slots=True)
class Found:
    """What a tool found or did: a JSON value or text for the model, and facts without content for the timeline."""

    content: Any
    citations: tuple[Hit, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool. `permissions` are what its caller needs, every one of them.

    `leaves_trace` says that it writes something down, so that it has no place in a founder's call. `use` runs in a
    thread and raises the typed errors of what it calls.
    """

    name: str
    description: str
    arguments: type[Arguments]
    permissions: tuple[str, ...]
    use: Callable[[Use, Any], Found]
    leaves_trace: bool = False

    @property
    def parameters(self) -> dict[str, Any]:
        """The JSON Schema of what it takes."""
        return self.arguments.model_json_schema()
