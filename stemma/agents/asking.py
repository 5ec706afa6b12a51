"""What may be asked of an agent, and in whose role."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Final

from stemma.access.permissions import Role, permissions_of
from stemma.access.principal import Principal
from stemma.agents.model import Call
from stemma.errors import Forbidden, InvalidInput, TooLarge

LONGEST_INPUT: Final = 64_000
"""Characters of a question; the context is counted as JSON."""


def check(call: Call) -> None:
    """Raises Forbidden unless the agent takes the caller's role, InvalidInput and TooLarge for what cannot be asked."""
    agent, role = call.agent, call.principal.role
    call.principal.require("agents:call")
    if role not in agent.roles:
        hint = f"It takes {', '.join(agent.roles)}."
        raise Forbidden("agent_role_forbidden", f"{agent.title} does not answer the role {role}.", hint=hint)
    if not call.asked.strip():
        raise InvalidInput("input_empty", "Nothing is asked.", field="input")
    if len(call.asked) > LONGEST_INPUT:
        what = f"It has {len(call.asked):,} characters; at most {LONGEST_INPUT:,} are taken."
        raise TooLarge("input_too_long", what, field="input")
    if call.context and len(json.dumps(call.context, default=str)) > LONGEST_INPUT:
        raise TooLarge("context_too_long", f"As JSON it has more than {LONGEST_INPUT:,} characters.", field="context")


def narrowed(principal: Principal, role: Role | None) -> Principal:
    """The principal in a lesser role of its choice; raises Forbidden for one that may what its own may not.

    A role that leaves no trace is nobody's choice: who has it, has it.
    """
    if role is None or role is principal.role:
        return principal
    if role is Role.GODMODE or not permissions_of(role) <= permissions_of(principal.role):
        what = f"The role {role} may do what the role of this key may not."
        raise Forbidden("role_beyond_own", what, field="role", hint="A request can only narrow its key's role.")
    return replace(principal, role=role)
