"""Who looks on while the ledger is appended to: what `stemma.ledger.writer.Observer` asks for, counted and traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stemma.telemetry.metrics import Metrics
from stemma.telemetry.tracing import Tracing


class AppendObserver:
    """Counts each transaction, and makes each append a span where there is tracing."""

    def __init__(self, metrics: Metrics, tracing: Tracing | None) -> None:
        self._metrics = metrics
        self._tracing = tracing

    def accepted(self, entries: int) -> Callable[[Any], None] | None:
        """Begin the append's span, below the one of who asked for it."""
        return self._tracing.append(entries) if self._tracing else None

    def committed(self, appends: int, entries: int, seconds: float) -> None:
        """Count the transaction."""
        self._metrics.committed(appends, entries, seconds)
