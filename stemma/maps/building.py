"""From encoded tiles to an archive: compressed, with provenance in its metadata.

Which tiles there are is decided in `point_tiles`, and which of them a change touches in `incremental`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemma.maps.figures import ZoomFigures
from stemma.maps.mvt import Value
from stemma.maps.pmtiles import ArchiveWriter, Header
from stemma.maps.point_tiles import PointLayer, PointTiles, Tile
from stemma.maps.points import Column, Points
from stemma.maps.varints import Integers

GENERATOR = "stemma"
_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Input:
    """A file that a layer was made of: its name without the path, and its SHA-256 (hexadecimal)."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an archive comes from, as its metadata say it. No paths: archives are handed on."""

    title: str
    asset: str = ""
    partition: str = ""
    inputs: tuple[Input, ...] = ()
    licence: str = ""
    attribution: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Built:
    """A written archive."""

    header: Header
    zooms: tuple[ZoomFigures, ...]


def build_points(path: Path, points: Points, layer: PointLayer, provenance: Provenance) -> Built:
    """Write the archive of a point layer; the same points give the same bytes.

    Raises InvalidInput(layer_empty), CheckFailed(tile_over_budget), Unavailable where the disk refuses. The archive at
    `path` is replaced at the end or not at all.
    """
    tiles = PointTiles(points, layer)
    figures = Figures()
    with ArchiveWriter(path) as writer:
        zooms = range(layer.min_zoom, layer.max_zoom + 1)
        for tile, data in compressed(chain.from_iterable(map(tiles.at, zooms))):
            writer.add(tile.id, data)
            figures.add(tile.zoom, tile.size, tile.points, exact=tile.exact)
        return finish(writer, points, layer, provenance, tiles.cell_fields, figures)


class Figures:
    """Adds up `ZoomFigures` tile by tile."""

    def __init__(self) -> None:
        self._zooms: dict[int, list[int]] = {}

    def add(self, zoom: int, length: int, points: int, *, exact: bool) -> None:
        """Count a tile of so many bytes before compression, with so many points."""
        figures = self._zooms.setdefault(zoom, [0, 0, 0, 0])
        figures[0] += 1
        figures[1 if exact else 2] += points
        figures[3] = max(figures[3], length)

    def zooms(self) -> tuple[ZoomFigures, ...]:
        """The figures, by zoom."""
        return tuple(ZoomFigures(zoom, *figures) for zoom, figures in sorted(self._zooms.items()))


def compressed(chunks: Iterable[list[Tile]]) -> Iterator[tuple[Tile, bytes]]:
    """Tiles with their compressed bytes, in order; compression runs beside the encoder."""
    with ThreadPoolExecutor(1, "tiles") as pool:
        waiting: deque[tuple[list[Tile], Future[list[bytes]]]] = deque()
        for chunk in chunks:
            waiting.append((chunk, pool.submit(_compress, chunk)))
            if len(waiting) > _AHEAD:
                yield from _done(waiting)
        while waiting:
            yield from _done(waiting)


def _compress(tiles: Sequence[Tile]) -> list[bytes]:
    return [tile.compressed() for tile in tiles]


def _done(waiting: deque[tuple[list[Tile], Future[list[bytes]]]]) -> Iterator[tuple[Tile, bytes]]:
    tiles, data = waiting.popleft()
    yield from zip(tiles, data.result(), strict=True)


def finish(
    writer: ArchiveWriter,
    points: Points,
    layer: PointLayer,
    provenance: Provenance,
    cell_fields: Sequence[str],
    figures: Figures,
) -> Built:
    """Write the archive with the metadata of a point layer."""
    zooms = figures.zooms()
    layers = _vector_layers(points, layer, cell_fields, zooms)
    declared = {
        "layer": layer.name,
        "cells": layer.cells,
        "features": len(points),
        "ids": id_sum(points.ids),
        "min_zoom": layer.min_zoom,
        "max_zoom": layer.max_zoom,
    }
    center = next((z.zoom for z in zooms if z.exact), layer.max_zoom)
    header = writer.finish(points.bounds, center, metadata(provenance, layers, [declared]))
    return Built(header, zooms)


def metadata(
    provenance: Provenance, layers: Sequence[Mapping[str, Any]], declared: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The metadata of an archive: what TileJSON knows, and under `stemma` what a check holds the tiles to."""
    return {
        "name": provenance.title,
        "description": provenance.description,
        "attribution": provenance.attribution,
        "type": "overlay",
        "version": "1",
        "generator": GENERATOR,
        "vector_layers": list(layers),
        "stemma": {
            "asset": provenance.asset,
            "partition": provenance.partition,
            "licence": provenance.licence,
            "inputs": [{"name": item.name, "sha256": item.sha256} for item in provenance.inputs],
            "layers": list(declared),
        },
    }


def id_sum(ids: Integers) -> str:
    """A fingerprint of ids in any order: the sum of their mixed bits modulo 2^64, hexadecimal."""
    return f"{int(np.sum(mixed_bits(ids.astype(np.uint64)), dtype=np.uint64)):016x}"


def mixed_bits(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each value with every bit made to depend on every other, by SplitMix64's finalizer."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return result


def _vector_layers(
    points: Points, layer: PointLayer, cell_fields: Sequence[str], zooms: Sequence[ZoomFigures]
) -> list[dict[str, Any]]:
    exact, counted = [z.zoom for z in zooms if z.exact], [z.zoom for z in zooms if z.counted]
    found = []
    if exact:
        fields = {column.name: _kind(column) for column in points.columns}
        found.append({"id": layer.name, "fields": fields, "minzoom": min(exact), "maxzoom": max(exact)})
    if counted:
        cells: dict[str, str] = dict.fromkeys(cell_fields, "Number")
        if layer.category is None:
            del cells["top"]
        else:
            cells["top"] = _kind(points.column(layer.category))
        found.append({"id": layer.cells, "fields": cells, "minzoom": min(counted), "maxzoom": max(counted)})
    return found


def _kind(column: Column) -> str:
    kinds: dict[type[Value], str] = {bool: "Boolean", int: "Number", float: "Number"}
    return kinds.get(type(column.values[0]), "String") if column.values else "String"
