"""Blocking checks on what is summed up of calls to models: it is what the raw usage adds up to, to the last digit."""

from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from assets.costs import costs_daily, costs_weekly
from assets.telemetry import telemetry_error_budget, telemetry_latency
from resources.store import StoreResource

if TYPE_CHECKING:
    from stemma.store.database import Connection
    from stemma.telemetry.days import Span

Find = Callable[["Connection", "Span"], tuple[str, ...]]


@dg.asset_check(
    asset=costs_daily,
    blocking=True,
    description="Days add up to the usage of each call and the founder's totals, in calls, tokens and dollars",
)
def days_equal_usage(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Add the usage up a second time, without days and groups."""
    from stemma.telemetry import costs

    return _checked(context, store, costs.differences)


@dg.asset_check(asset=costs_weekly, blocking=True, description="Weeks add up to the usage of each call, as days do")
def weeks_equal_usage(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Add the usage up a second time."""
    from stemma.telemetry import costs

    return _checked(context, store, lambda connection, span: costs.differences(connection, span, weekly=True))


@dg.asset_check(asset=telemetry_latency, blocking=True, description="Every grouping counts each answered call once")
def latencies_count_each_call(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Count the answered calls a second time."""
    from stemma.telemetry import latency

    return _checked(context, store, latency.differences)


@dg.asset_check(asset=telemetry_error_budget, blocking=True, description="Counts of calls are those of the raw usage")
def errors_equal_usage(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Count the calls that failed a second time."""
    from stemma.telemetry import error_budget

    return _checked(context, store, error_budget.differences)


def _checked(context: dg.AssetCheckExecutionContext, store: StoreResource, find: Find) -> dg.AssetCheckResult:
    """Look at the run's days, or at all of them outside of a run of days."""
    from stemma.telemetry import costs

    with store.database.snapshot() as connection:
        span = _span(context) or costs.whole_span(connection)
        problems = () if span is None else find(connection, span)
    told = "; ".join(problems) or None
    return dg.AssetCheckResult(passed=not problems, description=told, metadata={"differences": len(problems)})


def _span(context: dg.AssetCheckExecutionContext) -> "Span | None":
    from stemma.telemetry.days import Span

    tags = context.run.tags
    only = tags.get(PARTITION_NAME_TAG)
    first, last = tags.get(ASSET_PARTITION_RANGE_START_TAG, only), tags.get(ASSET_PARTITION_RANGE_END_TAG, only)
    return Span(date.fromisoformat(first), date.fromisoformat(last)) if first and last else None
