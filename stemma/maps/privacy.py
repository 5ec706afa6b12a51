"""The privacy gate of incident layers: where incidents are shown, and the proof of that and of what is kept of them.

What a layer asks for is in `layers`, which columns it may keep in `denylist`; `features` applies it. Snapping and
suppression act on features, before tiles are made, so that everything a tile may say is in the released features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stemma.maps import grid
from stemma.maps.cells import COUNT, TOP, counted_as
from stemma.maps.decoding import Layer, decode, distinct, parts, single_points
from stemma.maps.findings import Findings, Problem
from stemma.maps.grid import Floats, Positions
from stemma.maps.mvt import Value
from stemma.maps.part_memory import PartMemory
from stemma.maps.pmtiles import Archive
from stemma.maps.points import Points
from stemma.maps.varints import Integers


def snapped(longitude: Floats, latitude: Floats, level: int) -> tuple[Floats, Floats]:
    """The centres of the cells of a level of the quadtree in which places within the map lie."""
    x, y = grid.positions(longitude, latitude)
    return grid.degrees(_centre(x, level), _centre(y, level))


def _centre(positions: Positions, level: int) -> Positions:
    side = 1 << grid.LEVELS - level
    return (positions & -side) + side // 2


def crowded(longitude: Floats, latitude: Floats, minimum: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Which places are shared by at least so many."""
    if not len(longitude):
        return np.zeros(0, bool)
    _, place, counts = np.unique(longitude + 1j * latitude, return_inverse=True, return_counts=True)
    return np.asarray(counts[place] >= minimum)


@dataclass(frozen=True, slots=True)
class Proof:
    """What was looked at, and what should not have been there."""

    tiles: int
    features: int
    problems: tuple[Problem, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


def prove(
    path: Path, released: Points, layer: str, level: int, minimum: int, memory: PartMemory | None = None
) -> Proof:
    """Prove that an archive shows the released incidents and nothing else.

    Released places are centres of cells of the quadtree's `level`, each shared by at least `minimum` incidents. Every
    feature of every tile lies on one of them and says nothing but released values of released attributes; every cell
    counts at least `minimum`. So no raw coordinate and no denied value is in any tile. What `memory` has is not decoded
    again, but compared as the rest is.
    """
    findings = Findings()
    _prove_places(released, level, minimum, findings)
    values = {column.name: set(column.values) for column in released.columns}
    counts = {counted_as(column.name, value) for column in released.columns for value in column.values} | {COUNT}
    all_values = set().union(*values.values()) if values else set()
    places = distinct(np.stack((released.x, released.y), axis=1).astype(np.int64))
    tiles = features = 0
    with Archive(path) as archive:
        declared = archive.metadata().get("vector_layers", [])
        for field in {field for item in declared for field in item["fields"]} - counts - values.keys() - {TOP}:
            findings.add("attribute_unreleased", f"The metadata name a field {field}.")
        for tile_id, data in archive.stored():
            tiles += 1
            for found in _layers(archive, data, memory):
                features += len(found)
                if found.name == layer:
                    _prove_values(found, values, findings)
                    _prove_positions(found, tile_id, places, findings)
                else:
                    _prove_cells(found, counts, all_values, minimum, findings)
    return Proof(tiles, features, findings.problems)


def _layers(archive: Archive, stored: bytes, memory: PartMemory | None) -> list[Layer]:
    if memory is None:
        return decode(archive.content(stored))
    known = memory.recall(stored)
    return memory.decode(archive.content(stored), stored) if known is None else known


def _prove_places(released: Points, level: int, minimum: int, findings: Findings) -> None:
    for positions in (released.x, released.y):
        # A centre goes through degrees, which may cost the last bit.
        if (np.abs(positions - _centre(positions, level)) > 1).any():
            findings.add("coordinate_raw", "A released place is not the centre of a cell.")
    cells = released.keys >> 2 * (grid.LEVELS - level)
    _, counts = np.unique(cells, return_counts=True)
    if len(counts) and counts.min() < minimum:
        findings.add("place_rare", f"A released place has {int(counts.min())} incidents, not {minimum}.")


def _prove_values(found: Layer, values: Mapping[str, set[Value]], findings: Findings) -> None:
    for key, value in distinct(found.tags()).tolist():
        if found.values[value] not in values.get(found.keys[key], ()):
            findings.add("value_unreleased", f"A tile says {found.keys[key]} with a value that was not released.")


def _prove_positions(found: Layer, tile_id: int, released: Integers, findings: Findings) -> None:
    zoom = grid.zoom_of(tile_id)
    column, row = (int(place[0]) for place in grid.tiles(zoom, np.array([tile_id])))
    places = single_points(found.features)
    if places is None:
        places = np.concatenate([path for feature in found.features for path in parts(feature)])
    places = np.concatenate([places, *(of_points.places for of_points in found.points)])
    shown = _joined(places + (np.array([column, row]) << grid.EXTENT_BITS))
    allowed = np.unique(_joined(released >> grid.LEVELS - zoom - grid.EXTENT_BITS))
    nearest = np.minimum(np.searchsorted(allowed, shown), len(allowed) - 1)
    if not len(allowed) or (allowed[nearest] != shown).any():
        findings.add("coordinate_raw", f"A tile of zoom {zoom} shows a place that was not released.")


def _joined(places: Integers) -> Integers:
    joined: Integers = places[:, 0] << 32 | places[:, 1]
    return joined


def _prove_cells(found: Layer, counts: set[str], values: Iterable[Value], minimum: int, findings: Findings) -> None:
    for feature in found.features:
        said = found.attributes(feature)
        count = said.get(COUNT)
        if not isinstance(count, int) or count < minimum:
            findings.add("place_rare", f"A cell counts fewer than {minimum} incidents.")
        if said.keys() - counts - {TOP} or (TOP in said and said[TOP] not in values):
            findings.add("value_unreleased", "A cell says something else than counts.")
