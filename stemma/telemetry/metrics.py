"""The process's metrics and how they are counted: requests, appends, searches.

What is not counted but looked up when somebody asks is `collectors`' business. Each application has a registry of its
own. Labels come from fixed sets, so that no caller can make series.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.samples import Sample

from stemma import revision
from stemma.ledger.writer import MAX_BATCH

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
UNMATCHED: Final = "unmatched"
"""The route of requests that no route answers."""

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_CLASSES = {0: "none", **{first: f"{first}xx" for first in range(1, 6)}}
_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_APPENDS = tuple(2**power for power in range(MAX_BATCH.bit_length()))


class Metrics:
    """Counts what this process does. Thread-safe."""

    def __init__(self) -> None:
        # As many series again that say only since when each is counted.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "stemma_http_requests",
            "Requests by route, method and class of status (`none`: the client left before an answer)",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self._errors = Counter(
            "stemma_http_server_errors", "Requests answered 5xx, by route", ("route",), registry=self.registry
        )
        self._latency = Histogram(
            "stemma_http_request_duration_seconds",
            "Time until the answer began, by route",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._in_flight = Gauge(
            "stemma_http_requests_in_flight", "Requests whose answer has not ended", registry=self.registry
        )
        self._batch = Histogram(
            "stemma_ledger_batch_appends",
            "Appends that one transaction wrote",
            buckets=_APPENDS,
            registry=self.registry,
        )
        self._commit = Histogram(
            "stemma_ledger_commit_duration_seconds",
            "Time that one transaction of appends took",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._entries = Counter("stemma_ledger_entries", "Entries appended by this process", registry=self.registry)
        self._search = Histogram(
            "stemma_search_duration_seconds",
            "Time that the search itself took, by mode",
            ("mode",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._calls = Counter(
            "stemma_agent_calls",
            "Calls to agents that ended, by agent and how; founders' calls are not counted",
            ("agent", "ended"),
            registry=self.registry,
        )
        self._first_token = Histogram(
            "stemma_agent_first_token_seconds",
            "Time until a model's first token came, by agent",
            ("agent",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        Info("stemma_build", "What runs", registry=self.registry).info(
            {
                "version": version("stemma-studio"),
                "commit": revision.commit() or "unknown",
                "python": platform.python_version(),
            }
        )

    def request_began(self) -> None:
        """A request came in."""
        self._in_flight.inc()

    def request_ended(self, route: str | None, method: str, status: int, seconds: float) -> None:
        """A request was answered; `route` is its template, `status` 0 where nothing was sent."""
        self._in_flight.dec()
        name = route or UNMATCHED
        known = method if method in _METHODS else "other"
        self._requests.labels(name, known, _CLASSES.get(status // 100, "other")).inc()
        self._latency.labels(name).observe(seconds)
        if status >= 500:
            self._errors.labels(name).inc()

    def committed(self, appends: int, entries: int, seconds: float) -> None:
        """One transaction of the ledger's writer."""
        self._batch.observe(appends)
        self._entries.inc(entries)
        self._commit.observe(seconds)

    def searched(self, mode: str, seconds: float) -> None:
        """One search that was answered."""
        self._search.labels(mode).observe(seconds)

    def agent_called(self, agent: str, ended: str, first_token: float | None) -> None:
        """One call to an agent that ended; `first_token` is in seconds."""
        self._calls.labels(agent, ended).inc()
        if first_token is not None:
            self._first_token.labels(agent).observe(first_token)

    def load(self, *, without: Iterable[str] = ()) -> Load:
        """What was counted so far of matched routes but those `without`."""
        left_out = {UNMATCHED, *without}
        buckets: dict[float, float] = {}
        for sample in _samples(self._latency, "_bucket", left_out):
            bound = float(sample.labels["le"])
            buckets[bound] = buckets.get(bound, 0.0) + sample.value
        errors = sum(sample.value for sample in _samples(self._errors, "_total", left_out))
        return Load(tuple(sorted(buckets.items())), errors)

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)


def _samples(metric: Histogram | Counter, suffix: str, left_out: set[str]) -> Iterable[Sample]:
    for family in metric.collect():
        for sample in family.samples:
            if sample.name.endswith(suffix) and sample.labels["route"] not in left_out:
                yield sample


@dataclass(frozen=True, slots=True)
class Load:
    """Requests so far: how many were answered within each bound in seconds, the last being infinity; and 5xx."""

    buckets: tuple[tuple[float, float], ...] = ()
    errors: float = 0.0

    @property
    def requests(self) -> float:
        """All of them."""
        return self.buckets[-1][1] if self.buckets else 0.0

    @property
    def error_rate(self) -> float | None:
        """The share that was answered 5xx; None without requests."""
        return self.errors / self.requests if self.requests else None

    def since(self, earlier: Load) -> Load:
        """What came after `earlier`, which counted the same routes."""
        before = dict(earlier.buckets)
        buckets = tuple((bound, count - before.get(bound, 0.0)) for bound, count in self.buckets)
        return Load(buckets, self.errors - earlier.errors)

    def quantile(self, share: float) -> float | None:
        """The latency in seconds that this share stayed below; None without requests.

        Interpolated within the bucket as Prometheus' histogram_quantile does; beyond the last finite bound, that bound.
        """
        if not self.requests:
            return None
        rank, lower, below = share * self.requests, 0.0, 0.0
        for bound, count in self.buckets:
            if count >= rank and count > below:
                return lower if bound == float("inf") else lower + (bound - lower) * (rank - below) / (count - below)
            lower, below = bound, count
        return lower
