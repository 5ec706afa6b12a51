"""Archives: read by the PMTiles project's own reader, the same bytes from the same tiles, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pmtiles.reader import MemorySource, Reader, all_tiles
from pmtiles.tile import zxy_to_tileid

from stemma.errors import InvalidInput, NotFound
from stemma.maps import pmtiles
from stemma.maps.findings import Findings
from stemma.maps.pmtiles import Archive, ArchiveWriter, Bounds

BOUNDS = Bounds(-1.0, 50.0, 1.0, 52.0)


def write(path: Path, tiles: dict[int, bytes]) -> None:
    with ArchiveWriter(path) as writer:
        for tile_id, data in tiles.items():
            writer.add(tile_id, data)
        writer.finish(BOUNDS, 3, {"name": "München", "vector_layers": []})


@given(st.dictionaries(st.integers(0, 400), st.sampled_from([b"a", b"bb", b"ccc", b"dddd"]), min_size=1))
@settings(max_examples=40)
def test_archives_come_back(tmp_path_factory: pytest.TempPathFactory, tiles: dict[int, bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pmtiles"
    write(path, tiles)
    theirs = MemorySource(path.read_bytes())
    assert {zxy_to_tileid(*place): data for place, data in all_tiles(theirs)} == tiles
    with Archive(path) as archive:
        assert list(archive.stored()) == sorted(tiles.items())
        assert archive.metadata()["name"] == "München"
        assert archive.header.tile_contents == len(set(tiles.values()))
        assert archive.header.bounds == BOUNDS


def test_many_entries_go_to_leaf_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pmtiles, "ROOT_BYTES", 1000)
    monkeypatch.setattr(pmtiles, "_LEAF_ENTRIES", 16)
    tiles = {number * 7919: str(number).encode() for number in range(5000)}
    path = tmp_path / "leaves.pmtiles"
    write(path, tiles)
    reader = Reader(MemorySource(path.read_bytes()))
    assert reader.header()["leaf_directory_length"] > 0
    with Archive(path) as archive:
        assert archive.header.root_offset + archive.header.root_length <= 1000
        assert dict(archive.stored()) == tiles


def test_the_order_of_adding_does_not_matter(tmp_path: Path) -> None:
    tiles = {number: str(number % 7).encode() for number in range(100)}
    write(tmp_path / "one", tiles)
    write(tmp_path / "two", dict(reversed(tiles.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_failed_build_leaves_the_last_archive(tmp_path: Path) -> None:
    path = tmp_path / "kept.pmtiles"
    write(path, {0: b"good"})
    before = path.read_bytes()
    with pytest.raises(InvalidInput, match="nothing to make tiles of"):
        write(path, {})
    with pytest.raises(ValueError, match="added twice"), ArchiveWriter(path) as writer:
        writer.add(1, b"x")
        writer.add(1, b"y")
        writer.finish(BOUNDS, 0, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("data", [b"", b"PMTiles", b"PMTiles\x02" + bytes(200), b"GIF89a" + bytes(200)])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(InvalidInput) as refused:
        Archive(tmp_path / "x")
    assert refused.value.code == "archive_invalid"
    with pytest.raises(NotFound):
        Archive(tmp_path / "absent")


def test_findings_tell_the_first_and_count_the_rest() -> None:
    findings = Findings()
    for number in range(12):
        findings.add("same", str(number))
    assert [problem.message for problem in findings.problems] == ["0", "1", "2", "3", "4"]
    assert findings.omitted == 7
