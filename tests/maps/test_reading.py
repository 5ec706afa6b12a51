from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from stemma.errors import InvalidInput
from stemma.maps import compression, grid
from stemma.maps.pmtiles import Archive, ArchiveWriter, Bounds
from stemma.maps.reading import TileReader


def write(path: Path, zooms: int) -> None:
    """An archive of every tile of some zooms, each with a content of its own; the last zoom is all alike."""
    with ArchiveWriter(path) as writer:
        for tile_id in range(grid.first_tile_id(zooms)):
            known = tile_id < grid.first_tile_id(zooms - 1)
            writer.add(tile_id, compression.compress(f"{tile_id}".encode() if known else b"sea"))
        writer.finish(Bounds(-180, -85, 180, 85), 0, {})


@pytest.mark.parametrize("zooms", [4, 9], ids=["root", "leaves"])
def test_tiles_are_those_of_the_archive(zooms: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pmtiles"
    write(path, zooms)
    with Archive(path) as archive, path.open("rb") as file:
        reader = TileReader(file)
        assert bool(archive.header.leaves_length) == (zooms == 9)
        stored = dict(archive.stored())
        for tile_id, data in list(stored.items())[:: max(1, len(stored) // 500)]:
            zoom = grid.zoom_of(tile_id)
            (x,), (y,) = grid.tiles(zoom, np.array([tile_id]))
            tile = reader.tile(zoom, int(x), int(y))
            assert tile is not None and tile.data == data
            assert tile.content() == archive.content(data, 100)


def test_what_is_not_there_is_none(archive: Path) -> None:
    with archive.open("rb") as file:
        reader = TileReader(file)
        for zoom, x, y in ((11, 0, 0), (12, 0, 0), (0, 1, 0), (-1, 0, 0), (40, 0, 0)):
            assert reader.tile(zoom, x, y) is None


def test_what_is_no_archive_is_refused(archive: Path) -> None:
    data = archive.read_bytes()
    for broken in (b"", b"PMTiles", b"x" * 200, data[:127] + b"\0" * 50 + data[177:]):
        with pytest.raises(InvalidInput) as refused:
            TileReader(io.BytesIO(broken))
        assert refused.value.code == "archive_invalid"
