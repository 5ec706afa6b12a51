"""What is counted, and the figures that follow from the counts."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from stemma.ledger.service import Ledger
from stemma.store.database import Database
from stemma.store.settings import Settings
from stemma.telemetry.appends import AppendObserver
from stemma.telemetry.collectors import Guarded
from stemma.telemetry.metrics import Load, Metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_no_caller_can_make_series() -> None:
    metrics = Metrics()
    for number in range(50):
        metrics.request_began()
        metrics.request_ended(None, f"BREW{number}", 404, 0.001)
    assert value(metrics, "stemma_http_requests_total", route="unmatched", method="other", status="4xx") == 50
    assert value(metrics, "stemma_http_requests_in_flight") == 0
    assert metrics.exposition().count(b"stemma_http_requests_total{") == 1


@given(st.lists(st.tuples(st.floats(0, 60), st.sampled_from([200, 404, 500, 503, 0])), max_size=60))
def test_a_window_is_what_came_in_it(requests: list[tuple[float, int]]) -> None:
    metrics, half = Metrics(), len(requests) // 2
    earlier = Load()
    for number, (seconds, status) in enumerate(requests):
        if number == half:
            earlier = metrics.load()
        metrics.request_ended("/api/v1/search", "GET", status, seconds)
        metrics.request_ended("/readyz", "GET", 503, 9.0)
        metrics.request_ended(None, "GET", 404, 9.0)
    load = metrics.load(without=["/readyz"]).since(earlier if half == 0 else _without_probes(requests[:half]))
    window = requests[half:]
    assert load.requests == len(window)
    assert load.errors == sum(status >= 500 for _, status in window)
    if window:
        assert load.error_rate == load.errors / load.requests
        bounds = [load.quantile(share) for share in (0.1, 0.5, 0.95, 1.0)]
        assert all(a <= b for a, b in itertools.pairwise(bound for bound in bounds if bound is not None))
        assert bounds[-1] is not None and 0 < bounds[-1] <= 10
    else:
        assert (load.error_rate, load.quantile(0.95)) == (None, None)


def _without_probes(requests: list[tuple[float, int]]) -> Load:
    metrics = Metrics()
    for seconds, status in requests:
        metrics.request_ended("/api/v1/search", "GET", status, seconds)
    return metrics.load()


@pytest.mark.parametrize(("share", "seconds"), [(0.5, 0.01), (0.75, 0.0175), (1.0, 0.025)])
def test_quantiles_are_interpolated_as_prometheus_does(share: float, seconds: float) -> None:
    metrics = Metrics()
    for taken in (0.007, 0.009, 0.012, 0.02):
        metrics.request_ended("/x", "GET", 200, taken)
    assert metrics.load().quantile(share) == pytest.approx(seconds)


def test_a_collector_that_fails_leaves_out_only_its_own() -> None:
    registry = CollectorRegistry()

    def fails() -> Any:
        raise RuntimeError("no table")

    Guarded(registry, {"broken": fails, "sound": lambda: [GaugeMetricFamily("sound", "It works", 7)]})
    found = {(s.name, *s.labels.values()): s.value for family in registry.collect() for s in family.samples}
    assert found["sound",] == 7
    assert found["stemma_scrape_failures_total", "broken"] == 1
    assert found["stemma_scrape_failures_total", "sound"] == 0


def test_the_writer_tells_how_much_it_wrote_at_once(settings: Settings, database: Database, new_entry: Any) -> None:
    metrics = Metrics()
    with Ledger(database.urls, settings, observer=AppendObserver(metrics, None)) as ledger:
        futures = [ledger.append([new_entry(2 * n), new_entry(2 * n + 1)]) for n in range(40)]
        assert all(len(future.result(20)) == 2 for future in futures)
        assert ledger.waiting() == 0
    assert value(metrics, "stemma_ledger_entries_total") == 80
    assert value(metrics, "stemma_ledger_batch_appends_sum") == 40
    batches = value(metrics, "stemma_ledger_batch_appends_count")
    assert batches is not None and batches == value(metrics, "stemma_ledger_commit_duration_seconds_count") < 40


def test_the_exposition_can_be_parsed() -> None:
    metrics = Metrics()
    metrics.searched("hybrid", 0.01)
    families = {family.name for family in text_string_to_metric_families(metrics.exposition().decode())}
    assert {"stemma_search_duration_seconds", "stemma_build_info", "process_resident_memory_bytes"} <= families
