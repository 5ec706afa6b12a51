"""A relay with all that it needs, for who runs no API: commands."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from functools import cache
from typing import TYPE_CHECKING

from stemma.agents.logs import AgentLogs
from stemma.agents.memory.keeper import Keeper
from stemma.agents.relay import Outside, Relay
from stemma.agents.tools.model import Studio
from stemma.agents.tools.toolbox import Tools
from stemma.agents.vault.confidences import Confidences
from stemma.errors import StemmaError
from stemma.knowledge.search import Searcher
from stemma.ledger.service import Ledger
from stemma.llm.metering import Meter
from stemma.llm.router import Router
from stemma.llm.switches import SwitchBoard
from stemma.store.database import Database
from stemma.store.settings import Settings

if TYPE_CHECKING:
    from stemma.governance.decisions.deciding import Decider


@contextlib.asynccontextmanager
async def open_relay(settings: Settings, database: Database) -> AsyncIterator[tuple[Relay, Router]]:
    """The relay and the router that it asks; at the end, what was asked and used has been written down."""
    with (
        contextlib.closing(Searcher(database, settings)) as searcher,
        _warming(searcher),
        Ledger(database.urls, settings) as ledger,
        Meter(database, settings) as meter,
        SwitchBoard(database.urls.app) as switches,
    ):

        @cache
        def decider() -> Decider:
            from stemma.governance.decisions.deciding import Decider

            return Decider(database, settings)

        tools = Tools(Studio(settings, database, searcher, decider, ledger))
        outside = Outside(tools, Keeper(settings, database), Confidences(settings, switches), switches)
        async with (
            Router(settings, searcher, meter, switches) as router,
            Relay(database, ledger, router, outside, AgentLogs(settings)) as relay,
        ):
            yield relay, router


@contextlib.contextmanager
def _warming(searcher: Searcher) -> Iterator[None]:
    """Open the index beside what else is opened; where there is none, whoever searches is told."""

    def warm() -> None:
        with contextlib.suppress(StemmaError):
            searcher.warm()

    thread = threading.Thread(target=warm, name="warming")
    thread.start()
    try:
        yield
    finally:
        thread.join()
