"""The automation condition, by real ticks: it follows changed data versions and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from assets.automation import derived_data

PARTS = dg.DynamicPartitionsDefinition(name="parts")


class World:
    """A source, a derived asset and an index over its partitions, with versions that a test sets."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.version = "1"
        self.cursor: dg.AssetDaemonCursor | None = None

        @dg.asset(partitions_def=PARTS)
        def source() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(self.version))

        @dg.asset(partitions_def=PARTS, deps=[source], automation_condition=derived_data())
        def derived() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(self.version))

        @dg.asset(deps=[derived], automation_condition=derived_data())
        def index() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(self.version))

        self.assets = [source, derived, index]
        self.defs = dg.Definitions(assets=self.assets)
        instance.add_dynamic_partitions("parts", ["a", "b"])

    def build(self, *names: str, partition: str | None = None) -> None:
        assert dg.materialize(
            self.assets, instance=self.instance, selection=list(names), partition_key=partition
        ).success

    def tick(self) -> set[str]:
        """Names (with partition) that one evaluation requests."""
        result = dg.evaluate_automation_conditions(defs=self.defs, instance=self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        requested = set()
        for name in ("derived", "index"):
            key = dg.AssetKey(name)
            if name == "index":
                requested |= {name} if result.get_num_requested(key) else set()
            else:
                requested |= {f"{name}[{part}]" for part in result.get_requested_partitions(key)}
        return requested


@pytest.fixture
def world() -> Iterator[World]:
    with dg.DagsterInstance.ephemeral() as instance:
        world = World(instance)
        for part in "ab":
            world.build("source", "derived", partition=part)
        world.build("index")
        assert world.tick() == set()
        yield world


def test_nothing_happens_when_an_upstream_is_rebuilt_with_the_same_version(world: World) -> None:
    world.build("source", partition="a")
    assert world.tick() == set()
    assert world.tick() == set()


def test_a_changed_upstream_rebuilds_its_partition_and_the_index(world: World) -> None:
    world.version = "2"
    world.build("source", partition="a")
    assert world.tick() == {"derived[a]"}
    world.build("derived", partition="a")
    assert world.tick() == {"index"}
    world.build("index")
    assert world.tick() == set()
    assert world.tick() == set()


def test_a_run_that_already_built_everything_is_not_repeated(world: World) -> None:
    world.version = "2"
    world.build("source", "derived", partition="b")
    world.build("index")
    assert world.tick() == set()
    assert world.tick() == set()


def test_a_new_partition_is_built_once_its_source_is_there(world: World) -> None:
    world.instance.add_dynamic_partitions("parts", ["c"])
    assert "derived[c]" not in world.tick()
    world.build("source", partition="c")
    assert "derived[c]" in world.tick()
    assert "derived[c]" not in world.tick()
