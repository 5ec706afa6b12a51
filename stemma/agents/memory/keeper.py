"""The agents' memory as the relay is handed it."""

from __future__ import annotations

from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.agents.memory import recalling, storing
from stemma.agents.memory.vectors import Encoder
from stemma.agents.model import Agent, Exchange, Recollection
from stemma.store.database import Database, database_time
from stemma.store.settings import Settings


class Keeper:
    """Keeps what agents remember. Thread-safe; one per process, `encoder` is shared with who stores besides."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.encoder = Encoder(settings)
        self._database = database

    def recall(self, agent: Agent, principal: Principal, text: str, budget: int) -> list[Recollection]:
        """What helps to answer `text`, the oldest turn first, within `budget` tokens."""
        return self._database.read(
            lambda connection: recalling.recall(connection, agent, principal, text, budget, self.encoder)
        )

    def remember(self, agent: Agent, principal: Principal, exchange: Exchange) -> None:
        """Remember an exchange, redacted, for its caller alone; nothing of a founder's, whoever hands it over.

        Raises Unavailable where it cannot be written.
        """
        if principal.role is Role.GODMODE:
            return
        with self._database.transaction() as connection:
            now = database_time(connection)
            storing.remember_call(connection, agent, principal, exchange, now, self.encoder)
