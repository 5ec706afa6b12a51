"""Line and polygon tiles: tippecanoe's shapes under our description, and no id lost in the last zoom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely
from pyogrio import raw

from stemma.errors import CheckFailed, InvalidInput, Unavailable
from stemma.maps.building import Built, Input, Provenance
from stemma.maps.check import check
from stemma.maps.continuity import within_tile
from stemma.maps.decoding import decode, parts
from stemma.maps.layers import Layer, parse_layer
from stemma.maps.pmtiles import Archive, ArchiveWriter
from stemma.maps.shape_tiles import build_shapes

NATURAL_EARTH = Path(__file__).parents[3] / "shared" / "data" / "maps" / "natural_earth"
PROVENANCE = Provenance("Places", "maps/tiles", "places", (Input("in.geojson", "cd" * 32),), "CC0-1.0", "© nobody")


def layer(kind: str = "polygons", **changes: Any) -> Layer:
    described = {"id": "places", "title": "Places", "source": {"path": "in.geojson"}, "licence": "CC0-1.0"}
    return parse_layer({**described, "attribution": "Nobody", "kind": kind, "max_zoom": 5, **changes})


def table(shapes: Any) -> pa.Table:
    """Features as `read_features` gives them, the first with the id 0 and every second one without a name."""
    count = len(shapes)
    return pa.table(
        {
            "stemma_id": pa.array(np.arange(count)),
            "name": pa.array([None if number % 2 else f"Ort ü{number}" for number in range(count)]),
            "people": pa.array([(1 << 60) - number for number in range(count)]),
            "share": pa.array([number / 3 for number in range(count)]),
            "capital": pa.array([number == 0 for number in range(count)]),
            "geometry": pa.array(shapely.to_wkb(shapes), pa.binary()),
        }
    )


def fields() -> Any:
    """Neighbours that share borders of many corners."""
    angles = np.linspace(0, 2 * np.pi, 40)
    wave = [
        (float(step), float(np.sin(angle) * 0.2)) for step, angle in zip(np.linspace(0, 1, 40), angles, strict=True)
    ]
    rows = [[(x + dx, 45 + y + dy) for x in range(6) for dx, dy in wave] for y in range(6)]
    return np.array(
        [
            shapely.Polygon([*rows[y][40 * x : 40 * x + 40], *reversed(rows[y + 1][40 * x : 40 * x + 40])])
            for y in range(5)
            for x in range(6)
        ]
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Built]:
    path = tmp_path_factory.mktemp("shapes") / "places.pmtiles"
    return path, build_shapes(path, table(fields()), layer(), PROVENANCE)


def shown(path: Path) -> list[dict[str, Any]]:
    """What the features of the last zoom say, by id."""
    found = {}
    with Archive(path) as archive:
        *_, (_, data) = archive.stored()
        for of_tile in decode(archive.content(data)):
            found |= {feature.id: of_tile.attributes(feature) for feature in of_tile.features}
    return [found[number] for number in sorted(found)]


@pytest.mark.parametrize("kind", ["polygons", "lines"])
def test_shapes_pass_the_check_and_no_id_is_lost(tmp_path: Path, kind: str) -> None:
    shapes = fields() if kind == "polygons" else shapely.boundary(fields())
    made = build_shapes(tmp_path / "a.pmtiles", table(shapes), layer(kind), PROVENANCE)
    report = check(tmp_path / "a.pmtiles")
    assert report.clean, report.problems
    assert report.largest <= 500_000
    assert [(figures.zoom, figures.retained, figures.lost) for figures in report.layers] == [
        (zoom.zoom, zoom.exact, len(shapes) - zoom.exact) for zoom in made.zooms
    ]
    assert made.zooms[-1].exact == len(shapes)
    build_shapes(tmp_path / "b.pmtiles", table(shapes), layer(kind), PROVENANCE)
    assert (tmp_path / "a.pmtiles").read_bytes() == (tmp_path / "b.pmtiles").read_bytes()


def test_the_metadata_are_ours_and_name_no_path(built: tuple[Path, Built]) -> None:
    path, made = built
    with Archive(path) as archive:
        metadata = archive.metadata()
    assert set(metadata) == {
        *("name", "description", "attribution", "type", "version", "generator", "vector_layers", "stemma")
    }
    (described,) = metadata["vector_layers"]
    kinds = {"name": "String", "people": "Number", "share": "Number", "capital": "Boolean"}
    assert (described["id"], described["fields"]) == ("places", kinds)
    assert metadata["stemma"]["inputs"] == [{"name": "in.geojson", "sha256": "cd" * 32}]
    written = json.dumps(metadata)
    assert "/" not in written.replace("maps/tiles", "") and "tippecanoe" not in written and "--" not in written
    assert made.header.bounds.west == 0 and sorted(item.name for item in path.parent.iterdir()) == [path.name]


def test_attributes_keep_their_values_and_absent_ones_are_left_out(built: tuple[Path, Built]) -> None:
    said = shown(built[0])
    number = next(place for place, item in enumerate(said) if "name" in item)
    assert said[number]["name"].startswith("Ort ü")
    assert any("name" not in item for item in said)
    assert {type(item["people"]) for item in said} == {int} and all(item["people"] > 1 << 59 for item in said)


def test_neighbours_share_their_borders_in_every_zoom(built: tuple[Path, Built]) -> None:
    """The area of all together is the sum of areas: simplification opened no gap and made no overlap."""
    with Archive(built[0]) as archive:
        for _, data in archive.stored():
            for of_tile in decode(archive.content(data)):
                rings = [shapely.Polygon(ring) for feature in of_tile.features for ring in parts(feature)]
                assert sum(ring.area for ring in rings) == pytest.approx(shapely.union_all(rings).area, rel=1e-3)


def test_a_lost_id_is_flagged_and_a_feature_in_the_buffer_alone_is_lost(
    built: tuple[Path, Built], tmp_path: Path
) -> None:
    path, _ = built
    less = tmp_path / "less.pmtiles"
    build_shapes(less, table(fields()).slice(1), layer(), PROVENANCE)
    with Archive(path) as whole, Archive(less) as lacking, ArchiveWriter(tmp_path / "lost.pmtiles") as writer:
        for tile_id, data in lacking.stored():
            writer.add(tile_id, data)
        writer.finish(whole.header.bounds, whole.header.center_zoom, whole.metadata())
    assert {problem.code for problem in check(tmp_path / "lost.pmtiles").problems} >= {"ids_lost"}
    assert within_tile(np.array([[0.5, 0.5, 1.1, 0.6], [1.01, 0.5, 1.1, 0.6], [-0.2, 0, -0.1, 0.1]])).tolist() == [
        *(True, False, False)
    ]


def test_what_cannot_be_tiled_leaves_the_last_archive(built: tuple[Path, Built], tmp_path: Path) -> None:
    path = tmp_path / "places.pmtiles"
    path.write_bytes(built[0].read_bytes())
    with pytest.raises(InvalidInput, match="nothing to make tiles of"):
        build_shapes(path, table(fields()).slice(0, 0), layer(), PROVENANCE)
    with pytest.raises(CheckFailed) as lost:
        build_shapes(path, table(np.array([shapely.box(1, 50, 1 + 1e-9, 50 + 1e-9)] * 3)), layer("lines"), PROVENANCE)
    assert lost.value.code == "features_lost"
    many = shapely.box(*np.random.default_rng(1).uniform(0, 1, (2, 3000)), 2, 2)
    with pytest.raises(CheckFailed, match="lacks"):
        build_shapes(path, table(many), layer(tile_bytes=1000, max_zoom=0), PROVENANCE)
    assert path.read_bytes() == built[0].read_bytes()
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_the_tilers_own_failure_names_no_path(tmp_path: Path) -> None:
    impossible = layer().model_copy(update={"min_zoom": 9})
    with pytest.raises(Unavailable) as failed:
        build_shapes(tmp_path / "a.pmtiles", table(fields()), impossible, PROVENANCE)
    assert failed.value.code == "tiler_failed"
    assert str(tmp_path) not in str(failed.value)


@pytest.mark.skipif(not NATURAL_EARTH.is_dir(), reason="the shared data are not on this machine")
def test_natural_earth(tmp_path: Path) -> None:
    shapes = shapely.make_valid(shapely.from_wkb(raw.read(NATURAL_EARTH / "ne_50m_lakes.geojson")[2]))
    build_shapes(tmp_path / "lakes.pmtiles", table(shapes), layer(max_zoom=4), PROVENANCE)
    report = check(tmp_path / "lakes.pmtiles")
    assert report.clean, report.problems
    assert report.layers[-1].retained == len(shapes) and report.layers[-1].lost == 0
