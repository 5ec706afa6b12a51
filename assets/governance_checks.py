"""Blocking checks on the governance loop's memory: what does not agree with what happened stops what is built on it."""

from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from assets.governance import entity_features, knowledge_snapshots
from resources.store import StoreResource

if TYPE_CHECKING:
    from stemma.governance.memory.inputs import Span
    from stemma.store.database import Connection


@dg.asset_check(
    asset=entity_features,
    blocking=True,
    description="Features equal what is counted from each event, decision and outcome, exactly",
)
def features_equal_events(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Count the run's days a second time; all of them outside of a run of days."""
    from stemma.governance.memory.recount import recount

    with store.database.snapshot() as connection:
        span = _span(context, connection)
        if span is None:
            return dg.AssetCheckResult(passed=True, description="Nothing happened yet.")
        found = recount(connection, span)
    facts: dict[str, Any] = {"days": found.days, "windows": found.windows, "stale_days_left_out": found.left_out}
    return _none_of(found.differences, facts)


@dg.asset_check(asset=knowledge_snapshots, blocking=True, description="Snapshots are redacted, and match their hashes")
def snapshots_are_redacted(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Look at the snapshots of the run's days once more."""
    from stemma.governance.memory.snapshots import unredacted

    with store.database.snapshot() as connection:
        span = _span(context, connection)
        problems = () if span is None else unredacted(connection, span)
    return _none_of(problems, {})


def _span(context: dg.AssetCheckExecutionContext, connection: "Connection") -> "Span | None":
    from stemma.governance.memory.inputs import Span, whole_span

    tags = context.run.tags
    only = tags.get(PARTITION_NAME_TAG)
    first, last = tags.get(ASSET_PARTITION_RANGE_START_TAG, only), tags.get(ASSET_PARTITION_RANGE_END_TAG, only)
    if first is None or last is None:
        return whole_span(connection)
    return Span(date.fromisoformat(first), date.fromisoformat(last))


def _none_of(problems: tuple[str, ...], facts: dict[str, Any]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=not problems,
        description="; ".join(problems[:3]) or None,
        metadata={
            "problems": len(problems),
            "first": dg.MetadataValue.md("\n".join(f"- {problem}" for problem in problems) or "none"),
            **facts,
        },
    )
