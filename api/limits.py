"""How many requests of one capability may be in flight at once; the rest are told to come back (429).

What a request may weigh is `api.middleware`'s business.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from fastapi import Request, Response
from fastapi.routing import APIRoute

from stemma.errors import Unavailable

IN_FLIGHT: Final = {"search": 32, "documents": 32, "uploads": 4, "receipts": 16}


class TooManyRequests(Unavailable):
    """As many requests of this capability are in flight as are served at once."""

    status = 429
    title = "Too many requests"


class InFlight:
    """The requests in flight by capability. It is used on the event loop's thread alone and so needs no
    lock.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count(self, capability: str) -> int:
        """How many are in flight now."""
        return self._counts[capability]

    @contextlib.contextmanager
    def slot(self, capability: str, at_most: int) -> Iterator[None]:
        """Hold one of `at_most` places for the block; raises TooManyRequests where none is free."""
        if self._counts[capability] >= at_most:
            raise TooManyRequests(
                "too_many_requests",
                f"{at_most} requests to {capability} are in flight already.",
                hint="Try again after the seconds in Retry-After.",
            )
        self._counts[capability] += 1
        try:
            yield
        finally:
            self._counts[capability] -= 1


def limited(capability: str) -> type[APIRoute]:
    """A route class whose routes share the limit of `capability`; the body is read within the limit too."""

    class LimitedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handle_within_limit(request: Request) -> Response:
                in_flight: InFlight = request.app.state.in_flight
                with in_flight.slot(capability, IN_FLIGHT[capability]):
                    return await handle(request)

            return handle_within_limit

    return LimitedRoute
