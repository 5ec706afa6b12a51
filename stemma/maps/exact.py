"""Tiles that hold their points: in which order, in which parts, and with which table of values.

Points whose ids share all but their last 32 bits came together: in one month, as `features` numbers them. A tile of
many points has them by month, in parts of some thousand, and its table of values in the order in which the parts need
them. So a part follows from itself and the ones before it, and a new month leaves all but the last as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stemma.maps import grid, mvt
from stemma.maps.compression import Piece
from stemma.maps.grid import Positions
from stemma.maps.mvt import Pool
from stemma.maps.points import BATCH_BITS, Points
from stemma.maps.runs import Runs
from stemma.maps.varints import Integers

PART_POINTS = 1024


@dataclass(frozen=True, slots=True)
class Lent:
    """What the archive before has of a tile, and the first batch in which a point of it changed."""

    pieces: Sequence[Piece]
    changed: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The points of some tiles as they are written, by tile, part and place on the curve.

    `places` are those among all points, `attributes` where each point's values stand in the table of its tile (−1: no
    value); `tables` are the encoded values and `parts` the number of parts of each tile.
    """

    places: Integers
    tile: Integers
    part: Integers
    attributes: list[Integers]
    tables: list[bytes]
    parts: Integers

    def lent(self, points: Points, tile: int, lent: Lent) -> list[Piece]:
        """The parts of a tile that are those of the archive before."""
        if self.parts[tile] == 1:
            return []
        start, end = np.searchsorted(self.tile, (tile, tile + 1))
        before = points.ids[self.places[start:end]] >> BATCH_BITS < lent.changed
        # The first piece is what comes before the features, the last one the tables.
        same = min(int(before.sum()) // PART_POINTS, int(self.parts[tile]), len(lent.pieces) - 2)
        return list(lent.pieces[1 : 1 + same])

    def features(self, points: Points, zoom: int, without: Integers) -> list[list[bytes]]:
        """The features of each tile in parts, but for the first `without[tile]` parts."""
        some = np.flatnonzero(self.part >= without[self.tile]) if without.any() else np.arange(len(self.places))
        places, first = self.places[some], np.cumsum(self.parts) - self.parts
        encoded = mvt.encode_points(
            points.ids[places],
            [values[some] for values in self.attributes],
            pixels(points.x[places], zoom),
            pixels(points.y[places], zoom),
        )
        group = (first[self.tile] + self.part)[some]
        every = encoded.split(np.cumsum(np.bincount(group, minlength=int(self.parts.sum()))))
        ends = np.cumsum(self.parts)
        return [every[start + skipped : end] for start, skipped, end in zip(first, without, ends, strict=True)]


class Layouts:
    """Lays out tiles of some points; neighbouring zooms often have the same ones."""

    def __init__(self, points: Points) -> None:
        self._points = points
        self._values = Pool([mvt.value_message(value) for column in points.columns for value in column.values])
        self._last: tuple[Runs, Layout] | None = None

    def of(self, tiles: Runs) -> Layout:
        """The layout of these tiles."""
        if self._last is not None and self._last[0].same_points(tiles):
            return self._last[1]
        places = mvt.between(tiles.starts, tiles.counts)
        tile = np.repeat(np.arange(len(tiles)), tiles.counts)
        part = self._parts(places, tile, tiles.counts)
        if part.any():
            order = np.lexsort((part, tile))
            places, part = places[order], part[order]
        parts = np.ones(len(tiles), np.int64)
        np.maximum.at(parts, tile, part + 1)
        attributes, tables = self._attributes(places, tile, part, len(tiles))
        layout = Layout(places, tile, part, attributes, tables, parts)
        self._last = tiles, layout
        return layout

    def _parts(self, places: Integers, tile: Integers, counts: Integers) -> Integers:
        """The part of each point: how many points its tile has of batches before its own, by the thousands."""
        part = np.zeros(len(places), np.int64)
        large = counts > PART_POINTS
        if not large.any():
            return part
        some = np.flatnonzero(large[tile])
        batches, batch = np.unique(self._points.ids[places[some]] >> BATCH_BITS, return_inverse=True)
        owner = (np.cumsum(large) - 1)[tile[some]] * len(batches) + batch
        numbers = np.bincount(owner, minlength=int(large.sum()) * len(batches)).reshape(-1, len(batches))
        part[some] = ((np.cumsum(numbers, axis=1) - numbers) // PART_POINTS).ravel()[owner]
        return part

    def _attributes(
        self, places: Integers, tile: Integers, part: Integers, tiles: int
    ) -> tuple[list[Integers], list[bytes]]:
        columns = self._points.columns
        owners, numbers, needed = ([np.zeros(0, np.int64)] for _ in range(3))
        uses = []
        first = 0
        for column in columns:
            codes = column.codes[places].astype(np.int64)
            some = np.flatnonzero(codes >= 0)
            table = mvt.tables(tile[some], codes[some], tiles, len(column.values))
            uses.append((some, table.entries))
            owners.append(np.repeat(np.arange(tiles), np.diff(table.ends, prepend=0)))
            numbers.append(first + table.numbers)
            needed.append(_first_parts(table.entries, part[some], len(table.numbers)))
            first += len(column.values)
        owner = np.concatenate(owners)
        order = np.lexsort((np.concatenate(needed), owner))
        ends = np.searchsorted(owner[order], np.arange(tiles), side="right")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order)) - np.concatenate(([0], ends[:-1]))[owner[order]]
        attributes = []
        before = 0
        for (some, entries), of_column in zip(uses, numbers[1:], strict=True):
            values = np.full(len(places), -1, np.int64)
            values[some] = place[before + entries]
            attributes.append(values)
            before += len(of_column)
        return attributes, self._values.picked(np.concatenate(numbers)[order]).split(ends)


def _first_parts(entries: Integers, part: Integers, count: int) -> Integers:
    """The first part that uses each of `count` entries; uses come in the order of parts within a tile."""
    found = np.zeros(count, np.int64)
    if part.any():
        found[entries[::-1]] = part[::-1]
    return found


def pixels(positions: Positions, zoom: int) -> Integers:
    """Where in its tile a position is, in tile units."""
    return (positions >> grid.LEVELS - zoom - grid.EXTENT_BITS & grid.EXTENT - 1).astype(np.int64)
