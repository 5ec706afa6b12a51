"""Another month costs what is new: months are judged once, and parts of tiles that stay are copied, byte for byte."""

from __future__ import annotations

import dataclasses
import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stemma.maps import compression, crc32, exact, months
from stemma.maps.building import build_points
from stemma.maps.check import check
from stemma.maps.features import Features, Judged, combine, read_features, same_batches, to_points, without
from stemma.maps.incremental import rebuild_points
from stemma.maps.layers import Layer, parse_layer
from stemma.maps.months import judge_files
from stemma.maps.pmtiles import Archive
from stemma.maps.point_tiles import PointLayer
from stemma.maps.points import BATCH_BITS, Points
from stemma.maps.sources import Rows, SourceFile, read, source_files

from .conftest import PROVENANCE, crowd
from .test_features import LONDON, POLICE, layer, needs_london

MONTHLY = {"source": {"path": ".", "monthly": True}, "incidents": True}


def write_month(folder: Path, month: str, rows: list[str]) -> None:
    (folder / f"{month}-crimes.csv").write_text("\n".join(["ref,lon,lat,Crime type", *rows, ""]))


def same(one: Features, other: Features) -> bool:
    together = (one.ledger, one.by_partition) == (other.ledger, other.by_partition)
    return together and one.table.equals(other.table) and one.rejected.equals(other.rejected)


def judged(asked: Layer, folder: Path, kept: dict[str, bytes]) -> Features:
    return combine(asked, judge_files(asked, source_files(asked, folder), kept))


def test_kept_months_are_not_read_and_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, kept = layer(**MONTHLY), dict[str, bytes]()
    write_month(tmp_path, "2020-01", [*(f"{n},-0.1,51.5,Theft" for n in range(3)), "x,-0.2,51.6,Arson", "y,0,0,Theft"])
    assert judged(asked, tmp_path, kept).ledger.suppressed == 1
    write_month(tmp_path, "2020-02", ["0,-0.1,51.5,Theft", "p,-0.2,51.6,Theft", "q,-0.2,51.6,Arson", "z,,51.5,Theft"])
    opened = []

    def reading(of: Layer, file: SourceFile) -> Rows:
        opened.append(file.partition)
        return read(of, file)

    monkeypatch.setattr(months, "read", reading)
    both = judged(asked, tmp_path, kept)
    assert opened == ["2020-02"]
    assert same(both, read_features(asked, tmp_path))
    assert (both.ledger.kept, both.ledger.duplicate, both.ledger.suppressed) == (6, 1, 0)


def test_what_is_kept_is_of_the_file_and_the_layer(tmp_path: Path) -> None:
    write_month(tmp_path, "2020-01", ["a,-0.1,51.5,Theft"] * 3)
    kept: dict[str, bytes] = {}
    for changes in ({}, {"bounds": [-1, 51, 1, 52]}, {"privacy": {"snap_metres": 500}}, {"title": "Other"}):
        asked = layer(**{**MONTHLY, "columns": {"longitude": "lon", "latitude": "lat"}, **changes})
        assert same(judged(asked, tmp_path, kept), read_features(asked, tmp_path))
    assert len(kept) == 3
    kept = dict.fromkeys(kept, b"damaged")
    assert same(judged(asked, tmp_path, kept), read_features(asked, tmp_path))
    with pytest.raises(ValueError):
        Judged.parse(b"nothing of the kind")


BATCHED = PointLayer("crimes", category="type", period="month", max_zoom=4, tile_bytes=30_000)


def batched(count: int) -> Points:
    """Points that came in five months, the ids as `features` gives them."""
    points = crowd(count, seed=11)
    return dataclasses.replace(points, ids=points.ids % 5 + 600 << BATCH_BITS | points.ids)


def parts(path: Path) -> list[bytes]:
    with Archive(path) as archive:
        return [piece.stream for _, data in archive.stored() for piece in compression.pieces_of(data)]


@given(st.sets(st.integers(0, 399), max_size=5), st.integers(600, 605), st.integers(600, 605))
@settings(max_examples=20, deadline=None)
def test_any_months_give_the_bytes_of_a_full_build(
    tmp_path_factory: pytest.TempPathFactory, gone: set[int], old: int, new: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    everything = batched(400)
    month = everything.ids >> BATCH_BITS
    before = everything.taken(np.flatnonzero(month <= old))
    after = everything.taken(np.setdiff1d(np.flatnonzero(month <= new), list(gone)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "PART_POINTS", 40)
        build_points(folder / "before", before, BATCHED, PROVENANCE)
        rebuild_points(folder / "after", folder / "before", before, after, BATCHED, PROVENANCE)
        build_points(folder / "full", after, BATCHED, PROVENANCE)
    assert (folder / "after").read_bytes() == (folder / "full").read_bytes()
    report = check(folder / "full")
    assert report.clean, report.problems


def test_another_month_leaves_the_parts_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "PART_POINTS", 40)
    everything = batched(400)
    before = everything.taken(np.flatnonzero(everything.ids >> BATCH_BITS < 604))
    build_points(tmp_path / "before", before, BATCHED, PROVENANCE)
    build_points(tmp_path / "after", everything, BATCHED, PROVENANCE)
    stays = set(parts(tmp_path / "before")) & set(parts(tmp_path / "after"))
    assert len(stays) >= len(parts(tmp_path / "before")) / 3


@given(st.binary(), st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.data())
def test_pieces_are_one_member_for_every_reader(first: bytes, others: list[bytes], data: st.DataObject) -> None:
    made = compression.compress_pieces(first, (), others)
    whole = first + b"".join(others)
    assert gzip.decompress(made) == compression.decompress(made, 1 << 20) == whole
    stored = compression.pieces_of(made)
    assert len(stored) == 1 + len(others)
    kept = data.draw(st.integers(0, len(others) - 1))
    again = compression.compress_pieces(b"other" + first, stored[1 : 1 + kept], others[kept:])
    assert gzip.decompress(again) == b"other" + whole
    assert again == compression.compress_pieces(b"other" + first, (), others)
    assert compression.pieces_of(compression.compress(whole)) == []


@given(st.binary(), st.binary())
def test_checksums_join(one: bytes, other: bytes) -> None:
    assert crc32.joined(zlib.crc32(one), zlib.crc32(other), len(other)) == zlib.crc32(one + other)


@needs_london
def test_another_month_of_london(tmp_path: Path) -> None:
    police = parse_layer(POLICE)
    files = source_files(police, LONDON)
    kept: dict[str, bytes] = {}
    before = combine(police, judge_files(police, files[:-1], kept))
    found = combine(police, judge_files(police, files, kept))
    ledger = found.ledger
    assert (ledger.rows, ledger.no_coordinate, ledger.out_of_bounds, ledger.repaired) == (22_111, 1_699, 0, 0)
    assert ledger.kept + ledger.duplicate + ledger.suppressed == 22_111 - 1_699
    assert sum(item.rows for item in found.by_partition) == 22_111
    old, new = to_points(before.table, police), to_points(found.table, police)
    build_points(tmp_path / "old.pmtiles", old, police.point_layer, PROVENANCE)
    same = same_batches(before.table, found.table)
    assert len(same) == 31
    old = to_points(without(before.table, same), police)
    build_points(tmp_path / "full.pmtiles", new, police.point_layer, PROVENANCE)
    rebuild_points(tmp_path / "new.pmtiles", tmp_path / "old.pmtiles", old, new, police.point_layer, PROVENANCE, same)
    assert (tmp_path / "new.pmtiles").read_bytes() == (tmp_path / "full.pmtiles").read_bytes()
    copied = set(parts(tmp_path / "old.pmtiles")) & set(parts(tmp_path / "new.pmtiles"))
    assert len(copied) > len(set(parts(tmp_path / "new.pmtiles"))) / 2
