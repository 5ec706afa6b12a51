"""Metrics that are looked up when somebody scrapes: the pool, the ledger's queue, jobs.

One that fails or takes too long leaves its own families out and is counted; the rest of the scrape is served.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stemma.jobs.catalog import count_by_kind_and_state
from stemma.store.database import Database

logger = logging.getLogger(__name__)

_PATIENCE: Final = 1.0
_STATEMENT_TIMEOUT: Final = "SET LOCAL statement_timeout = '1s'"

Look = Callable[[], Iterable[Metric]]


class Guarded(Collector):
    """Collects by functions with names; an exception of one leaves out what that one gives."""

    def __init__(self, registry: CollectorRegistry, looks: dict[str, Look]) -> None:
        self._looks = looks
        self._failures = Counter(
            "stemma_scrape_failures", "Looks that failed, by collector", ("collector",), registry=None
        )
        for name in looks:
            self._failures.labels(name)
        # In this order, so that a scrape that lacks something says so itself.
        registry.register(self)
        registry.register(self._failures)

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is turns out at the scrape, and registering must not look."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """What each look gives."""
        for name, look in self._looks.items():
            try:
                found = list(look())
            except Exception as error:
                self._failures.labels(name).inc()
                logger.warning("the metrics of %s could not be collected: %s", name, " ".join(str(error).split()))
            else:
                yield from found


def pool(database: Database) -> Iterable[Metric]:
    """How the pool of connections stands."""
    usage = database.pool_usage()
    connections = GaugeMetricFamily(
        "stemma_database_pool_connections", "Connections of the pool, by state", labels=("state",)
    )
    connections.add_metric(("in_use",), usage.in_use)
    connections.add_metric(("idle",), usage.open - usage.in_use)
    yield connections
    yield GaugeMetricFamily("stemma_database_pool_limit", "Connections of the pool, at most", usage.limit)
    yield GaugeMetricFamily("stemma_database_pool_waiting", "Requests that wait for a connection", usage.waiting)


def queue(waiting: Callable[[], int]) -> Iterable[Metric]:
    """How many appends wait for the ledger's writer."""
    yield GaugeMetricFamily("stemma_ledger_queue_depth", "Appends that wait for the ledger's writer", waiting())


def jobs(database: Database) -> Iterable[Metric]:
    """Jobs by kind and state."""
    with database.transaction(timeout=_PATIENCE) as connection:
        connection.execute(_STATEMENT_TIMEOUT)
        counted = count_by_kind_and_state(connection)
    family = GaugeMetricFamily("stemma_jobs", "Jobs by kind and state", labels=("kind", "state"))
    for (kind, state), count in counted.items():
        family.add_metric((kind, state), count)
    yield family
