"""Traces over OTLP/HTTP, where `STEMMA_OTEL_ENDPOINT` names a collector.

Where it does not, nothing of OpenTelemetry is imported and no thread runs. A span holds a request's id, a route's
template, a kind or an id of ours; never a path, a query, a body, a key or the words of an exception.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from stemma.errors import InvalidInput, StemmaError, Unavailable
from stemma.store.logs import is_unlogged
from stemma.store.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Span

logger = logging.getLogger(__name__)

_TIMEOUT = 5.0
_DISCARDED = "stemma.discarded"

Attributes = Mapping[str, str | int]


class Tracing:
    """The process's spans, sent in batches by a thread. Thread-safe; `close()` sends what waits."""

    def __init__(self, endpoint: str, service: str) -> None:
        """`endpoint` is the collector's base URL. Raises Unavailable where the packages are not installed."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise Unavailable(
                "otel_not_installed",
                "Traces are asked for, and OpenTelemetry is not installed.",
                field="STEMMA_OTEL_ENDPOINT",
                hint="Run `pip install --constraint constraints.txt --editable '.[otel]'`, or unset it.",
            ) from error

        class Sending(BatchSpanProcessor):
            """Sends what may be told of."""

            def on_end(self, span: ReadableSpan) -> None:
                if not (is_unlogged() or _DISCARDED in (span.attributes or ())):
                    super().on_end(span)

        exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=_TIMEOUT)
        self._provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
        self._provider.add_span_processor(Sending(exporter))
        self._tracer = self._provider.get_tracer("stemma")

    @contextlib.contextmanager
    def span(self, name: str, attributes: Attributes | None = None, *, kind: str = "INTERNAL") -> Iterator[Span]:
        """A span around the block, and the parent of what begins in it; an exception makes it one that failed."""
        from opentelemetry.trace import SpanKind

        with self._tracer.start_as_current_span(
            name,
            kind=SpanKind[kind],
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as begun:
            try:
                yield begun
            except BaseException as error:
                fail(begun, type(error).__name__)
                raise

    def append(self, entries: int) -> Callable[[Any], None]:
        """A span of an append that was asked for now, and what ends it when it is given the append's future."""
        begun = self._tracer.start_span("ledger append", attributes={"stemma.ledger.entries": entries})

        def ended(future: Any) -> None:
            if future.cancelled():
                fail(begun, "cancelled")
            elif error := future.exception():
                fail(begun, type(error).__name__)
            begun.end()

        return ended

    def close(self) -> None:
        """Send what waits, for at most some seconds, and end the thread."""
        self._provider.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def discard(span: Span) -> None:
    """Have a span not sent when it ends."""
    span.set_attribute(_DISCARDED, True)


def fail(span: Span, what: str) -> None:
    """Mark a span as failed; `what` is the type of an error, or a status."""
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", what)
    span.set_status(StatusCode.ERROR)


def label(name: str, value: str) -> None:
    """Put a label on the span that is open here, where there is one; nothing is imported for it."""
    if (trace := sys.modules.get("opentelemetry.trace")) is not None:
        trace.get_current_span().set_attribute(name, value)


def open_tracing(settings: Settings, service: str) -> Tracing | None:
    """The tracing that the settings ask for, if any.

    Raises InvalidInput for what is no URL of a collector, Unavailable where the packages are not installed.
    """
    if settings.otel_endpoint is None:
        return None
    parts = urlsplit(settings.otel_endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InvalidInput(
            "otel_endpoint_invalid",
            "This is no base URL of a collector.",
            field="STEMMA_OTEL_ENDPOINT",
            hint="Write http://127.0.0.1:4318, without /v1/traces.",
        )
    return Tracing(settings.otel_endpoint, service)


@contextlib.contextmanager
def traced(settings: Settings, service: str, name: str, attributes: Attributes) -> Iterator[Span | None]:
    """A trace of its own around the block, sent when it ends, for processes that do one thing.

    None where there is no tracing; what keeps it from being opened is logged and keeps nothing else.
    """
    try:
        tracing = open_tracing(settings, service)
    except StemmaError as error:
        logger.warning("not traced: %s", error)
        tracing = None
    if tracing is None:
        yield None
        return
    with tracing, tracing.span(name, attributes) as begun:
        yield begun
