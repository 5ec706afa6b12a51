"""What a step tells of its partitions, by real runs: these fail when Dagster makes the events of outputs otherwise."""

from collections.abc import Callable, Iterator

import dagster as dg
import pytest

from resources import partition_events
from resources.partition_events import Told, tell

DAYS = dg.DailyPartitionsDefinition(start_date="2025-01-01", end_date="2025-01-05")
Tell = Callable[[dg.AssetExecutionContext], None]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


def events(instance: dg.DagsterInstance, told: Tell) -> dict[str, dg.AssetMaterialization]:
    """What Dagster keeps of one run for all days, by day."""

    def days(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        told(context)
        return dg.MaterializeResult(data_version=dg.DataVersion("of the step"), metadata={"shared": 1})

    asset = dg.asset(
        name="days", partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run(), code_version="3"
    )(days)
    tags = {"dagster/asset_partition_range_start": "2025-01-01", "dagster/asset_partition_range_end": "2025-01-04"}
    result = dg.materialize([asset], instance=instance, tags=tags)
    made = [event.materialization for event in result.get_asset_materialization_events()]
    return {str(event.partition): event for event in made}


def test_each_partition_has_its_own_data_version_beside_what_dagster_says(instance: dg.DagsterInstance) -> None:
    def some(context: dg.AssetExecutionContext) -> None:
        keys = context.partition_keys[:3]
        tell(context.run.run_id, context.asset_key, {key: Told(f"of {key}", {"own": key}) for key in keys})

    made = events(instance, some)
    assert {day: event.tags["dagster/data_version"] for day, event in made.items()} == {
        "2025-01-01": "of 2025-01-01",
        "2025-01-02": "of 2025-01-02",
        "2025-01-03": "of 2025-01-03",
        "2025-01-04": "of the step",
    }
    assert {event.tags["dagster/code_version"] for event in made.values()} == {"3"}
    assert {event.metadata["shared"].value for event in made.values()} == {1}
    assert [event.metadata["own"].value for event in made.values() if "own" in event.metadata] == list(made)[:3]
    for day, event in made.items():
        kept = instance.get_latest_data_version_record(dg.AssetKey("days"), partition_key=day)
        assert kept is not None and kept.asset_materialization is not None
        assert kept.asset_materialization.tags["dagster/data_version"] == event.tags["dagster/data_version"]
    assert partition_events._told == {}


def test_what_is_told_of_another_asset_or_run_changes_nothing(instance: dg.DagsterInstance) -> None:
    def others(context: dg.AssetExecutionContext) -> None:
        told = {key: Told("wrong", {}) for key in context.partition_keys}
        tell(context.run.run_id, dg.AssetKey("another"), told)
        tell("another run", context.asset_key, told)

    made = events(instance, others)
    assert {event.tags["dagster/data_version"] for event in made.values()} == {"of the step"}
    partition_events._told.clear()
