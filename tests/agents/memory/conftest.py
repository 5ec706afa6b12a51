"""An agent that remembers, and the vectors of a real model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from stemma.access.permissions import SCOPES, Role
from stemma.access.principal import Principal
from stemma.agents.memory import catalog, storing
from stemma.agents.memory.keeper import Keeper
from stemma.agents.memory.model import Remembered
from stemma.agents.model import Agent, Exchange, Recollection
from stemma.knowledge.embedding import Embedder
from stemma.ledger.change import Change
from stemma.ledger.service import Ledger
from stemma.store.database import Connection, Database
from stemma.store.settings import Settings


def caller(name: str = "key:ada", role: Role = Role.BUILDER) -> Principal:
    return Principal(name, role, frozenset(f"{scope}:*" for scope in SCOPES))


def new_agent(**memory: Any) -> Agent:
    prompt = {"version": "1.0.0", "changelog": "First.", "text": "You are Mnemo."}
    return Agent.model_validate(
        {"name": "mnemo", "title": "Mnemo", "purpose": "Remembers.", "prompt": prompt, "memory": memory}
    )


@dataclass(frozen=True)
class Mind:
    """An agent's memory in a studio of the test's own."""

    settings: Settings
    database: Database
    ledger: Ledger
    keeper: Keeper

    def commit(self, prepare: Callable[[Connection], Change[Any]]) -> Any:
        return self.ledger.commit(self.database.read(prepare)).result(20)

    def give(self, text: str, *, by: Principal | None = None, **given: Any) -> Remembered:
        wanted = storing.Given(text, **given)
        made: Remembered = self.commit(lambda c: storing.give(c, by or caller(), "mnemo", wanted, self.keeper.encoder))
        return made

    def talk(
        self,
        asked: str,
        answered: str,
        *,
        by: Principal | None = None,
        at: datetime | None = None,
        agent: Agent | None = None,
    ) -> UUID:
        """A call that was answered; without `at`, now. Returns its job."""
        exchange = Exchange(uuid4(), "r", asked, answered)
        if at is None:
            self.keeper.remember(agent or new_agent(), by or caller(), exchange)
        else:
            with self.database.transaction() as connection:
                mnemo, encoder = agent or new_agent(), self.keeper.encoder
                storing.remember_call(connection, mnemo, by or caller(), exchange, at, encoder)
        return exchange.job_id

    def recall(
        self, text: str, *, by: Principal | None = None, budget: int = 2000, agent: Agent | None = None
    ) -> list[Recollection]:
        return self.keeper.recall(agent or new_agent(), by or caller(), text, budget)

    def texts(self, text: str, **how: Any) -> list[str]:
        return [one.text for one in self.recall(text, **how)]

    def listed(self, *, by: Principal | None = None, **which: Any) -> list[Remembered]:
        return list(
            self.database.read(lambda c: catalog.list_memories(c, by or caller(), "mnemo", limit=200, **which)).data
        )

    def rows(self, query: str, *values: Any) -> list[Any]:
        with self.database.snapshot() as connection:
            return connection.execute(query, values).fetchall()


@pytest.fixture
def mind(settings: Settings, database: Database, equip: Callable[[Settings], Embedder]) -> Iterator[Mind]:
    """An empty memory."""
    equip(settings)
    with Ledger(database.urls, settings) as ledger:
        yield Mind(settings, database, ledger, Keeper(settings, database))


@pytest.fixture
def another() -> Principal:
    """Another caller."""
    return caller("key:bob")


@pytest.fixture
def operator() -> Principal:
    """Whoever may operate agents."""
    return caller("key:olga", Role.OWNER)


@pytest.fixture
def founder() -> Principal:
    """A founder."""
    return caller("key:f", Role.GODMODE)


@pytest.fixture
def make_agent() -> Callable[..., Agent]:
    """Make the agent with another memory profile."""
    return new_agent


@pytest.fixture
def noon() -> Callable[[int], datetime]:
    """Noon of the first, second, … day of a week that is over."""
    today = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    return lambda day: today - timedelta(days=20 - day)
