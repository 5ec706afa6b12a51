"""How many requests are served at once and in a minute; the rest are told to come back (429).

Places are counted by capability and, within it, by key; rates by key and capability, failed authentications by address.
What a request may weigh is `api.middleware`'s business.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from fastapi import Request, Response
from fastapi.routing import APIRoute

from stemma.errors import Unavailable

IN_FLIGHT: Final = {
    "agent_memory": 16,
    "agents": 1024,
    "approvals": 32,
    "audit": 8,
    "console": 32,
    "costs": 8,
    "dagster": 64,
    "dagster_websockets": 64,
    "decisions": 64,
    "documents": 32,
    "events": 32,
    "files": 32,
    "flags": 16,
    "founder": 8,
    "jobs": 64,
    "keys": 16,
    "learning": 16,
    "ledger": 16,
    "llm": 1024,
    "maps": 64,
    "memory": 16,
    "nodes": 16,
    "notifications": 8,
    "outcomes": 32,
    "paper_runs": 32,
    "papers": 32,
    "policies": 16,
    "receipts": 16,
    "runs": 16,
    "search": 32,
    "sessions": 16,
    "streams": 64,
    "subjects": 2,
    "telemetry": 4,
    "uploads": 4,
    "usage": 16,
    "vault": 8,
    "webhooks": 16,
}

_MINUTE: Final = 60.0


class TooManyRequests(Unavailable):
    """More than is served at once, or in a minute; `retry_after` is in seconds."""

    status = 429
    title = "Too many requests"

    def __init__(self, code: str, message: str, *, retry_after: int = 1) -> None:
        super().__init__(code, message, hint="Try again after the seconds in Retry-After.")
        self.retry_after = retry_after


class InFlight:
    """The requests in flight by what they share. It is used on the event loop's thread alone and so needs no lock."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, ...]] = Counter()

    def count(self, *shared: str) -> int:
        """How many are in flight now."""
        return self._counts[shared]

    @contextlib.contextmanager
    def slot(self, at_most: int, capability: str, *shared: str) -> Iterator[None]:
        """Hold one of `at_most` places for the block; raises TooManyRequests where none is free."""
        place = (capability, *shared)
        if self._counts[place] >= at_most:
            what = f"{at_most} requests to {capability} are in flight already{' with this key' if shared else ''}."
            raise TooManyRequests("too_many_requests", what)
        self._counts[place] += 1
        try:
            yield
        finally:
            self._counts[place] -= 1
            if not self._counts[place]:
                del self._counts[place]


class Rates:
    """What came within the last minute, by who sent it to what; each process counts for itself. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: dict[tuple[str, ...], deque[float]] = {}
        self._swept = time.monotonic()

    def take(self, per_minute: int, what: str, *whom: str) -> None:
        """Count one; raises TooManyRequests, and counts none, where there were `per_minute` within the last minute."""
        with self._lock:
            now = time.monotonic()
            self._sweep(now)
            taken = self._taken.setdefault((what, *whom), deque())
            _forget(taken, now)
            if len(taken) < per_minute:
                taken.append(now)
                return
            seconds = max(1, math.ceil(taken[-per_minute] + _MINUTE - now))
        raise TooManyRequests("rate_exceeded", f"More than {per_minute} {what} in a minute.", retry_after=seconds)

    def _sweep(self, now: float) -> None:
        """Once a minute, forget those of whom nothing was heard for that long."""
        if now - self._swept < _MINUTE:
            return
        self._swept = now
        for whom, taken in list(self._taken.items()):
            _forget(taken, now)
            if not taken:
                del self._taken[whom]


def _forget(taken: deque[float], now: float) -> None:
    while taken and taken[0] <= now - _MINUTE:
        taken.popleft()


def limited(capability: str) -> type[APIRoute]:
    """A route class whose routes share the limit of `capability`; the body is read within the limit too."""

    class LimitedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handle_within_limit(request: Request) -> Response:
                in_flight: InFlight = request.app.state.in_flight
                with in_flight.slot(IN_FLIGHT[capability], capability):
                    return await handle(request)

            return handle_within_limit

    return LimitedRoute
