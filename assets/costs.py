"""What calls to models cost, by days and weeks (UTC), made of the usage of each call and the founder's totals.

A day or week is complete when it is over. Blocking checks stand in `assets/costs_checks.py`.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.automation import DAILY_FRESHNESS
from assets.product import Partition, Partitions, product
from resources.store import StoreResource
from stemma.store.outputs import Listing
from stemma.telemetry import versions

if TYPE_CHECKING:
    from stemma.telemetry.costs import Cost
    from stemma.telemetry.days import Kept, Span

# EDIT HERE: the first day of which calls to models are summed up; weeks begin with its Monday.
USAGE_DAYS = dg.DailyPartitionsDefinition(start_date="2025-01-01", timezone="UTC")
USAGE_WEEKS = dg.WeeklyPartitionsDefinition(start_date="2024-12-30", day_offset=1, timezone="UTC")


@product(
    key=["costs", "daily"],
    kinds={"postgres"},
    code_version=versions.COSTS,
    description="Calls, tokens and US dollars of each day, by provider, model, agent and route, and the founder's.",
    partitions_def=USAGE_DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    freshness_policy=DAILY_FRESHNESS,
)
def costs_daily(context: dg.AssetExecutionContext, store: StoreResource) -> Partitions:
    """Sum up the days of the run."""
    from stemma.telemetry import costs

    span = span_of(context)
    kept = costs.sync_days(store.database, span)
    shown = _shown(store.database.read(lambda connection: costs.daily(connection, span)))
    return told(context, kept, shown, noun="sums")


@product(
    key=["costs", "weekly"],
    deps=[costs_daily],
    kinds={"postgres"},
    code_version=versions.COSTS,
    description="The same for weeks from Monday to Sunday, by provider and model.",
    partitions_def=USAGE_WEEKS,
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def costs_weekly(context: dg.AssetExecutionContext, store: StoreResource) -> Partitions:
    """Add up the weeks of the run."""
    from stemma.telemetry import costs

    span = span_of(context)
    kept = costs.sync_weeks(store.database, span)
    shown = _shown(store.database.read(lambda connection: costs.weekly(connection, span)))
    weeks = told(context, kept, shown, noun="sums")
    return replace(weeks, by_key={key: replace(week, made_from=_days(key)) for key, week in weeks.by_key.items()})


def span_of(context: dg.AssetExecutionContext) -> "Span":
    """The days of a run, or the Mondays of its weeks."""
    from stemma.telemetry.days import Span

    keys = context.partition_key_range
    return Span(date.fromisoformat(keys.start), date.fromisoformat(keys.end))


def told(
    context: dg.AssetExecutionContext,
    kept: "Mapping[date, Kept]",
    shown: Mapping[date, Mapping[str, Any]],
    *,
    noun: str,
) -> Partitions:
    """What each day or week of a run became, with what is `shown` of it."""
    from stemma.telemetry.days import NOTHING

    partitions = {}
    for key in context.partition_keys:
        day = date.fromisoformat(key)
        found = kept.get(day, NOTHING)
        listing = Listing()
        listing.add(found.version, found.rows)
        partitions[key] = Partition(
            data_version=found.version,
            artifacts=(listing.artifact(f"{context.asset_key.to_user_string()}/{key}"),),
            metadata={"dagster/row_count": found.rows, "changed": found.changed, **shown.get(day, {})},
        )
    rows, changed = sum(one.rows for one in kept.values()), sum(one.changed for one in kept.values())
    count = f"{len(partitions):,} partition{'' if len(partitions) == 1 else 's'}"
    return Partitions(partitions, {"summary": f"{count}, {changed:,} changed, {rows:,} {noun}", "made": changed})


def _days(week: str) -> tuple[str, ...]:
    return tuple(str(date.fromisoformat(week) + timedelta(days=day)) for day in range(7))


def _shown(found: "tuple[Cost, ...]") -> dict[date, dict[str, Any]]:
    """What a person would look at, above all the money that the calls cost."""
    return {
        cost.day: {
            "calls": cost.calls,
            "errors": cost.errors,
            "unpriced_calls": cost.unpriced,
            "tokens": cost.tokens_in + cost.tokens_out,
            "usage_usd": float(cost.cost),
            "founder_usd": float(cost.founder_cost),
        }
        for cost in found
    }
