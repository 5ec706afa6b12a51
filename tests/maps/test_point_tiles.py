"""Point tiles: decoded by somebody else's decoder, every point is in every zoom, once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import mapbox_vector_tile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stemma.errors import CheckFailed, InvalidInput
from stemma.maps import grid
from stemma.maps.building import Provenance, build_points, id_sum
from stemma.maps.check import check
from stemma.maps.pmtiles import Archive
from stemma.maps.point_tiles import PointLayer, PointTiles
from stemma.maps.points import Column, Points

from .conftest import LAYER, PROVENANCE, crowd


def decoded(path: Path) -> list[tuple[int, int, dict[str, Any]]]:
    """Every tile as (zoom, id, layers)."""
    with Archive(path) as archive:
        return [
            (
                grid.zoom_of(tile_id),
                tile_id,
                mapbox_vector_tile.decode(archive.content(data)),
            )
            for tile_id, data in archive.stored()
        ]


def test_every_zoom_counts_every_point_by_category_and_period(points: Points, archive: Path) -> None:
    types, months = points.column("type"), points.column("month")
    expected = Counter(types.values[code] for code in types.codes)
    by_month = Counter(months.values[code] for code in months.codes if code >= 0)
    zooms: dict[int, Counter[str]] = {zoom: Counter() for zoom in range(LAYER.max_zoom + 1)}
    for zoom, _, layers in decoded(archive):
        for feature in layers.get("crimes", {"features": []})["features"]:
            said = feature["properties"]
            zooms[zoom].update(["exact", *(f"{key}={value}" for key, value in said.items())])
        for feature in layers.get("crimes_cells", {"features": []})["features"]:
            said = feature["properties"]
            zooms[zoom].update({key: number for key, number in said.items() if key != "top"})
            assert said[f"type={said['top']}"] == max(number for key, number in said.items() if key.startswith("type="))
    for zoom, counter in zooms.items():
        assert counter["exact"] + counter["count"] == len(points), zoom
        assert all(counter[f"type={name}"] == number for name, number in expected.items()), zoom
        assert all(counter[f"month={name}"] == number for name, number in by_month.items()), zoom
    assert zooms[0]["count"] and zooms[11]["exact"] == len(points)


def test_exact_points_stand_where_they_are_and_say_what_they_say(points: Points, archive: Path) -> None:
    places = {int(number): place for place, number in enumerate(points.ids)}
    hours = points.column("hour")
    seen = 0
    for zoom, tile_id, layers in decoded(archive):
        column, row = (int(place[0]) for place in grid.tiles(zoom, np.array([tile_id])))
        for feature in layers.get("crimes", {"features": []})["features"]:
            place = places[feature["id"]]
            x, up = feature["geometry"]["coordinates"]
            y = grid.EXTENT - up
            shift = grid.LEVELS - zoom - grid.EXTENT_BITS
            assert (column << 12 | x, row << 12 | y) == (points.x[place] >> shift, points.y[place] >> shift)
            assert feature["properties"]["hour"] == hours.values[hours.codes[place]]
            seen += 1
    assert seen > len(points)


def test_no_tile_is_over_the_budget(points: Points) -> None:
    tiles = PointTiles(points, LAYER)
    lengths = [tile.size for zoom in range(LAYER.max_zoom + 1) for chunk in tiles.at(zoom) for tile in chunk]
    assert LAYER.tile_bytes / 2 < max(lengths) <= LAYER.tile_bytes


def test_a_budget_that_one_cell_exceeds_is_refused(points: Points) -> None:
    tiles = PointTiles(points, PointLayer("crimes", category="type", tile_bytes=60))
    with pytest.raises(CheckFailed) as refused:
        list(tiles.at(0))
    assert refused.value.code == "tile_over_budget"


def test_the_same_points_in_any_order_give_the_same_bytes(points: Points, archive: Path, tmp_path: Path) -> None:
    order = np.random.default_rng(2).permutation(len(points))
    longitude, latitude = grid.degrees(points.x[order] + 0.5, points.y[order] + 0.5)
    mixed = Points.of(points.ids[order], longitude, latitude, [column.taken(order) for column in points.columns])
    build_points(tmp_path / "again.pmtiles", mixed, LAYER, PROVENANCE)
    assert (tmp_path / "again.pmtiles").read_bytes() == archive.read_bytes()


def test_the_metadata_name_layers_fields_and_provenance_but_no_path(archive: Path) -> None:
    with Archive(archive) as opened:
        metadata = opened.metadata()
    layers = {layer["id"]: layer for layer in metadata["vector_layers"]}
    assert layers["crimes"]["fields"] == {"type": "String", "month": "String", "hour": "Number"}
    assert layers["crimes_cells"]["fields"]["type=Arson"] == "Number"
    assert layers["crimes_cells"]["minzoom"] == 0
    assert metadata["stemma"]["inputs"] == [{"name": "crimes.csv", "sha256": "ab" * 32}]
    assert metadata["stemma"]["licence"] == "CC0-1.0"
    assert str(archive.parent) not in str(metadata)


coordinates = st.tuples(st.floats(-180, 180), st.floats(-85, 85))


@given(st.lists(coordinates, min_size=1, max_size=60), st.data())
@settings(max_examples=25, deadline=None)
def test_any_points_are_conserved(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[float, float]], data: st.DataObject
) -> None:
    names = data.draw(st.lists(st.sampled_from(["a", "b", "ü", None]), min_size=len(places), max_size=len(places)))
    values = data.draw(st.lists(st.none() | st.integers(-(2**62), 2**62), min_size=len(places), max_size=len(places)))
    longitude, latitude = np.array(places).T
    ids = np.arange(len(places)) * 2**40
    made = Points.of(ids, longitude, latitude, (Column.of("name", names), Column.of("value", values)))
    path = tmp_path_factory.getbasetemp() / "conserved.pmtiles"
    build_points(path, made, PointLayer("p", category="name", max_zoom=3, tile_bytes=700), Provenance("p"))
    report = check(path, tile_bytes=700)
    assert report.clean, report.problems
    assert {figures.lost for figures in report.layers} == {0}
    expected = {int(number): (name, value) for number, name, value in zip(ids, names, values, strict=True)}
    for _, _, layers in decoded(path):
        for feature in layers.get("p", {"features": []})["features"]:
            said = feature["properties"]
            assert (said.get("name"), said.get("value")) == expected[feature["id"]]


@pytest.mark.parametrize(
    ("longitude", "latitude"), [(float("nan"), 0), (0, float("inf")), (181, 0), (0, 90), (0, -90), (0, 85.1)]
)
def test_a_point_outside_the_map_is_refused(longitude: float, latitude: float) -> None:
    with pytest.raises(InvalidInput) as refused:
        Points.of(np.array([1]), np.array([longitude]), np.array([latitude]))
    assert refused.value.code == "coordinate_invalid"


def test_what_cannot_be_counted_or_named_is_refused() -> None:
    many = Column.of("type", [str(number) for number in range(600)])
    made = Points.of(np.arange(600), np.zeros(600), np.zeros(600), (many,))
    with pytest.raises(InvalidInput, match="600 values"):
        PointTiles(made, PointLayer("p", category="type"))
    with pytest.raises(InvalidInput, match="no attribute kind"):
        PointTiles(made, PointLayer("p", category="kind"))
    with pytest.raises(InvalidInput, match="Zooms go from 0"):
        PointLayer("p", max_zoom=19)
    with pytest.raises(InvalidInput, match="not below"):
        Points.of(np.array([1 << 53]), np.zeros(1), np.zeros(1))


def test_the_fingerprint_of_ids_knows_no_order() -> None:
    ids = crowd(50).ids
    assert id_sum(ids) == id_sum(ids[::-1])
    assert id_sum(ids) != id_sum(ids + 1)
