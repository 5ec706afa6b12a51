"""A studio to use tools in: an indexed library, a node that decides, and a way to use one tool as a model would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from stemma.access.permissions import SCOPES, Role
from stemma.access.principal import Principal
from stemma.agents.model import Agent, ToolContext, ToolResult
from stemma.agents.tools.model import Studio
from stemma.agents.tools.toolbox import Tools
from stemma.governance.decisions.deciding import Decider
from stemma.knowledge import sources
from stemma.knowledge.search import Searcher
from stemma.ledger.service import Ledger
from stemma.llm.model import ToolCall
from stemma.store.database import Database, DatabaseUrls
from stemma.store.settings import Settings

EVERY_SCOPE = frozenset(f"{scope}:*" for scope in SCOPES)


@dataclass(frozen=True)
class Workshop:
    """The studio, and its tools."""

    studio: Studio
    tools: Tools

    @property
    def home(self) -> Path:
        return self.studio.settings.home

    def use(
        self,
        agent: Agent,
        tool: str,
        arguments: dict[str, Any] | str,
        *,
        by: Principal | None = None,
        founder: bool = False,
    ) -> ToolResult:
        """Use a tool as a model would have it used."""
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        context = ToolContext(agent, by or caller(), "r", None if founder else uuid4(), founder)
        return asyncio.run(self.tools.invoke(ToolCall("1", tool, text), context))

    def count(self, table: str) -> int:
        with self.studio.database.snapshot() as connection:
            row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert row is not None
        return int(row[0])


def caller(role: Role = Role.OWNER, *scopes: str, name: str = "key:ada") -> Principal:
    return Principal(name, role, frozenset(scopes) or EVERY_SCOPE)


@pytest.fixture(scope="session")
def principal() -> Callable[..., Principal]:
    """Make a caller of a role and scopes; by default one that may do everything but what founders may."""
    return caller


@pytest.fixture(scope="session")
def new_agent() -> Callable[..., Agent]:
    """Make an agent that was granted these tools."""

    def make(name: str = "tess", **tools: dict[str, Any]) -> Agent:
        prompt = {"version": "1.0.0", "changelog": "First.", "text": "You are Tess."}
        return Agent.model_validate(
            {"name": name, "title": "Tess", "purpose": "Is tested.", "prompt": prompt, "tools": tools}
        )

    return make


@pytest.fixture(scope="session")
def workshop(
    new_home: Callable[[], Path],
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
    index_library: Callable[[Settings, Database], None],
    open_desk: Callable[[Settings, Database, int], None],
) -> Iterator[Workshop]:
    """One studio for all tests of tools."""
    urls, settings = new_database(), Settings(home=new_home())
    with Database(urls) as database, Ledger(urls, settings) as ledger:
        with database.transaction() as connection:
            sources.ensure_builtin(connection, settings)
        index_library(settings, database)
        open_desk(settings, database, 3)
        searcher = Searcher(database, settings)
        studio = Studio(settings, database, searcher, lambda: Decider(database, settings), ledger)
        yield Workshop(studio, Tools(studio))
        searcher.close()
    drop_database(urls)


@pytest.fixture(scope="session")
def some_decision(workshop: Workshop) -> UUID:
    """A decision of the desk."""
    with workshop.studio.database.snapshot() as connection:
        row = connection.execute("SELECT id FROM decisions ORDER BY position LIMIT 1").fetchone()
    assert row is not None
    found: UUID = row[0]
    return found
