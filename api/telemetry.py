"""Each request as a count, a duration and, where there is tracing, a span; named by the route's template alone."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.middleware import is_founders
from stemma.telemetry.metrics import UNMATCHED, Metrics
from stemma.telemetry.tracing import Tracing, discard, fail


class Telemetry:
    """Looks at every request from outside, so that refusals and unexpected errors count as well.

    The duration is the time until the answer begins: a stream's answer ends when its reader likes.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status, seconds = 0, 0.0

        async def look_and_send(message: Message) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                status, seconds = message["status"], time.perf_counter() - started
            await send(message)

        self._metrics.request_began()
        with _span(scope) as span:
            try:
                await self.app(scope, receive, look_and_send)
            finally:
                route = getattr(scope.get("route"), "path", None)
                self._metrics.request_ended(route, scope["method"], status, seconds or time.perf_counter() - started)
                if span is not None:
                    _describe(span, scope, route, status)


def _span(scope: Scope) -> AbstractContextManager[Any]:
    tracing: Tracing | None = scope["app"].state.tracing
    return tracing.span("request", kind="SERVER") if tracing else nullcontext()


def _describe(span: Any, scope: Scope, route: str | None, status: int) -> None:
    """Name the span after what is known once the request was routed; the founder's is not sent."""
    if is_founders(scope):
        discard(span)
    span.update_name(f"{scope['method']} {route or UNMATCHED}")
    span.set_attribute("http.request.method", scope["method"])
    span.set_attribute("http.route", route or UNMATCHED)
    span.set_attribute("http.response.status_code", status)
    span.set_attribute("stemma.request_id", scope["state"]["request_id"])
    if status >= 500:
        fail(span, str(status))
