"""A change rewrites what it touches and gives the bytes of a full build; layers merge by concatenation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stemma.errors import InvalidInput
from stemma.maps.building import Provenance, build_points
from stemma.maps.check import check
from stemma.maps.incremental import rebuild_points
from stemma.maps.merging import merge
from stemma.maps.pmtiles import Archive
from stemma.maps.point_tiles import PointLayer
from stemma.maps.points import Points

from .conftest import LAYER, PROVENANCE, crowd


def test_a_change_touches_few_tiles(points: Points, archive: Path, tmp_path: Path) -> None:
    fewer = points.taken(np.arange(20, len(points)))
    rebuilt = rebuild_points(tmp_path / "new.pmtiles", archive, points, fewer, LAYER, PROVENANCE)
    build_points(tmp_path / "full.pmtiles", fewer, LAYER, PROVENANCE)
    assert (tmp_path / "new.pmtiles").read_bytes() == (tmp_path / "full.pmtiles").read_bytes()
    assert 0 < rebuilt.encoded < rebuilt.copied


def test_an_unchanged_layer_is_copied_in_place(points: Points, archive: Path, tmp_path: Path) -> None:
    same = tmp_path / "same.pmtiles"
    same.write_bytes(archive.read_bytes())
    assert rebuild_points(same, same, points, points, LAYER, PROVENANCE).encoded == 0
    assert same.read_bytes() == archive.read_bytes()


@given(st.sets(st.integers(0, 399)), st.sets(st.integers(0, 399)), st.integers(0, 2))
@settings(max_examples=15, deadline=None)
def test_any_change_gives_the_bytes_of_a_full_build(
    tmp_path_factory: pytest.TempPathFactory, gone: set[int], come: set[int], retyped: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    layer = PointLayer("crimes", category="type", max_zoom=6, tile_bytes=2000)
    everything = crowd(400, seed=5)
    before = everything.taken(np.array(sorted(set(range(400)) - gone), np.int64))
    after = everything.taken(np.array(sorted(set(range(400)) - come), np.int64))
    if not len(before) or not len(after):
        return
    after.columns[0].codes[: retyped * 3] = retyped
    build_points(folder / "before", before, layer, PROVENANCE)
    rebuild_points(folder / "after", folder / "before", before, after, layer, PROVENANCE)
    build_points(folder / "full", after, layer, PROVENANCE)
    assert (folder / "after").read_bytes() == (folder / "full").read_bytes()


def test_another_archive_is_refused_and_the_last_one_stays(points: Points, archive: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pmtiles"
    build_points(other, points.taken(slice(0, 10)), LAYER, PROVENANCE)
    before = other.read_bytes()
    with pytest.raises(InvalidInput) as refused:
        rebuild_points(other, other, points, points, LAYER, PROVENANCE)
    assert refused.value.code == "archive_stale"
    assert other.read_bytes() == before


def test_layers_merge(points: Points, archive: Path, tmp_path: Path) -> None:
    other, both = tmp_path / "other.pmtiles", tmp_path / "both.pmtiles"
    build_points(other, crowd(300, seed=9), PointLayer("trees", max_zoom=8), Provenance("Trees"))
    merge(both, [archive, other], Provenance("Both"))
    report = check(both)
    assert report.clean, report.problems
    assert {figures.layer for figures in report.layers} == {"crimes", "trees"}
    alone = {(f.layer, f.zoom): f for path in (archive, other) for f in check(path).layers}
    for figures in report.layers:
        if figures.layer == "crimes" or figures.zoom <= 8:
            assert figures == alone[figures.layer, figures.zoom]
    with Archive(both) as opened:
        assert len(opened.metadata()["vector_layers"]) >= 3


def test_layers_of_one_name_and_tiles_too_large_are_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        merge(tmp_path / "both.pmtiles", [archive, archive], Provenance("Both"))
    assert refused.value.code == "layer_twice"
    with pytest.raises(InvalidInput) as refused:
        merge(tmp_path / "both.pmtiles", [archive], Provenance("Both"), tile_bytes=100)
    assert refused.value.code == "tile_over_budget"
    assert not (tmp_path / "both.pmtiles").exists()
