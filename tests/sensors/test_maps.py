"""What builds map layers by itself: a source, or a description, that changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from definitions import defs
from sensors.maps import map_sources
from stemma.maps.catalog import RegisteredLayer
from stemma.maps.layers import parse_layer
from stemma.store.settings import Settings

TREES = {
    "id": "trees",
    "title": "Trees",
    "kind": "points",
    "source": {"path": "trees.csv"},
    "columns": {"longitude": "lon", "latitude": "lat"},
    "licence": "CC0-1.0",
    "attribution": "Nobody",
}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as temporary:
        yield temporary


@pytest.fixture
def folder(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the sources of layers lie, in a studio whose pipeline is on."""
    monkeypatch.setenv("FF_MAP_PIPELINE", "true")
    (tmp_path / "trees.csv").write_text("lon,lat\n1,2\n")
    return tmp_path


def tick(instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult | dg.SkipReason:
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, repository_def=defs.get_repository_def(), sensor_name="map_sources"
    )
    return map_sources(context)


def test_a_layer_is_built_once_and_again_when_its_source_or_description_changes(
    folder: Path, instance: dg.DagsterInstance, add_layer: Callable[..., RegisteredLayer]
) -> None:
    assert isinstance(tick(instance, None), dg.SkipReason)
    add_layer(parse_layer(TREES), folder=folder)
    added = tick(instance, None)
    assert [request.partition_key for request in added.run_requests] == ["trees"]
    assert isinstance(tick(instance, added.cursor), dg.SkipReason)
    (folder / "trees.csv").write_text("lon,lat\n1,2\n3,4\n")
    changed = tick(instance, added.cursor)
    add_layer(parse_layer({**TREES, "title": "All trees"}), folder=folder)
    described = tick(instance, changed.cursor)
    keys = {result.run_requests[0].run_key for result in (added, changed, described)}
    assert len(keys) == 3


def test_a_source_that_is_gone_is_waited_for_and_holds_up_no_other(
    folder: Path, instance: dg.DagsterInstance, add_layer: Callable[..., RegisteredLayer]
) -> None:
    add_layer(parse_layer({**TREES, "id": "bushes", "source": {"path": "bushes.csv"}}), folder=folder)
    skipped = tick(instance, None)
    assert isinstance(skipped, dg.SkipReason) and "bushes" in str(skipped.skip_message)
    add_layer(parse_layer(TREES), folder=folder)
    result = tick(instance, None)
    assert [request.partition_key for request in result.run_requests] == ["trees"]
    (folder / "bushes.csv").write_text("lon,lat\n1,2\n")
    assert [request.partition_key for request in tick(instance, result.cursor).run_requests] == ["bushes"]


@pytest.mark.parametrize("cursor", ["", "x", "[1]", '{"trees": "a"}', "[1, 2]", "null"])
def test_a_cursor_from_elsewhere_never_stops_the_sensor(
    folder: Path, instance: dg.DagsterInstance, add_layer: Callable[..., RegisteredLayer], cursor: str
) -> None:
    add_layer(parse_layer(TREES), folder=folder)
    assert isinstance(tick(instance, cursor), dg.SensorResult)


def test_a_pipeline_that_is_off_builds_nothing(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FF_MAP_PIPELINE", "false")
    skipped = tick(instance, None)
    assert isinstance(skipped, dg.SkipReason) and "FF_MAP_PIPELINE" in str(skipped.skip_message)
