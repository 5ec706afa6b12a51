"""Putting a request before a node: its policy decides, or a person where the policy says so."""

from __future__ import annotations

import contextlib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from stemma.agents.tools.model import Arguments, Found, Tool, Use
from stemma.errors import Forbidden

if TYPE_CHECKING:
    from stemma.governance.decisions.model import Decision

_TRIES: Final = 3


class Asked(Arguments):
    """What is to be decided."""

    node: str = Field(min_length=1, max_length=100, description="The node that decides")
    event_type: str = Field(min_length=1, max_length=100, description="A type of event that the node decides")
    data: dict[str, Any] = Field(description="The event's data, as its type says")
    entity: str | None = Field(default=None, max_length=200, description="A pseudonym of what or whom it is about")


def _decide(use: Use, asked: Asked) -> Found:
    if not any(fnmatchcase(asked.node, pattern) for pattern in use.grant.nodes):
        hint = f"Allowed are {', '.join(use.grant.nodes) or 'none'}."
        raise Forbidden("node_refused", f"The node {asked.node} is not allowed.", field="node", hint=hint)
    decision = _decided(use, asked)
    content = {
        "decision": str(decision.id),
        "verdict": decision.verdict.value,
        "level": decision.level.value,
        "reasons": [reason.text for reason in decision.reasons],
        "state": decision.state.value,
        "effect": decision.effect.value if decision.effect else None,
        "approval": str(decision.approval_id) if decision.approval_id else None,
    }
    return Found(content, facts={"decision": str(decision.id), "verdict": decision.verdict.value})


def _decided(use: Use, asked: Asked) -> Decision:
    """The decision; where the node was stopped between verdict and commit, it is asked again."""
    from stemma.governance.decisions.deciding import NodeStopped
    from stemma.governance.events.model import NewEvent

    ledger, decider = use.studio.ledger, use.studio.decider()
    event = NewEvent(asked.event_type, asked.data, entity=asked.entity)
    for _ in range(_TRIES - 1):
        with contextlib.suppress(NodeStopped):
            return ledger.commit(decider.decide(use.context.principal, asked.node, event)).result()
    return ledger.commit(decider.decide(use.context.principal, asked.node, event)).result()


DECIDE: Final = Tool(
    "decide",
    "Has a node decide about a request by its policy: approved, denied, or put before a person.",
    Asked,
    ("decide:write",),
    _decide,
    leaves_trace=True,
)
