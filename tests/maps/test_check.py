"""The check: passes our archives and tippecanoe's, and sees what was done to others."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stemma.maps import check as checking
from stemma.maps import compression, grid, mvt, varints
from stemma.maps.building import build_points
from stemma.maps.check import Report
from stemma.maps.part_memory import PartMemory
from stemma.maps.pmtiles import HEADER_BYTES, Archive, ArchiveWriter, Bounds, Directory
from stemma.maps.points import Points

from .conftest import LAYER, PROVENANCE

TIPPECANOE = Path(sys.executable).with_name("tippecanoe")


def check(path: Path, **options: int) -> Report:
    """The report of a full check, which is that of one that knows everything already."""
    report, memory = checking.check(path, **options), PartMemory()
    assert checking.check(path, memory=memory, **options) == report
    assert checking.check(path, memory=memory, **options) == report
    return report


def codes(report: Report) -> set[str]:
    return {problem.code for problem in report.problems}


def rewritten(source: Path, target: Path, tiles: dict[int, bytes]) -> Path:
    """The archive with other tiles, its header and directories in order."""
    with Archive(source) as archive, ArchiveWriter(target) as writer:
        for tile_id, data in tiles.items():
            writer.add(tile_id, data)
        writer.finish(archive.header.bounds, archive.header.center_zoom, archive.metadata())
    return target


def tiles_of(path: Path) -> dict[int, bytes]:
    with Archive(path) as archive:
        return dict(archive.stored())


def test_our_archive_passes(points: Points, archive: Path) -> None:
    report = check(archive)
    assert report.clean, report.problems
    assert report.read == report.tiles == len(tiles_of(archive))
    assert [figures.zoom for figures in report.layers] == list(range(LAYER.max_zoom + 1))
    assert {figures.retained + figures.aggregated for figures in report.layers} == {len(points)}
    assert {figures.lost for figures in report.layers} == {0}


def test_a_sample_says_so(archive: Path) -> None:
    report = check(archive, sample=20)
    assert report.clean
    assert 0 < report.read <= 20 < report.tiles
    assert {figures.lost for figures in report.layers} == {None}


@pytest.mark.parametrize("kind", ["points", "lines", "polygons"])
def test_tippecanoe_passes(tmp_path: Path, kind: str) -> None:
    geometries = {
        "points": lambda x, y: {"type": "Point", "coordinates": [x, y]},
        "lines": lambda x, y: {"type": "LineString", "coordinates": [[x, y], [x + 0.3, y + 0.2], [x + 0.5, y]]},
        "polygons": lambda x, y: {
            "type": "Polygon",
            "coordinates": [
                [[x, y], [x + 0.9, y], [x + 0.9, y + 0.9], [x, y + 0.9], [x, y]],
                [[x + 0.3, y + 0.3], [x + 0.3, y + 0.6], [x + 0.6, y + 0.6], [x + 0.6, y + 0.3], [x + 0.3, y + 0.3]],
            ],
        },
    }
    features = [
        {
            "type": "Feature",
            "id": x * 100 + y + 1,
            "properties": {"name": f"{x} {y}"},
            "geometry": geometries[kind](x, y),
        }
        for x in range(10)
        for y in range(40, 50)
    ]
    source, target = tmp_path / "in.geojson", tmp_path / "out.pmtiles"
    source.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    subprocess.run([TIPPECANOE, "-q", "-z5", "-l", "things", "-o", target, source], check=True, timeout=60)
    report = check(target)
    assert report.clean, report.problems
    last = report.layers[-1]
    assert (last.zoom, last.layer, last.retained, last.lost) == (5, "things", 100, 0)


def test_a_truncated_file(archive: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.pmtiles"
    cut.write_bytes(archive.read_bytes()[:-100])
    assert {"file_truncated", "tile_missing"} <= codes(check(cut))
    cut.write_bytes(archive.read_bytes()[: HEADER_BYTES + 40])
    assert {"file_truncated", "directory_damaged"} <= codes(check(cut))


def test_a_wrong_clustered_flag(archive: Path, tmp_path: Path) -> None:
    with Archive(archive) as opened:
        header, rest = opened.header, archive.read_bytes()[HEADER_BYTES:]
    wrong = tmp_path / "wrong.pmtiles"
    wrong.write_bytes(dataclasses.replace(header, clustered=0).packed() + rest)
    assert codes(check(wrong)) == {"clustered_flag_wrong"}


def test_a_flag_that_claims_an_order_that_is_not(tmp_path: Path) -> None:
    tiles = [compression.compress(polygon_tile([SQUARE])), compression.compress(polygon_tile([SQUARE, HOLE]))]
    path = tmp_path / "wrong.pmtiles"
    with ArchiveWriter(path) as writer:
        for tile_id, data in enumerate(tiles, start=1):
            writer.add(tile_id, data)
        header = writer.finish(Bounds(-180, -85, 180, 85), 1, {"vector_layers": [{"id": "shapes", "fields": {}}]})
    assert check(path).clean
    lengths = np.array([len(data) for data in tiles])
    root = Directory(np.array([1, 2]), np.array([lengths[1], 0]), lengths, np.array([1, 1])).packed()
    moved = len(root) - header.root_length
    with Archive(path) as opened:
        described = opened.span(header.metadata_offset, header.metadata_length)
    wrong = dataclasses.replace(
        header,
        root_length=len(root),
        metadata_offset=header.metadata_offset + moved,
        leaves_offset=header.leaves_offset + moved,
        data_offset=header.data_offset + moved,
    )
    path.write_bytes(wrong.packed() + root + described + tiles[1] + tiles[0])
    assert codes(check(path)) == {"clustered_flag_wrong"}
    path.write_bytes(dataclasses.replace(wrong, clustered=0).packed() + root + described + tiles[1] + tiles[0])
    assert check(path).clean


def test_a_cell_that_counts_in_words(archive: Path, tmp_path: Path) -> None:
    feature = b"\x12\x02\x00\x00\x18\x01\x22\x03\x09\x02\x02"
    tables = mvt.key_message("count") + mvt.value_message("many")
    words = mvt.layer_message("crimes_cells", b"\x12" + varints.one(len(feature)) + feature, tables)
    tiles = tiles_of(archive) | {0: compression.compress(words)}
    assert {"geometry_damaged", "ids_lost"} <= codes(check(rewritten(archive, tmp_path / "words.pmtiles", tiles)))


def test_a_header_that_miscounts(archive: Path, tmp_path: Path) -> None:
    with Archive(archive) as opened:
        header, rest = opened.header, archive.read_bytes()[HEADER_BYTES:]
    wrong = tmp_path / "wrong.pmtiles"
    wrong.write_bytes(
        dataclasses.replace(header, addressed_tiles=1, max_zoom=13, west_e7=header.east_e7 + 1).packed() + rest
    )
    assert codes(check(wrong)) == {"count_wrong", "zooms_wrong", "bounds_wrong"}


def test_a_tile_over_the_budget(archive: Path) -> None:
    report = check(archive, tile_bytes=1000)
    assert codes(report) == {"tile_over_budget"}
    assert report.omitted > 0


def test_a_lost_id(points: Points, archive: Path, tmp_path: Path) -> None:
    build_points(tmp_path / "less.pmtiles", points.taken(np.arange(1, len(points))), LAYER, PROVENANCE)
    first = int(points.ids[0])
    tiles = tiles_of(archive) | {
        tile_id: data for tile_id, data in tiles_of(tmp_path / "less.pmtiles").items() if grid.zoom_of(tile_id) == 9
    }
    report = check(rewritten(archive, tmp_path / "lost.pmtiles", tiles))
    assert {"ids_lost", "tile_misplaced"} == codes(report)
    assert [figures.lost for figures in report.layers] == [int(zoom == 9) for zoom in range(LAYER.max_zoom + 1)]
    assert str(first) in next(problem.message for problem in report.problems if problem.code == "ids_lost")


def test_an_id_that_was_exchanged(points: Points, archive: Path, tmp_path: Path) -> None:
    other = dataclasses.replace(points, ids=np.where(points.ids == points.ids[0], 1 << 40, points.ids))
    build_points(tmp_path / "other.pmtiles", other, LAYER, PROVENANCE)
    tiles = tiles_of(archive) | {
        tile_id: data for tile_id, data in tiles_of(tmp_path / "other.pmtiles").items() if grid.zoom_of(tile_id) == 11
    }
    assert "ids_changed" in codes(check(rewritten(archive, tmp_path / "changed.pmtiles", tiles)))


@pytest.mark.parametrize("zoom", [3, 8, 11])
def test_swapped_tiles(archive: Path, tmp_path: Path, zoom: int) -> None:
    tiles = tiles_of(archive)
    ours = [tile_id for tile_id in tiles if grid.zoom_of(tile_id) == zoom]
    if len(ours) == 1:
        tiles[ours[0] + 1] = tiles.pop(ours[0])
    else:
        tiles[ours[0]], tiles[ours[-1]] = tiles[ours[-1]], tiles[ours[0]]
    report = check(rewritten(archive, tmp_path / "swapped.pmtiles", tiles))
    assert codes(report) == {"tile_misplaced"}


def polygon_tile(rings: list[list[tuple[int, int]]]) -> bytes:
    commands: list[int] = []
    at = (0, 0)
    for ring in rings:
        steps = []
        for corner in ring:
            steps += [corner[0] - at[0], corner[1] - at[1]]
            at = corner
        wound = [(step << 1) ^ (step >> 63) for step in steps]
        commands += [9, *wound[:2], (len(ring) - 1) << 3 | 2, *wound[2:], 15]
    geometry = varints.encode(np.array(commands)).tobytes()
    feature = b"\x18\x03\x22" + varints.one(len(geometry)) + geometry
    return mvt.layer_message("shapes", b"\x12" + varints.one(len(feature)) + feature, b"")


SQUARE = [(0, 0), (1000, 0), (1000, 1000), (0, 1000)]
HOLE = [(100, 100), (100, 900), (900, 900), (900, 100)]


@pytest.mark.parametrize(
    ("rings", "found"),
    [
        ([SQUARE], set()),
        ([SQUARE, HOLE], set()),
        ([[(0, 0), (1000, 1000), (1500, 0), (0, 1200)]], {"geometry_invalid"}),
        ([HOLE], {"geometry_invalid"}),
        ([SQUARE, [(500, 500), (500, 2000), (900, 900)]], {"geometry_invalid"}),
        ([[(0, 0), (1000, 0), (500, 0)]], {"geometry_invalid"}),
        ([[(0, 0), (1000, 0)]], {"geometry_damaged"}),
    ],
)
def test_invalid_polygons(tmp_path: Path, rings: list[list[tuple[int, int]]], found: set[str]) -> None:
    path = tmp_path / "shapes.pmtiles"
    with ArchiveWriter(path) as writer:
        writer.add(0, compression.compress(polygon_tile(rings)))
        writer.finish(Bounds(-180, -85, 180, 85), 0, {"vector_layers": [{"id": "shapes", "fields": {}}]})
    assert codes(check(path)) == found


def test_features_whose_geometries_only_match_in_total(tmp_path: Path) -> None:
    """One feature with two places and one with none are not two points."""
    path = tmp_path / "points.pmtiles"
    geometries = [b"\x09\x02\x02\x09\x02\x02", b""]
    messages = [b"\x08\x01\x18\x01\x22" + bytes([len(geometry)]) + geometry for geometry in geometries]
    features = b"".join(b"\x12" + bytes([len(message)]) + message for message in messages)
    with ArchiveWriter(path) as writer:
        writer.add(0, compression.compress(mvt.layer_message("points", features, b"")))
        writer.finish(Bounds(-180, -85, 180, 85), 0, {"vector_layers": [{"id": "points", "fields": {}}]})
    assert codes(check(path)) == {"geometry_damaged"}


def test_a_tile_that_is_none_and_metadata_that_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "noise.pmtiles"
    with ArchiveWriter(path) as writer:
        writer.add(0, compression.compress(b"\xff\xff\xff"))
        writer.add(1, b"not compressed")
        writer.add(2, compression.compress(polygon_tile([SQUARE])))
        writer.finish(Bounds(-180, -85, 180, 85), 0, {})
    assert codes(check(path)) == {"tile_damaged", "metadata_damaged", "layer_undeclared"}
