"""Telling of what calls to models do and cost, and of assets that nobody brings up to date any more."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.definitions.freshness import TimeWindowFreshnessPolicy

if TYPE_CHECKING:
    from stemma.telemetry.alerts import Stale


@dg.sensor(
    name="alerts",
    description="Tells of failing models, dear days, budgets near their end and stale assets, once each",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def alerts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Tell what is due; it never asks for a run."""
    from stemma.ledger.service import Ledger
    from stemma.store.database import Database
    from stemma.store.settings import load_settings
    from stemma.telemetry.alerts import due

    settings = load_settings()
    if not settings.ff_cost_telemetry:
        return dg.SkipReason("FF_COST_TELEMETRY is off.")
    now = datetime.now(UTC)
    stale = stale_assets(context.instance, context.repository_def, now)
    with Database.open(settings) as database:
        changes = database.read(lambda connection: due(connection, stale, now))
        if changes:
            with Ledger(database.urls, settings) as ledger:
                for told in [ledger.commit(change) for change in changes]:
                    told.result()
    return dg.SkipReason(f"Alerts: {len(changes)}.")


def stale_assets(
    instance: dg.DagsterInstance, graph: dg.RepositoryDefinition | None, now: datetime
) -> "tuple[Stale, ...]":
    """The assets that were materialized once and not within the time that their freshness policy fails them after."""
    from stemma.telemetry.alerts import Stale

    if graph is None:
        return ()
    windows = {
        key: policy.fail_window.to_timedelta()
        for assets in graph.assets_defs_by_key.values()
        for key, spec in assets.specs_by_key.items()
        if isinstance(policy := spec.freshness_policy, TimeWindowFreshnessPolicy)
    }
    found = []
    for record in instance.get_asset_records(sorted(windows)):
        entry = record.asset_entry
        if (event := entry.last_materialization_record) is not None:
            at = datetime.fromtimestamp(event.timestamp, UTC)
            if now - at > windows[entry.asset_key]:
                found.append(Stale(entry.asset_key.to_user_string(), at))
    return tuple(found)
