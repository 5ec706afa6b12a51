"""The roster: one file per agent, read and checked as a whole. A new agent is a new file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from stemma.agents.model import Agent
from stemma.errors import InvalidInput, NotFound
from stemma.governance import yaml_text
from stemma.governance.yaml_text import pointer
from stemma.registry.semver import parse_version
from stemma.store.settings import REPOSITORY

FOLDER: Final = REPOSITORY / "samples" / "agents"


class Roster:
    """The agents that there are, by name."""

    def __init__(self, agents: Mapping[str, Agent]) -> None:
        self._agents = dict(sorted(agents.items()))

    def __iter__(self) -> Iterator[Agent]:
        return iter(self._agents.values())

    def find(self, name: str) -> Agent:
        """The agent of this name; raises NotFound that names those that there are."""
        if name not in self._agents:
            hint = f"There are {', '.join(self._agents)}."
            raise NotFound("agent_unknown", f"There is no agent {name[:100]!r}.", field="agent", hint=hint)
        return self._agents[name]


@cache
def load(folder: Path = FOLDER) -> Roster:
    """Every agent that has a file in this folder; raises InvalidInput that names the file and the place in it."""
    found = {path.stem: _read(path) for path in sorted(folder.glob("*.yaml"))}
    return Roster(found)


def _read(path: Path) -> Agent:
    agent = parse(path.read_text(encoding="utf-8"), file=path.name)
    if agent.name != path.stem:
        what = f"{path.name}: the agent in it is called {agent.name}."
        raise InvalidInput("agent_invalid", what, field="name", hint="A file is called as its agent.")
    return agent


def parse(text: str, *, file: str) -> Agent:
    """The agent that a YAML text says; raises InvalidInput with the place of the first thing that is wrong."""
    source = yaml_text.read(text, field=file)
    try:
        agent = Agent.model_validate(source.value)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_input=False, include_context=False)[0]
        path = tuple(first["loc"])
        place = source.place(path)
        what = f"{file}: line {place.line}, column {place.column}: {pointer(path)}: {first['msg']}."
        raise InvalidInput("agent_invalid", what, field="agent") from invalid
    parse_version(agent.prompt.version, field="prompt.version")
    return agent
