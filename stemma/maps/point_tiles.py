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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from stemma.errors import CheckFailed, InvalidInput
from stemma.maps import grid, mvt
from stemma.maps.cells import CellTags
from stemma.maps.grid import Positions
from stemma.maps.mvt import Pool, Table
from stemma.maps.points import Points
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
    """One encoded tile, not compressed; `exact` says whether it holds its `points` or counts them."""

    id: int
    zoom: int
    content: bytes
    points: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Runs:
    """Tiles of one zoom as runs of points: tile i has those from `starts[i]` to before `ends[i]`."""

    tiles: Integers
    starts: Integers
    ends: Integers

    def __len__(self) -> int:
        return len(self.tiles)

    @property
    def counts(self) -> Integers:
        """How many points each tile has."""
        return self.ends - self.starts

    def taken(self, places: Integers | slice) -> Runs:
        """Some of the tiles."""
        return Runs(self.tiles[places], self.starts[places], self.ends[places])

    def chunks(self, points: int) -> Iterator[Runs]:
        """Runs of neighbours with at most so many points together, or of one tile that has more."""
        total = np.cumsum(self.counts)
        start = 0
        while start < len(self):
            limit = points + (int(total[start - 1]) if start else 0)
            end = max(start + 1, int(np.searchsorted(total, limit, side="right")))
            yield self.taken(slice(start, end))
            start = end


def runs(points: Points, zoom: int) -> Runs:
    """The tiles of a zoom that have points, by their place on the Hilbert curve of that zoom."""
    tile = points.keys >> 2 * (grid.LEVELS - zoom)
    starts = np.flatnonzero(np.diff(tile, prepend=-1))
    return Runs(tile[starts], starts, np.append(starts[1:], len(tile)))


class PointTiles:
    """The tiles of some points; raises InvalidInput where the layer counts by what the points do not have."""

    def __init__(self, points: Points, layer: PointLayer) -> None:
        self._points = points
        self._layer = layer
        self._keys = b"".join(mvt.key_message(column.name) for column in points.columns)
        self._values = Pool([mvt.value_message(value) for column in points.columns for value in column.values])
        self._least = _least_sizes(points)
        self._tags = CellTags(*(points.column(name) if name else None for name in (layer.category, layer.period)))

    @property
    def cell_fields(self) -> list[str]:
        """Every attribute that a cell may have."""
        return self._tags.names

    def at(self, zoom: int, tiles: Runs | None = None) -> Iterator[list[Tile]]:
        """Lists of tiles of a zoom, each tile once: all of them, or those named.

        Raises CheckFailed(tile_over_budget) where even one cell with all its counts takes more than a tile may.
        """
        wanted = runs(self._points, zoom) if tiles is None else tiles
        fits = self._least_bytes(zoom, wanted) <= self._layer.tile_bytes
        too_large = [wanted.taken(np.flatnonzero(~fits))]
        for chunk in wanted.taken(np.flatnonzero(fits)).chunks(_EXACT_CHUNK):
            encoded = self._exact(zoom, chunk)
            small = np.array([len(tile.content) <= self._layer.tile_bytes for tile in encoded])
            yield [encoded[place] for place in np.flatnonzero(small)]
            too_large.append(chunk.taken(np.flatnonzero(~small)))
        yield from self._counts(zoom, _joined(too_large))

    def _least_bytes(self, zoom: int, tiles: Runs) -> Integers:
        """What the points of each tile take at least, so that most of what is too large need not be tried."""
        points = self._points
        steps = np.zeros(len(points) + 1, np.int64)
        for positions in (points.x, points.y):
            # The distance from the corner, doubled by the zigzag form, takes a second byte from 64 on.
            steps[1:] += _pixels(positions, zoom) >= 64
        total = self._least + np.cumsum(steps)
        return total[tiles.ends] - total[tiles.starts]

    def _exact(self, zoom: int, chunk: Runs) -> list[Tile]:
        points = self._points
        places = mvt.between(chunk.starts, chunk.counts)
        tile = np.repeat(np.arange(len(chunk)), chunk.counts)
        attributes, table = self._attributes(places, tile, len(chunk))
        features = mvt.encode_points(
            points.ids[places], attributes, _pixels(points.x[places], zoom), _pixels(points.y[places], zoom)
        )
        values = self._values.picked(table.numbers).split(table.ends)
        tables = [self._keys + of_tile for of_tile in values]
        return self._assembled(zoom, chunk, features.split(np.cumsum(chunk.counts)), tables, exact=True)

    def _attributes(self, places: Integers, tile: Integers, tiles: int) -> tuple[list[Integers], Table]:
        """Where the values of each attribute stand in the value table of their tile (−1: none), and the tables."""
        found: list[Integers] = []
        owners, numbers = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        before, first = np.zeros(tiles, np.int64), 0
        for column in self._points.columns:
            codes = column.codes[places].astype(np.int64)
            some = np.flatnonzero(codes >= 0)
            owner = tile[some]
            table = mvt.tables(owner, codes[some], tiles, len(column.values))
            of_column = np.full(len(places), -1, np.int64)
            of_column[some] = before[owner] + table.places
            found.append(of_column)
            used = np.diff(table.ends, prepend=0)
            owners.append(np.repeat(np.arange(tiles), used))
            numbers.append(first + table.numbers)
            before += used
            first += len(column.values)
        together = np.concatenate(owners)
        order = np.argsort(together, kind="stable")
        return found, Table(np.concatenate(numbers)[order], np.cumsum(before), together)

    def _counts(self, zoom: int, group: Runs) -> Iterator[list[Tile]]:
        """Tiles of cells, of the finest grid that fits each."""
        for bits in reversed(range(CELL_BITS + 1)):
            if not len(group):
                return
            too_large = []
            for chunk in group.chunks(_CELL_CHUNK):
                encoded = self._cells(zoom, chunk, bits)
                small = np.array([len(tile.content) <= self._layer.tile_bytes for tile in encoded])
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
        return self._assembled(zoom, chunk, features.split(ends), tables, exact=False)

    def _assembled(
        self, zoom: int, chunk: Runs, features: Iterable[bytes], tables: Iterable[bytes], *, exact: bool
    ) -> list[Tile]:
        name = self._layer.name if exact else self._layer.cells
        first = grid.first_tile_id(zoom)
        return [
            Tile(first + key, zoom, mvt.layer_message(name, of_features, of_tables), count, exact)
            for key, count, of_features, of_tables in zip(
                chunk.tiles.tolist(), chunk.counts.tolist(), features, tables, strict=True
            )
        ]


def _pixels(positions: Positions, zoom: int) -> Integers:
    """Where in its tile a position is, in tile units."""
    return (positions >> grid.LEVELS - zoom - grid.EXTENT_BITS & grid.EXTENT - 1).astype(np.int64)


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
