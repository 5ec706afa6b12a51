"""What agents are told first, as versions in the registry.

An agent's file holds a version; calls follow the newest stable one of its major, so that a better prompt can be
published while the studio runs, and every call says which it was answered under.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from stemma.access.principal import Principal
from stemma.agents.model import Agent
from stemma.agents.roster import Roster
from stemma.errors import NotFound
from stemma.ledger.change import Change
from stemma.ledger.service import Ledger
from stemma.registry import catalog, publishing
from stemma.registry.model import Draft, Kind, Published
from stemma.registry.references import Reference
from stemma.registry.semver import Version, parse_version
from stemma.store.database import Connection, Database

KIND: Final = Kind("prompt", "prompt_versions", "agents:operate")


def name_of(agent: Agent) -> str:
    """What an agent's prompt is called in the registry."""
    return f"agents.{agent.name}"


def find(connection: Connection, agent: Agent) -> Published:
    """What the agent is told now: the newest stable version of its file's major.

    Raises NotFound where none was published; a pre-release in the file is found by its full version.
    """
    version = parse_version(agent.prompt.version)
    reference = Reference(name_of(agent), major=version.major) if version.is_stable else _exactly(agent, version)
    return catalog.find(connection, KIND, reference)


def text_of(published: Published) -> str:
    """The prompt itself."""
    return str(published.content["text"])


def publish_missing(database: Database, ledger: Ledger, principal: Principal, roster: Roster) -> tuple[Published, ...]:
    """Publish the prompts of the roster's files that are not published yet; returns what was new.

    Raises what publishing raises, such as Conflict where a file's text was changed and its version was not.
    """
    new = []
    for agent in roster:
        change = database.read(partial(unpublished, principal=principal, agent=agent))
        if change is not None:
            new.append(ledger.commit(change).result())
    return tuple(new)


def unpublished(connection: Connection, principal: Principal, agent: Agent) -> Change[Published] | None:
    """The publication of what the agent's file says; None where that is published. Raises what publishing raises."""
    version = parse_version(agent.prompt.version)
    draft = Draft(name_of(agent), version, agent.prompt.changelog, {"text": agent.prompt.text})
    try:
        existing = catalog.find(connection, KIND, _exactly(agent, version))
    except NotFound:
        return publishing.publish(connection, principal, KIND, draft)
    return None if existing.content == draft.content else publishing.publish(connection, principal, KIND, draft)


def _exactly(agent: Agent, version: Version) -> Reference:
    return Reference(name_of(agent), version)
