from __future__ import annotations

from pathlib import Path

import pytest

from api.console import basemap
from stemma.errors import CheckFailed
from stemma.maps.basemap import build_basemap
from stemma.maps.building import Input, Provenance
from stemma.maps.check import check
from stemma.maps.decoding import decode
from stemma.maps.reading import TileReader

PROVENANCE = Provenance("World", inputs=(Input("two.json", "ab" * 32),), licence="CC0-1.0", attribution="nobody")
# Two squares that share an edge, as TopoJSON has them: arc 0 is the edge.
TWO = {
    "type": "Topology",
    "transform": {"scale": [1, 1], "translate": [0, 40]},
    "arcs": [[[10, 0], [0, 10]], [[10, 10], [-10, 0], [0, -10], [10, 0]], [[10, 10], [10, 0], [0, -10], [-10, 0]]],
    "objects": {
        "land": {
            "type": "GeometryCollection",
            "geometries": [{"type": "MultiPolygon", "arcs": [[[0, 1]], [[-1, 2]]]}],
        },
        "countries": {
            "type": "GeometryCollection",
            "geometries": [
                {"type": "Polygon", "arcs": [[0, 1]], "properties": {"name": "West"}},
                {"type": "MultiPolygon", "arcs": [[[-1, 2]]], "properties": {"name": "East"}},
            ],
        },
    },
}


def test_a_topology_becomes_land_borders_and_names(tmp_path: Path) -> None:
    path, again = tmp_path / "world.pmtiles", tmp_path / "again.pmtiles"
    build_basemap(path, TWO, PROVENANCE)
    build_basemap(again, TWO, PROVENANCE)
    assert path.read_bytes() == again.read_bytes()
    assert check(path).clean
    with path.open("rb") as file:
        tile = TileReader(file).tile(0, 0, 0)
    assert tile is not None
    layers = {layer.name: layer for layer in decode(tile.content())}
    assert set(layers) == {"land", "borders", "names"}
    assert {layers["names"].attributes(one)["name"] for one in layers["names"].features} == {"West", "East"}
    assert len(layers["borders"].features) == 1


def test_what_ships_is_what_the_manifest_names_and_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    basemap.check()
    assert basemap.ARCHIVE.stat().st_size <= 300_000
    assert check(basemap.ARCHIVE).clean
    other = tmp_path / "world.pmtiles"
    other.write_bytes(basemap.ARCHIVE.read_bytes() + b"\0")
    monkeypatch.setattr(basemap, "ARCHIVE", other)
    with pytest.raises(CheckFailed) as refused:
        basemap.check()
    assert refused.value.code == "basemap_differs"
