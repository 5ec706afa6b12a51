"""How calls to models and the services did, by days (UTC): latency, error budget, health.

Each is made anew for all days of a run by one statement; a day is complete when it is over. Blocking checks stand in
`assets/costs_checks.py`.
"""

from collections.abc import Callable, Mapping
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg

from assets.automation import DAILY_FRESHNESS
from assets.costs import USAGE_DAYS, span_of, told
from assets.product import Partitions, product
from resources.store import StoreResource
from stemma.telemetry import versions

if TYPE_CHECKING:
    from stemma.store.database import Database
    from stemma.telemetry.days import Kept, Span

_OPTIONS = {
    "partitions_def": USAGE_DAYS,
    "backfill_policy": dg.BackfillPolicy.single_run(),
    "freshness_policy": DAILY_FRESHNESS,
    "kinds": {"postgres"},
}


@product(
    key=["telemetry", "latency"],
    code_version=versions.LATENCY,
    description="Percentiles of the time that answered calls took, by provider, model, agent and route.",
    **_OPTIONS,
)
def telemetry_latency(context: dg.AssetExecutionContext, store: StoreResource) -> Partitions:
    """Work out the percentiles of the run's days."""
    from stemma.telemetry import latency

    return _made(context, store, latency.sync_days, noun="groups")


@product(
    key=["telemetry", "error_budget"],
    code_version=versions.ERROR_BUDGET,
    description="How many calls to models, and minutes of each service, went wrong; windows are added up when read.",
    **_OPTIONS,
)
def telemetry_error_budget(context: dg.AssetExecutionContext, store: StoreResource) -> Partitions:
    """Count the run's days."""
    from stemma.telemetry import error_budget

    return _made(context, store, error_budget.sync_days, noun="counts")


@product(
    key=["telemetry", "health"],
    code_version=versions.HEALTH,
    description="How much of each day each service and provider was there, from what was seen every minute.",
    **_OPTIONS,
)
def telemetry_health(context: dg.AssetExecutionContext, store: StoreResource) -> Partitions:
    """Sum up the run's days."""
    from stemma.telemetry import health_days

    return _made(context, store, health_days.sync_days, noun="services")


def _made(
    context: dg.AssetExecutionContext,
    store: StoreResource,
    sync: "Callable[[Database, Span], Mapping[date, Kept]]",
    *,
    noun: str,
) -> Partitions:
    return told(context, sync(store.database, span_of(context)), {}, noun=noun)
