"""The invariants of one vector tile, for tiles of any origin, and what it shows: which ids where, and how many counted.

What holds across tiles is `continuity`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from stemma.maps.cells import COUNT
from stemma.maps.decoding import POINT, POLYGON, Damaged, Layer, decode, parts, single_points
from stemma.maps.findings import Findings
from stemma.maps.grid import Floats, tiles, zoom_of
from stemma.maps.mvt import Value
from stemma.maps.varints import Integers

Decode = Callable[[bytes], list[Layer]]
_VERSIONS = (1, 2)


@dataclass(frozen=True, slots=True)
class Declared:
    """A layer as the metadata describe it."""

    fields: Mapping[str, Any]
    min_zoom: int
    max_zoom: int


@dataclass(frozen=True, slots=True)
class Shown:
    """What a layer of a tile shows.

    Of every point, line and ring: the identity of its feature (the id; where the layer has no ids, a hash of what it
    says) and its bounds in shares of the tile (west, north, east, south). `counted` points are in cells, `points` says
    whether all are points.
    """

    layer: str
    features: int
    identities: NDArray[np.uint64]
    bounds: Floats
    counted: int
    points: bool


class TileName:
    """A tile as z/x/y, written out only where there is something to say of it."""

    def __init__(self, tile_id: int) -> None:
        self._id = tile_id

    @property
    def zoom(self) -> int:
        """The tile's zoom."""
        return zoom_of(self._id)

    def __str__(self) -> str:
        x, y = tiles(self.zoom, np.array([self._id]))
        return f"{self.zoom}/{int(x[0])}/{int(y[0])}"


class TileChecker:
    """Checks tiles against the layers that an archive declares; `cells` names those that count points."""

    def __init__(self, declared: Mapping[str, Declared], cells: frozenset[str], findings: Findings) -> None:
        self._declared = declared
        self._cells = cells
        self._findings = findings

    def check(self, tile_id: int, content: bytes, decode: Decode = decode) -> list[Shown]:
        """What the tile shows; `decode` raises Damaged for what is no tile."""
        name = TileName(tile_id)
        try:
            layers = decode(content)
        except Damaged as error:
            self._findings.add("tile_damaged", f"Tile {name}: {error}")
            return []
        return self.look(tile_id, layers)

    def look(self, tile_id: int, layers: Sequence[Layer]) -> list[Shown]:
        """What the tile of these layers shows."""
        name = TileName(tile_id)
        if len({layer.name for layer in layers}) < len(layers):
            self._findings.add("layer_twice", f"Tile {name} has two layers of one name.")
        shown = []
        for layer in layers:
            try:
                self._check_layer(name, layer)
                shown.append(self._show(name, layer))
            except Damaged as error:
                self._findings.add("geometry_damaged", f"Tile {name}, layer {layer.name}: {error}")
        return shown

    def _check_layer(self, name: TileName, layer: Layer) -> None:
        if layer.version not in _VERSIONS or not layer.extent:
            self._findings.add("tile_damaged", f"Tile {name}: layer {layer.name} has no known version or no extent.")
        declared = self._declared.get(layer.name)
        if declared is None:
            self._findings.add("layer_undeclared", f"Tile {name} has a layer {layer.name}; the metadata do not.")
            return
        if not declared.min_zoom <= name.zoom <= declared.max_zoom:
            self._findings.add("layer_zoom_wrong", f"Tile {name} has layer {layer.name}, outside its declared zooms.")
        for key in layer.keys:
            if key not in declared.fields:
                told = f"Tile {name}: layer {layer.name} has a field {key}; the metadata do not."
                self._findings.add("field_undeclared", told)
        if len(set(layer.keys)) < len(layer.keys):
            self._findings.add("key_twice", f"Tile {name}: layer {layer.name} has a key twice.")

    def _show(self, name: TileName, layer: Layer) -> Shown:
        layer.tags()
        features, extent = layer.features, max(layer.extent, 1)
        places = single_points(features)
        points = places is not None
        part_counts = np.ones(len(features), np.int64)
        if places is not None:
            shares = np.tile(np.concatenate([places, *(of.places for of in layer.points)]) / extent, 2)
        else:
            of_features = [self._bounds(name, layer.name, feature) for feature in features]
            part_counts = np.array([len(of_parts) for of_parts in of_features], np.int64)
            known = [np.tile(of.places, 2) for of in layer.points]
            shares = np.concatenate([*of_features, *known, np.zeros((0, 4))]) / extent
            points = all(feature.type == POINT for feature in features)
        counted = 0
        if layer.name in self._cells:
            counted = sum(_count(layer.attributes(feature)) for feature in features)
        identities = np.concatenate([np.repeat(_identities(layer), part_counts), *(of.ids for of in layer.points)])
        return Shown(layer.name, len(layer), identities, shares, counted, points)

    def _bounds(self, name: TileName, layer: str, feature: Any) -> Floats:
        """West, north, east and south of every part."""
        found = parts(feature)
        if feature.type == POLYGON:
            problem = invalid_polygon(found)
            if problem:
                told = f"Tile {name}, layer {layer}, feature {feature.id}: {problem}."
                self._findings.add("geometry_invalid", told)
        if feature.type == POINT:
            return np.tile(found[0], 2).astype(np.float64)
        return np.array([[*part.min(axis=0), *part.max(axis=0)] for part in found], np.float64)


def _count(said: Mapping[str, Value]) -> int:
    count = said.get(COUNT)
    if not isinstance(count, int) or count < 1:
        raise Damaged("A cell does not say how many points it counts.")
    return count


def _identities(layer: Layer) -> NDArray[np.uint64]:
    features = layer.features
    if layer.points or any(feature.HasField("id") for feature in features):
        return np.fromiter((feature.id for feature in features), np.uint64, len(features))
    said = (hash(frozenset(layer.attributes(feature).items())) for feature in features)
    return np.fromiter(said, np.int64, len(features)).view(np.uint64)


def invalid_polygon(rings: list[Integers]) -> str | None:
    """Why rings are no valid polygons, or None: each begins with an exterior ring, clockwise as drawn (§4.3.3.3)."""
    polygons: list[list[Integers]] = []
    for ring in rings:
        area = _doubled_area(ring)
        if area > 0:
            polygons.append([ring])
        elif area == 0 or not polygons:
            return "a ring has no area" if area == 0 else "the first ring is a hole"
        else:
            polygons[-1].append(ring)
    made = [shapely.Polygon(shell, holes) for shell, *holes in polygons]
    geometry = made[0] if len(made) == 1 else shapely.MultiPolygon(made)
    return None if geometry.is_valid else shapely.is_valid_reason(geometry)


def _doubled_area(ring: Integers) -> int:
    x, y = ring[:, 0], ring[:, 1]
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())
