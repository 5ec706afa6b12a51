"""Models for those who run no event loop: assets and commands. The router lives on a loop in a thread of its own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING

from stemma.llm.metering import Meter
from stemma.llm.model import Caller, Completion, Part, Prompt
from stemma.llm.providers.base import Standing
from stemma.llm.router import Router
from stemma.llm.switches import SwitchBoard
from stemma.store.database import Database
from stemma.store.settings import Settings

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal


class Models:
    """What `Router` gives, to be waited for. Thread-safe."""

    def __init__(self, router: Router, portal: BlockingPortal) -> None:
        self._router = router
        self._portal = portal

    def complete_sync(self, prompt: Prompt, caller: Caller) -> Completion:
        """The answer as a whole; raises what `Router.stream` raises."""
        return self._portal.call(self._router.complete, prompt, caller)

    def stream_sync(self, prompt: Prompt, caller: Caller) -> Iterator[Part]:
        """The answer as it comes; a caller that stops ends the call. Raises what `Router.stream` raises."""
        parts: AsyncGenerator[Part, None] = self._router.stream(prompt, caller)
        try:
            while True:
                try:
                    yield self._portal.call(anext, parts)
                except StopAsyncIteration:
                    return
        finally:
            self._portal.call(parts.aclose)

    def look(self) -> dict[str, Standing]:
        """How each provider stands now."""
        return self._portal.call(self._router.look)


@contextlib.contextmanager
def open_models(settings: Settings, database: Database) -> Iterator[Models]:
    """Open a router with all that it needs; at the end what was used has been written down."""
    from anyio.from_thread import start_blocking_portal

    from stemma.knowledge.search import Searcher

    with (
        contextlib.closing(Searcher(database, settings)) as searcher,
        Meter(database, settings) as meter,
        SwitchBoard(database.urls.app) as switches,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Router(settings, searcher, meter, switches)) as router,
    ):
        yield Models(router, portal)
