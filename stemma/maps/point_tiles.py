"""Point tiles: every point in every zoom, exactly or counted.

A tile holds its points exactly where that takes at most `tile_bytes` before compression, and else the cells of a grid
of 64 × 64 (32 × 32 and so on where even those are too much), each with the number of its points, the most frequent
category, and counts by category and by period. What a tile holds follows from its own points alone, so that one that
no change touches keeps its bytes, and each zoom's points and counts sum to all points.

Tiles have no buffer: each point is in the one tile that covers it, west and north edges included. MapLibre draws a
circle over the edge of its tile and skips points outside it, so that a buffer would add bytes and be counted twice.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from stemma.errors import CheckFailed, InvalidInput
from stemma.maps import compression, grid, mvt
from stemma.maps.cells import CellTags
from stemma.maps.compression import Piece
from stemma.maps.exact import Layouts, Lent
from stemma.maps.grid import Positions
from stemma.maps.mvt import Pool
from stemma.maps.points import Points
from stemma.maps.runs import Runs, runs
from stemma.maps.varints import Integers, sizes

TILE_BYTES = 500_000
CELL_BITS = 6

_EXACT_CHUNK = 1 << 16
_CELL_CHUNK = 1 << 20
# Tag and length of feature, tags and geometry, tag of the id, type, one MoveTo and two coordinates of a byte.
_LEAST_FEATURE = 12


@dataclass(frozen=True, slots=True)
class PointLayer:
    """How points become tiles. `category` and `period` name attributes to count by in cells."""

    name: str
    category: str | None = None
    period: str | None = None
    min_zoom: int = 0
    max_zoom: int = 14
    tile_bytes: int = TILE_BYTES

    def __post_init__(self) -> None:
        if not 0 <= self.min_zoom <= self.max_zoom <= grid.MAX_ZOOM:
            raise InvalidInput("zoom_invalid", f"Zooms go from 0 to {grid.MAX_ZOOM}.", field="max_zoom")

    @property
    def cells(self) -> str:
        """The name of the layer that holds counts."""
        return f"{self.name}_cells"

    @property
    def counted(self) -> tuple[str, ...]:
        """The attributes that cells count by."""
        return tuple(name for name in (self.category, self.period) if name is not None)


@dataclass(frozen=True, slots=True)
class Tile:
    """One encoded tile, not compressed; `exact` says whether it holds its `points` or counts them.

    A large one comes in pieces: the beginning, those that the archive before has, and the others.
    """

    id: int
    zoom: int
    points: int
    exact: bool
    beginning: bytes
    stored: Sequence[Piece] = ()
    others: Sequence[bytes] = ()

    @property
    def size(self) -> int:
        """Bytes before compression."""
        return len(self.beginning) + sum(piece.size for piece in self.stored) + sum(map(len, self.others))

    def whole(self) -> Tile:
        """The same in one piece."""
        return replace(self, beginning=b"".join((self.beginning, *self.others)), others=())

    def compressed(self) -> bytes:
        """The tile as it is stored."""
        if self.others:
            return compression.compress_pieces(self.beginning, self.stored, self.others)
        return compression.compress(self.beginning)


class PointTiles:
    """The tiles of some points; raises InvalidInput where the layer counts by what the points do not have."""

    def __init__(self, points: Points, layer: PointLayer) -> None:
        self._points = points
        self._layer = layer
        self._keys = b"".join(mvt.key_message(column.name) for column in points.columns)
        self._layouts = Layouts(points)
        self._least = _least_sizes(points)
        self._tags = CellTags(*(points.column(name) if name else None for name in (layer.category, layer.period)))

    @property
    def cell_fields(self) -> list[str]:
        """Every attribute that a cell may have."""
        return self._tags.names

    def at(
        self, zoom: int, tiles: Runs | None = None, lent: Mapping[int, Lent] = MappingProxyType({})
    ) -> Iterator[list[Tile]]:
        """Lists of tiles of a zoom, each tile once: all of them, or those named; parts that are lent are not encoded.

        Raises CheckFailed(tile_over_budget) where even one cell with all its counts takes more than a tile may.
        """
        wanted = runs(self._points, zoom) if tiles is None else tiles
        # Most of what is too large need not be tried.
        fits = self._least[wanted.ends] - self._least[wanted.starts] <= self._layer.tile_bytes
        too_large = [wanted.taken(np.flatnonzero(~fits))]
        for chunk in wanted.taken(np.flatnonzero(fits)).chunks(_EXACT_CHUNK):
            encoded = self._exact(zoom, chunk, lent)
            small = np.array([tile.size <= self._layer.tile_bytes for tile in encoded])
            yield [encoded[place] for place in np.flatnonzero(small)]
            too_large.append(chunk.taken(np.flatnonzero(~small)))
        yield from self._counts(zoom, _joined(too_large))

    def _exact(self, zoom: int, chunk: Runs, lent: Mapping[int, Lent]) -> list[Tile]:
        layout = self._layouts.of(chunk)
        keys = chunk.tiles.tolist()
        kept = [layout.lent(self._points, tile, lent[key]) if key in lent else [] for tile, key in enumerate(keys)]
        features = layout.features(self._points, zoom, np.fromiter(map(len, kept), np.int64, len(kept)))
        first = grid.first_tile_id(zoom)
        tiles = []
        for key, count, stored, fresh, values in zip(
            keys, chunk.counts.tolist(), kept, features, layout.tables, strict=True
        ):
            size = sum(piece.size for piece in stored) + sum(map(len, fresh))
            beginning, end = mvt.layer_frame(self._layer.name, size, self._keys + values)
            tile = Tile(first + key, zoom, count, True, beginning, stored, [*fresh, end])
            tiles.append(tile if len(stored) + len(fresh) > 1 else tile.whole())
        return tiles

    def _counts(self, zoom: int, group: Runs) -> Iterator[list[Tile]]:
        """Tiles of cells, of the finest grid that fits each."""
        for bits in reversed(range(CELL_BITS + 1)):
            if not len(group):
                return
            too_large = []
            for chunk in group.chunks(_CELL_CHUNK):
                encoded = self._cells(zoom, chunk, bits)
                small = np.array([tile.size <= self._layer.tile_bytes for tile in encoded])
                yield [encoded[place] for place in np.flatnonzero(small)]
                too_large.append(chunk.taken(np.flatnonzero(~small)))
            group = _joined(too_large)
        if not len(group):
            return
        raise CheckFailed(
            "tile_over_budget",
            f"At zoom {zoom} the counts of a single cell take more than {self._layer.tile_bytes:,} bytes.",
            hint="Count by fewer categories or periods.",
        )

    def _cells(self, zoom: int, chunk: Runs, bits: int) -> list[Tile]:
        points = self._points
        places = mvt.between(chunk.starts, chunk.counts)
        level = grid.LEVELS - zoom - bits
        key = points.keys[places] >> 2 * level
        starts = np.flatnonzero(np.diff(key, prepend=-1))
        cell = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(places)))
        uses = self._tags.uses(cell, len(starts), places)
        tile_of_cell = np.searchsorted(chunk.tiles, key[starts] >> 2 * bits)
        tile = tile_of_cell[uses.cells]
        messages = Pool([*self._tags.categories, *map(mvt.value_message, uses.integers.tolist())])
        keys = mvt.tables(tile, uses.keys, len(chunk), len(self._tags.keys))
        values = mvt.tables(tile, uses.values, len(chunk), len(messages))
        first = places[starts]
        features = mvt.encode_cells(
            np.bincount(uses.cells, minlength=len(starts)),
            np.stack((keys.places, values.places), axis=1).ravel(),
            _centres(points.x[first], level, bits),
            _centres(points.y[first], level, bits),
        )
        tables = map(
            operator.add,
            Pool(self._tags.keys).picked(keys.numbers).split(keys.ends),
            messages.picked(values.numbers).split(values.ends),
        )
        ends = np.searchsorted(tile_of_cell, np.arange(len(chunk)), side="right")
        first_id = grid.first_tile_id(zoom)
        return [
            Tile(first_id + key, zoom, count, False, mvt.layer_message(self._layer.cells, *parts))
            for key, count, *parts in zip(
                chunk.tiles.tolist(), chunk.counts.tolist(), features.split(ends), tables, strict=True
            )
        ]


def _centres(positions: Positions, level: int, bits: int) -> Integers:
    """The centre of the cell of a position within its tile of 2^bits cells a side, in tile units."""
    side = grid.EXTENT >> bits
    return (positions >> level & (1 << bits) - 1).astype(np.int64) * side + side // 2


def _joined(parts: list[Runs]) -> Runs:
    """All runs of the parts, in the order of the points."""
    together = Runs(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("tiles", "starts", "ends")))
    return together.taken(np.argsort(together.starts))


def _least_sizes(points: Points) -> Integers:
    """Running totals of what the points take at least, in the corner of any tile."""
    tags = np.zeros(len(points), np.int64)
    for column in points.columns:
        tags += 2 * (column.codes >= 0)
    return np.concatenate(([0], np.cumsum(_LEAST_FEATURE + sizes(points.ids) + tags)))
