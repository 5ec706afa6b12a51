"""The basemap: land, borders and the names of countries, from a TopoJSON topology of the world.

Made once by `make basemap` and kept with the console, so that a fresh machine has a map without a network. A topology
holds each border once, as an arc that two countries share; that is why they are drawn as lines of their own.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from stemma.maps import grid
from stemma.maps.building import Provenance, build_points
from stemma.maps.features import GEOMETRY, ID
from stemma.maps.layers import Kind, Layer, Source
from stemma.maps.merging import merge
from stemma.maps.pmtiles import Header
from stemma.maps.point_tiles import PointLayer
from stemma.maps.points import Column, Points
from stemma.maps.shape_tiles import build_shapes

MAX_ZOOM: Final = 3
"""Beyond it the tiles are magnified: a topology of 1:50 million has no more to show."""

_NAMES: Final = "names"
_RANKS: Final = (6e12, 1.5e12, 3e11, 5e10)
_SLACK: Final = 0.05


def build_basemap(path: Path, topology: Mapping[str, Any], provenance: Provenance) -> Header:
    """Write the archive of a topology with the objects `land` and `countries`.

    Its layers are `land`, `borders` and `names`; a name has a `rank`, from 0 for the largest countries. The same
    topology gives the same bytes. Raises what `build_shapes` and `build_points` raise.
    """
    arcs = _arcs(topology)
    countries = topology["objects"]["countries"]["geometries"]
    # As one feature: an island that is smaller than a pixel may go, a feature may not.
    islands = [island for item in topology["objects"]["land"]["geometries"] for island in _polygons(item, arcs)]
    borders = [shapely.MultiLineString([arcs[arc] for arc in _shared(countries)])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = [folder / f"{layer}.pmtiles" for layer in ("land", "borders", _NAMES)]
        build_shapes(
            parts[0], _table([shapely.MultiPolygon(islands)]), _layer("land", "polygons", provenance), provenance
        )
        build_shapes(parts[1], _table(borders), _layer("borders", "lines", provenance), provenance)
        build_points(parts[2], _names(countries, arcs), PointLayer(_NAMES, max_zoom=MAX_ZOOM), provenance)
        return merge(path, parts, provenance)


def _layer(name: str, kind: Kind, provenance: Provenance) -> Layer:
    return Layer(
        id=name,
        title=provenance.title,
        kind=kind,
        source=Source(path=provenance.inputs[0].name),
        licence=provenance.licence,
        attribution=provenance.attribution,
        max_zoom=MAX_ZOOM,
    )


def _arcs(topology: Mapping[str, Any]) -> list[NDArray[np.float64]]:
    """The arcs in degrees; they are stored as differences of whole numbers."""
    scale, origin = topology["transform"]["scale"], topology["transform"]["translate"]
    places = (np.cumsum(np.array(arc, np.float64), axis=0) * scale + origin for arc in topology["arcs"])
    return [np.clip(place, (-180, -grid.MAX_LATITUDE), (180, grid.MAX_LATITUDE)) for place in places]


def _rings(geometry: Mapping[str, Any]) -> list[list[list[int]]]:
    found: list[list[list[int]]] = [geometry["arcs"]] if geometry["type"] == "Polygon" else geometry["arcs"]
    return found


def _shared(countries: Sequence[Mapping[str, Any]]) -> list[int]:
    """The arcs that two countries have; a negative number is an arc that is walked backwards."""
    uses: Counter[int] = Counter()
    for country in countries:
        uses.update({arc if arc >= 0 else ~arc for rings in _rings(country) for ring in rings for arc in ring})
    return sorted(arc for arc, count in uses.items() if count > 1)


def _polygons(geometry: Mapping[str, Any], arcs: Sequence[NDArray[np.float64]]) -> Iterator[shapely.Polygon]:
    for rings in _rings(geometry):
        shell, *holes = (_ring(ring, arcs) for ring in rings)
        mended = shapely.make_valid(shapely.Polygon(shell, holes))
        yield from (part for part in shapely.get_parts(mended) if isinstance(part, shapely.Polygon))


def _ring(numbers: Sequence[int], arcs: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    walked = (arcs[number] if number >= 0 else arcs[~number][::-1] for number in numbers)
    return np.concatenate([arc if place == 0 else arc[1:] for place, arc in enumerate(walked)])


def _table(shapes: Sequence[shapely.Geometry]) -> pa.Table:
    return pa.table({ID: pa.array(np.arange(len(shapes))), GEOMETRY: pa.array(shapely.to_wkb(np.array(shapes)))})


def _names(countries: Sequence[Mapping[str, Any]], arcs: Sequence[NDArray[np.float64]]) -> Points:
    """The name of each country, in the middle of its largest part."""
    largest = [max(_polygons(country, arcs), key=shapely.area) for country in countries]
    middles = [shapely.maximum_inscribed_circle(part, _SLACK).coords[0] for part in largest]
    places = np.array(middles)
    metres = np.array([part.area for part in largest]) * 111_000**2 * np.cos(np.radians(places[:, 1]))
    ranks = np.searchsorted(-np.array(_RANKS), -metres).tolist()
    named = [str(country["properties"]["name"]) for country in countries]
    columns = (Column.of("name", named), Column.of("rank", ranks))
    return Points.of(np.arange(len(countries)), places[:, 0], places[:, 1], columns)
