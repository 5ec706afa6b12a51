"""Single tiles of an archive, wherever it is kept: only the bytes that are asked for are read.

`pmtiles.Archive` maps a whole file of this machine, to check or to copy it; this is for serving.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from stemma.errors import InvalidInput
from stemma.maps import compression, grid
from stemma.maps.pmtiles import GZIP, HEADER_BYTES, Directory, Header

TILE_LIMIT = 64 << 20
"""The most bytes that a tile may unpack to."""


@dataclass(frozen=True, slots=True)
class StoredTile:
    """A tile as the archive holds it."""

    data: bytes
    compressed: bool

    def content(self) -> bytes:
        """The vector tile itself."""
        return compression.decompress(self.data, TILE_LIMIT) if self.compressed else self.data


class TileReader:
    """Reads tiles of an archive from a file that can seek.

    Raises InvalidInput(archive_invalid) for what is no archive, when it is opened and where it turns out later.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        try:
            self.header = Header.parse(self._span(0, HEADER_BYTES))
            self._root = self._directory(self.header.root_offset, self.header.root_length)
        except ValueError as error:
            raise _invalid(error) from error

    def tile(self, zoom: int, x: int, y: int) -> StoredTile | None:
        """The tile at a zoom, column and row; None where the archive has none."""
        if not (0 <= zoom <= grid.MAX_ZOOM and 0 <= x < 1 << zoom and 0 <= y < 1 << zoom):
            return None
        wanted = int(grid.tile_ids(zoom, np.array([x]), np.array([y]))[0])
        try:
            found = self._entry(self._root, wanted)
        except ValueError as error:
            raise _invalid(error) from error
        return None if found is None else self._stored(*found)

    def _entry(self, directory: Directory, wanted: int) -> tuple[int, int] | None:
        place = int(np.searchsorted(directory.ids, wanted, side="right")) - 1
        if place < 0:
            return None
        offset, length = int(directory.offsets[place]), int(directory.lengths[place])
        run = int(directory.runs[place])
        if run == 0:
            return self._in_leaf(offset, length, wanted)
        return (offset, length) if wanted < int(directory.ids[place]) + run else None

    def _in_leaf(self, offset: int, length: int, wanted: int) -> tuple[int, int] | None:
        leaf = self._directory(self.header.leaves_offset + offset, length)
        if not leaf.runs.all():
            raise ValueError("A leaf directory points at another one.")
        return self._entry(leaf, wanted)

    def _directory(self, offset: int, length: int) -> Directory:
        return Directory.parse(self._span(offset, length), self.header.internal_compression)

    def _stored(self, offset: int, length: int) -> StoredTile:
        return StoredTile(self._span(self.header.data_offset + offset, length), self.header.tile_compression == GZIP)

    def _span(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)


def _invalid(error: ValueError) -> InvalidInput:
    return InvalidInput("archive_invalid", f"It is not a PMTiles v3 archive that can be read. {error}")
