"""What holds across the tiles of an archive: nothing is lost from zoom to zoom, and everything stays where it is.

A feature is known by its identity. In every zoom it has to lie within its bounds of the last zoom, so that tiles that
were swapped are seen. Of layers that an archive declares as complete, every feature is in every zoom, as itself or in
a cell's count, and a tile has what its four children have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemma.maps.building import id_sum
from stemma.maps.findings import Findings
from stemma.maps.grid import EXTENT, Floats, first_tile_id, tile_ids, tiles
from stemma.maps.tile_check import Shown, TileName
from stemma.maps.varints import Integers

_POINT_PIXELS = 2.0
_SHAPE_PIXELS = 256.0
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Complete:
    """A layer of which an archive declares that nothing is lost between two zooms.

    `features` is how many there are, `ids` the fingerprint of their ids; `cells` names the layer that counts them.
    """

    layer: str
    cells: str
    features: int
    ids: str
    min_zoom: int
    max_zoom: int

    @classmethod
    def parse(cls, declared: Mapping[str, Any]) -> Complete:
        """Read what `building.metadata` writes; raises ValueError for something else."""
        try:
            return cls(
                str(declared["layer"]),
                str(declared["cells"]),
                int(declared["features"]),
                str(declared["ids"]),
                int(declared["min_zoom"]),
                int(declared["max_zoom"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"A declared layer lacks {error}.") from error


@dataclass(frozen=True, slots=True)
class Seen:
    """What one zoom shows of a layer: distinct identities, ascending, each with its bounds in the world (0–1)."""

    identities: NDArray[np.uint64]
    bounds: Floats


@dataclass(slots=True)
class Level:
    """One zoom as it is read, tile by tile."""

    zoom: int
    identities: dict[str, list[NDArray[np.uint64]]] = field(default_factory=dict)
    tiles: dict[str, list[int]] = field(default_factory=dict)
    bounds: dict[str, list[Floats]] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    totals: dict[str, dict[int, int]] = field(default_factory=dict)
    points: dict[str, bool] = field(default_factory=dict)
    _seen: dict[str, Seen] = field(default_factory=dict)

    def add(self, tile_id: int, shown: Shown) -> None:
        """Take up what a layer of a tile shows; what is in a tile's buffer belongs to its neighbour."""
        self.points[shown.layer] = self.points.get(shown.layer, True) and shown.points
        identities, bounds = shown.identities, shown.bounds
        inside = within_tile(bounds)
        if not inside.all():
            identities, bounds = identities[inside], bounds[inside]
        bounds = np.clip(bounds, 0, 1)
        self.identities.setdefault(shown.layer, []).append(identities)
        self.bounds.setdefault(shown.layer, []).append(bounds)
        self.tiles.setdefault(shown.layer, []).append(tile_id)
        self.count[shown.layer] = self.count.get(shown.layer, 0) + shown.features
        self.counted[shown.layer] = self.counted.get(shown.layer, 0) + shown.counted
        place = tile_id - first_tile_id(self.zoom)
        total = shown.counted or len(identities)
        totals = self.totals.setdefault(shown.layer, {})
        totals[place] = totals.get(place, 0) + total

    def features(self, layer: str) -> int:
        """How many features there are, those in several tiles several times."""
        return self.count.get(layer, 0)

    def seen(self, layer: str) -> Seen:
        """The layer's distinct identities, when all tiles are read."""
        if layer not in self._seen:
            self._seen[layer] = self._distinct(layer)
        return self._seen[layer]

    def _distinct(self, layer: str) -> Seen:
        if layer not in self.identities:
            return Seen(np.zeros(0, np.uint64), np.zeros((0, 4)))
        together = np.concatenate(self.identities[layer])
        order = np.argsort(together)
        ordered, bounds = together[order], self._in_world(layer)[order]
        if not len(ordered):
            return Seen(ordered, bounds)
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        if len(starts) == len(ordered):
            return Seen(ordered, bounds)
        low, high = (
            reduce.reduceat(bounds[:, columns], starts, axis=0)
            for reduce, columns in ((np.minimum, slice(0, 2)), (np.maximum, slice(2, 4)))
        )
        return Seen(ordered[starts], np.concatenate((low, high), axis=1))

    def _in_world(self, layer: str) -> Floats:
        """The bounds of all features of a layer as shares of the world."""
        x, y = tiles(self.zoom, np.array(self.tiles[layer]))
        corners = np.stack((x, y, x, y), axis=1)
        lengths = [len(bounds) for bounds in self.bounds[layer]]
        world: Floats = (np.concatenate(self.bounds[layer]) + np.repeat(corners, lengths, axis=0)) / (1 << self.zoom)
        return world

    def tile_totals(self, complete: Complete) -> dict[int, int]:
        """How many features each tile stands for, as themselves or counted; by its place on the curve."""
        totals = dict(self.totals.get(complete.layer, {}))
        for place, total in self.totals.get(complete.cells, {}).items():
            totals[place] = totals.get(place, 0) + total
        return totals


class Continuity:
    """Compares zooms, from the last to the first."""

    def __init__(self, complete: Mapping[str, Complete], findings: Findings) -> None:
        self._complete = complete
        self._findings = findings
        self._last: dict[str, Seen] = {}
        self._below: Level | None = None

    def compare(self, level: Level, cells: frozenset[str]) -> None:
        """Compare a zoom with the ones below it."""
        for layer in level.identities:
            if layer not in cells:
                self._compare_places(level, layer)
        for complete in self._complete.values():
            if not complete.min_zoom <= level.zoom <= complete.max_zoom:
                continue
            if level.points.get(complete.layer, True):
                self._compare_totals(level, complete)
            else:
                self._compare_ids(level, complete)
        self._below = level

    def _compare_places(self, level: Level, layer: str) -> None:
        seen = level.seen(layer)
        last = self._last.setdefault(layer, seen)
        if last is seen or not len(last.identities):
            return
        pixels = _POINT_PIXELS if level.points[layer] else _SHAPE_PIXELS
        slack = pixels / (EXTENT << level.zoom)
        identities, now, then = _in_both(seen, last)
        west, north, east, south = (now - then).T
        outside = (west < -slack) | (north < -slack) | (east > slack) | (south > slack)
        for place in np.flatnonzero(outside)[:_EXAMPLES].tolist():
            where = f"at zoom {level.zoom} where it is not in the last zoom"
            self._findings.add("tile_misplaced", f"Layer {layer}: feature {identities[place]} lies {where}.")

    def _compare_ids(self, level: Level, complete: Complete) -> None:
        """Shapes are in several tiles and never counted: each zoom has to show every id."""
        shown = level.seen(complete.layer).identities
        if len(shown) != complete.features:
            told = f"zoom {level.zoom} shows {len(shown):,} of {complete.features:,} features"
            self._findings.add("ids_lost", f"Layer {complete.layer}: {told}{self._missing(level, complete)}.")
        elif id_sum(shown.astype(np.int64)) != complete.ids:
            self._findings.add("ids_changed", f"Layer {complete.layer}: zoom {level.zoom} has other ids than declared.")

    def _compare_totals(self, level: Level, complete: Complete) -> None:
        totals = level.tile_totals(complete)
        found = sum(totals.values())
        if found != complete.features:
            missing = self._missing(level, complete)
            told = f"Layer {complete.layer}: zoom {level.zoom} stands for {found:,} of {complete.features:,} features"
            self._findings.add("ids_lost", f"{told}{missing}.")
        elif not level.counted.get(complete.cells) and id_sum(_ids(level, complete.layer)) != complete.ids:
            self._findings.add("ids_changed", f"Layer {complete.layer}: zoom {level.zoom} has other ids than declared.")
        if self._below is None or self._below.zoom != level.zoom + 1 or self._below.zoom > complete.max_zoom:
            return
        children: dict[int, int] = {}
        for place, total in self._below.tile_totals(complete).items():
            children[place >> 2] = children.get(place >> 2, 0) + total
        for place in sorted(totals.keys() | children.keys()):
            if totals.get(place, 0) != children.get(place, 0):
                name = TileName(first_tile_id(level.zoom) + place)
                told = (
                    f"stands for {totals.get(place, 0):,} features, the tiles below it for {children.get(place, 0):,}"
                )
                self._findings.add("tile_misplaced", f"Layer {complete.layer}: tile {name} {told}.")

    def _missing(self, level: Level, complete: Complete) -> str:
        """Which features a zoom lacks in tiles that do not count."""
        last = self._last.get(complete.layer)
        if last is None:
            return ""
        absent = ~np.isin(last.identities, level.seen(complete.layer).identities)
        x, y = (last.bounds[absent, :2] * (1 << level.zoom)).astype(np.int64).T
        places = tile_ids(level.zoom, x, y) - first_tile_id(level.zoom)
        counting = np.isin(places, list(level.totals.get(complete.cells, {})))
        missing = last.identities[absent][~counting][:_EXAMPLES]
        return f"; not {', '.join(map(str, missing))}" if len(missing) else ""


def _in_both(seen: Seen, last: Seen) -> tuple[NDArray[np.uint64], Floats, Floats]:
    """The identities that two zooms have in common, and their bounds in each."""
    if np.array_equal(seen.identities, last.identities):
        return seen.identities, seen.bounds, last.bounds
    places = np.minimum(np.searchsorted(last.identities, seen.identities), len(last.identities) - 1)
    known = last.identities[places] == seen.identities
    return seen.identities[known], seen.bounds[known], last.bounds[places[known]]


def within_tile(bounds: Floats) -> NDArray[np.bool_]:
    """Which bounds, in shares of a tile, are not only in its buffer: a shape ends where the next tile begins."""
    west, north, east, south = bounds.T
    return np.asarray((west < 1) & (north < 1) & (east >= 0) & (south >= 0))


def _ids(level: Level, layer: str) -> Integers:
    return np.concatenate([*level.identities.get(layer, []), np.zeros(0, np.uint64)]).astype(np.int64)
