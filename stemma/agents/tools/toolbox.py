"""The one way in which tools are used. Nothing that a model writes, or that it read, decides what is allowed.

A tool is carried out where the agent's file grants it, the caller itself may do that, and the arguments are those that
it takes; what it may reach (paths, hosts, assets, nodes) it asks of the grant, and what is destructive waits for a
person. All of it is asked at each use, whatever was offered.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import anyio
import anyio.to_thread
from pydantic import ValidationError

from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.agents.model import Agent, Grant, ToolContext, ToolResult
from stemma.agents.tools.marking import marked
from stemma.agents.tools.model import Arguments, Studio, Tool, Use
from stemma.agents.tools.registry import TOOLS
from stemma.errors import Forbidden, InvalidInput, NotFound, StemmaError, TooLarge
from stemma.llm.model import ToolCall, ToolSpec

MAX_ARGUMENTS: Final = 1 << 19
"""Characters of a call's arguments at most: those of the longest file, with every character escaped."""
_AT_ONCE: Final = 16
_NAMED: Final = 60


class Tools:
    """The studio's tools, as the relay is handed them. One per process; it is used on the event loop."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._threads: anyio.CapacityLimiter | None = None

    def specs(self, agent: Agent, principal: Principal) -> tuple[ToolSpec, ...]:
        """Those that the agent was granted and the caller may use, by name."""
        return tuple(
            ToolSpec(tool.name, _described(tool, agent.tools[name]), tool.parameters)
            for name, tool in sorted(TOOLS.items())
            if name in agent.tools and _refusal(tool, principal) is None
        )

    async def invoke(self, call: ToolCall, context: ToolContext) -> ToolResult:
        """Carry out what a model asks for, or say in the result why not; only a fault of the studio's own is raised."""
        try:
            tool = _allowed(call.name, context)
            use = Use(self._studio, context, context.agent.tools[tool.name])
            arguments = _read(tool, call.arguments)
            # Those of the event loop serve everybody's requests.
            self._threads = self._threads or anyio.CapacityLimiter(_AT_ONCE)
            found = await anyio.to_thread.run_sync(functools.partial(tool.use, use, arguments), limiter=self._threads)
        except StemmaError as error:
            return _failed(call.name, error)
        return ToolResult(marked(tool.name, found.content), citations=found.citations, facts=found.facts)


def _described(tool: Tool, grant: Grant) -> str:
    """What the tool does, and what of it there is to reach: a model that knows asks for nothing else in vain."""
    lists = {
        "folders": grant.paths,
        "hosts": grant.hosts,
        "assets": grant.assets,
        "nodes": grant.nodes,
        "secrets": [f"{name} for {use.host}" for name, use in grant.secrets.items()],
    }
    allowed = "; ".join(f"{what} {', '.join(names)}" for what, names in lists.items() if names)
    return f"{tool.description} Allowed: {allowed}." if allowed else tool.description


def _allowed(name: str, context: ToolContext) -> Tool:
    """The tool; raises NotFound, and Forbidden where the agent or the caller may not use it."""
    tool = TOOLS.get(name)
    if tool is None:
        hint = f"There are {', '.join(sorted(context.agent.tools)) or 'none'}."
        raise NotFound("tool_unknown", f"There is no tool {name[:_NAMED]!r}.", hint=hint)
    if name not in context.agent.tools:
        raise Forbidden("tool_not_granted", f"{context.agent.name} was not granted {name}.")
    if (refusal := _refusal(tool, context.principal, founder=context.founder)) is not None:
        raise refusal
    return tool


def _refusal(tool: Tool, principal: Principal, *, founder: bool = False) -> Forbidden | None:
    """Why this caller may not use a tool; None where it may."""
    if tool.leaves_trace and (founder or principal.role is Role.GODMODE):
        return Forbidden("tool_leaves_trace", f"{tool.name} writes something down, which a founder's call must not.")
    try:
        for permission in tool.permissions:
            principal.require(permission)
    except Forbidden as refusal:
        return refusal
    return None


def _read(tool: Tool, text: str) -> Arguments:
    """The arguments that a model wrote; raises InvalidInput that names what is wrong, and repeats none of it."""
    if len(text) > MAX_ARGUMENTS:
        raise TooLarge("arguments_too_large", f"The arguments have more than {MAX_ARGUMENTS:,} characters.")
    try:
        return tool.arguments.model_validate_json(text or "{}", strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))[:_NAMED] or "arguments"
        hint = f"They are those of this schema: {tool.parameters['properties']}."
        raise InvalidInput("arguments_invalid", f"{first['msg']}.", field=where, hint=hint) from error
    except (UnicodeEncodeError, RecursionError) as error:
        raise InvalidInput("arguments_invalid", "The arguments are not JSON.") from error


def _failed(name: str, error: StemmaError) -> ToolResult:
    told: dict[str, Any] = {"error": error.code, "message": error.message, "field": error.field, "hint": error.hint}
    said = {key: value for key, value in told.items() if value is not None}
    return ToolResult(
        marked(name if name in TOOLS else "asked for", said), code=error.code, facts={"error": error.code}
    )
