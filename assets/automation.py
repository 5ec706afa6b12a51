"""The one automation condition of derived data, and the freshness every family answers for.

`AutomationCondition.eager()` re-fires when an upstream asset is materialized again with the same data version, so
derived data listens to changed data versions instead. See docs/decisions/0006-automation-condition.md.
"""

from __future__ import annotations

from datetime import timedelta

import dagster as dg

DAILY_FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=48), warn_window=timedelta(hours=26))


def derived_data() -> dg.AutomationCondition:
    """Materialize when an upstream data version changed, own code changed, or nothing is there yet."""
    condition = dg.AutomationCondition
    upstream_changed = condition.any_deps_updated().replace("newly_updated", condition.data_version_changed())
    wanted = upstream_changed | condition.code_version_changed() | condition.newly_missing()
    settled = condition.newly_requested() | condition.newly_updated() | condition.initial_evaluation()
    ready = ~condition.in_progress() & ~condition.any_deps_in_progress() & ~condition.any_deps_missing()
    return (wanted.since(settled) & ready).with_label("derived_data")
