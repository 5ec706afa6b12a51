"""The tiles of a zoom that have points. Points lie along the Hilbert curve, so that a tile is a run of neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stemma.maps import grid
from stemma.maps.points import Points
from stemma.maps.varints import Integers


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

    def same_points(self, other: Runs) -> bool:
        """Whether the points are shared out among tiles as they are in another zoom."""
        return np.array_equal(self.starts, other.starts) and np.array_equal(self.ends, other.ends)

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
