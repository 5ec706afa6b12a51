"""From the rows of a source to clean features, with a ledger that accounts for every row.

Reads by `sources`, applies `privacy`, counts by `row_ledger`. The order of the reasons is written there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from pyarrow import compute, parquet

from stemma.errors import InvalidInput
from stemma.maps import grid, privacy
from stemma.maps.grid import Floats
from stemma.maps.layers import Layer
from stemma.maps.points import Column, Points
from stemma.maps.row_ledger import REJECTED, Reason, RowLedger
from stemma.maps.sources import Rows, SourceFile, read, source_files

ID, GEOMETRY = "stemma_id", "geometry"
_ROW_BITS = 32
_GEO_VERSION = "1.1.0"
_WKB_POINT = np.dtype([("order", "u1"), ("kind", "<u4"), ("x", "<f8"), ("y", "<f8")])

_TYPES = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
_KINDS = {
    "points": (shapely.GeometryType.POINT, shapely.GeometryType.MULTIPOINT),
    "lines": (shapely.GeometryType.LINESTRING, shapely.GeometryType.MULTILINESTRING),
    "polygons": (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON),
}


@dataclass(frozen=True, slots=True)
class Features:
    """What is on the map, and what became of all rows.

    `table` has an id, the layer's attributes and the geometry (WKB, WGS 84); an id is the month, counted from 1970, and
    the row's number in its file. `rejected` names file, row, reason and detail of every row that is not on the map.
    """

    table: pa.Table
    ledger: RowLedger
    by_partition: tuple[RowLedger, ...]
    rejected: pa.Table

    def __len__(self) -> int:
        return len(self.table)

    def write(self, path: Path, quarantine: Path) -> None:
        """Write the features as GeoParquet 1.1 and the rejected rows as Parquet."""
        shapes = shapely.from_wkb(self.table[GEOMETRY].to_numpy(zero_copy_only=False))
        kinds = sorted({shape.geom_type for shape in shapes})
        described = {"encoding": "WKB", "geometry_types": kinds, "bbox": list(map(float, shapely.total_bounds(shapes)))}
        geo = {"version": _GEO_VERSION, "primary_column": GEOMETRY, "columns": {GEOMETRY: described}}
        parquet.write_table(self.table.replace_schema_metadata({"geo": json.dumps(geo)}), path, compression="zstd")
        parquet.write_table(self.rejected, quarantine, compression="zstd")


@dataclass(slots=True)
class _Judged:
    """The rows of a file with a reason for each; the detail says more about it."""

    rows: Rows
    reasons: NDArray[np.int8]
    details: NDArray[np.object_]
    ids: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]

    def reject(self, where: NDArray[np.bool_], reason: Reason, detail: str) -> None:
        """Give a reason to rows that have none yet."""
        chosen = where & (self.reasons == Reason.KEPT)
        self.reasons[chosen] = reason
        self.details[chosen] = detail


def read_features(layer: Layer, root: Path) -> Features:
    """Read and clean a layer whose source lies under `root`; raises what `source_files`, `read` and `clean` raise."""
    return clean(layer, [read(layer, file) for file in source_files(layer, root)])


def clean(layer: Layer, files: Sequence[Rows]) -> Features:
    """Clean the rows of all files of a layer, in the order of their months.

    Raises InvalidInput: source_empty where there is no row, no_feature_left where none is good, attribute_type for a
    value that is not of its type, attribute_denied for free text in an incident layer.
    """
    total = sum(map(len, files))
    if not total:
        raise InvalidInput("source_empty", f"The source of {layer.id} has no rows.", field="source.path")
    judged = [_judge(layer, rows) for rows in files]
    _mark_duplicates(layer, judged)
    if layer.gate is not None:
        _snap_and_suppress(layer, judged)
    reasons = np.concatenate([item.reasons for item in judged])
    table = pa.concat_tables([_released(layer, item) for item in judged])
    if not len(table):
        raise InvalidInput("no_feature_left", f"No row of {layer.id} can be shown: {_reasons(judged)}.")
    if layer.gate is not None:
        _check_texts(layer, table)
    return Features(
        table,
        RowLedger.of(reasons, total),
        tuple(RowLedger.of(item.reasons, len(item.rows), item.rows.file.partition) for item in judged),
        pa.concat_tables([_rejected(item) for item in judged]),
    )


def _judge(layer: Layer, rows: Rows) -> _Judged:
    count = len(rows)
    shapes = rows.geometry.copy()
    reasons, details = np.full(count, Reason.KEPT, np.int8), np.full(count, "", object)
    base = _month_number(rows.file) << _ROW_BITS
    empty = np.full(count, np.nan)
    judged = _Judged(
        Rows(rows.file, rows.table, shapes, rows.flawed), reasons, details, base + np.arange(count), empty, empty.copy()
    )
    for place, detail in rows.flawed.items():
        reasons[place], details[place] = Reason.NO_COORDINATE, detail
    absent: NDArray[np.bool_] = np.asarray(shapely.is_missing(shapes)) | np.asarray(shapely.is_empty(shapes))
    judged.reject(absent, Reason.NO_COORDINATE, "missing")
    finite = np.asarray(np.isfinite(shapely.bounds(shapes)).all(axis=1))
    judged.reject(~finite, Reason.NO_COORDINATE, "not_finite")
    judged.reject(~np.isin(shapely.get_type_id(shapes), _KINDS[layer.kind]), Reason.NO_COORDINATE, "wrong_geometry")
    _mend(layer, judged)
    _judge_places(layer, judged)
    return judged


def _month_number(file: SourceFile) -> int:
    """Months since 1970; 0 for a file that is for no month."""
    if not file.partition:
        return 0
    year, month = map(int, file.partition.split("-"))
    return max(0, (year - 1970) * 12 + month - 1)


def _mend(layer: Layer, judged: _Judged) -> None:
    shapes = judged.rows.geometry
    good = judged.reasons == Reason.KEPT
    deep = good & shapely.has_z(shapes)
    shapes[deep] = shapely.force_2d(shapes[deep])
    single = good & (shapely.get_type_id(shapes) == shapely.GeometryType.MULTIPOINT)
    judged.reject(single & (shapely.get_num_geometries(shapes) != 1), Reason.NO_COORDINATE, "several_points")
    single &= judged.reasons == Reason.KEPT
    shapes[single] = shapely.get_geometry(shapes[single], 0)
    invalid = good & ~shapely.is_valid(shapes)
    for place in np.flatnonzero(invalid).tolist():
        shapes[place] = _of_kind(shapely.make_valid(shapes[place]), layer.kind)
    judged.reject(invalid & shapely.is_missing(shapes), Reason.NO_COORDINATE, "not_mendable")
    for where, detail in ((invalid, "made_valid"), (deep, "flattened"), (single, "unwrapped")):
        judged.reject(where, Reason.REPAIRED, detail)


def _of_kind(shape: Any, kind: str) -> Any:
    """The parts of a mended shape that are of the layer's kind; None where there are none."""
    parts = [part for part in shapely.get_parts(shape, return_index=False) if not part.is_empty]
    parts = [piece for part in parts for piece in shapely.get_parts(part)]
    chosen = [part for part in parts if shapely.get_type_id(part) == _KINDS[kind][0]]
    if len(chosen) < 2:
        return chosen[0] if chosen else None
    return shapely.multilinestrings(chosen) if kind == "lines" else shapely.multipolygons(chosen)


def _judge_places(layer: Layer, judged: _Judged) -> None:
    west, south, east, north = shapely.bounds(judged.rows.geometry).T
    usable = np.isin(judged.reasons, (Reason.KEPT, Reason.REPAIRED))
    problems = [
        ((np.abs(south) > 90) | (np.abs(north) > 90), "outside_world"),
        ((west < -180) | (east > 180), "outside_world"),
    ]
    if layer.kind == "points":
        problems.append(((west == 0) & (south == 0), "null_island"))
        problems.append((np.abs(south) > grid.MAX_LATITUDE, "near_pole"))
    else:
        problems.append(((south > grid.MAX_LATITUDE) | (north < -grid.MAX_LATITUDE), "near_pole"))
    if layer.bounds is not None:
        left, bottom, right, top = layer.bounds
        outside = (east < left) | (west > right) | (north < bottom) | (south > top)
        swapped = (south >= left) & (north <= right) & (west >= bottom) & (east <= top)
        problems += [(outside & swapped, "swapped"), (outside, "outside_bounds")]
    for where, detail in problems:
        chosen = where & usable & np.isin(judged.reasons, (Reason.KEPT, Reason.REPAIRED))
        judged.reasons[chosen] = Reason.OUT_OF_BOUNDS
        judged.details[chosen] = detail
    if layer.kind == "points":
        judged.x[:], judged.y[:] = west, south


def _mark_duplicates(layer: Layer, judged: Sequence[_Judged]) -> None:
    """Of rows with the same id, the first stays: across all files, in the order of months."""
    if layer.columns.id is None:
        return
    texts = [compute.utf8_trim_whitespace(_text(item.rows.table[layer.columns.id])) for item in judged]
    ids = pa.chunked_array([chunk for text in texts for chunk in _chunks(text)], pa.string())
    codes = compute.fill_null(ids.combine_chunks().dictionary_encode().indices, -1).to_numpy()
    lengths = np.asarray(compute.fill_null(compute.utf8_length(ids), 0).to_numpy())
    reasons = np.concatenate([item.reasons for item in judged])
    candidates = np.flatnonzero(np.isin(reasons, (Reason.KEPT, Reason.REPAIRED)) & (codes >= 0) & (lengths > 0))
    _, first = np.unique(codes[candidates], return_index=True)
    again = np.ones(len(candidates), bool)
    again[first] = False
    doubled = np.zeros(len(reasons), bool)
    doubled[candidates[again]] = True
    ends = np.cumsum([len(item.rows) for item in judged])
    for item, where in zip(judged, np.split(doubled, ends[:-1]), strict=True):
        item.reasons[where], item.details[where] = Reason.DUPLICATE, "same_id"


def _chunks(text: Any) -> list[Any]:
    return list(text.chunks) if isinstance(text, pa.ChunkedArray) else [text]


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return compute.cast(column, pa.string())


def _snap_and_suppress(layer: Layer, judged: Sequence[_Judged]) -> None:
    rule = layer.gate
    if rule is None or layer.kind != "points":
        return
    usable = [np.isin(item.reasons, (Reason.KEPT, Reason.REPAIRED)) for item in judged]
    for item, where in zip(judged, usable, strict=True):
        item.x[where], item.y[where] = privacy.snapped(item.x[where], item.y[where], rule.level)
    x, y = (
        np.concatenate([getattr(item, axis)[where] for item, where in zip(judged, usable, strict=True)])
        for axis in "xy"
    )
    enough = privacy.crowded(x, y, rule.minimum_count)
    ends = np.cumsum([int(where.sum()) for where in usable])
    for item, where, together in zip(judged, usable, np.split(enough, ends[:-1]), strict=True):
        alone = np.flatnonzero(where)[~together]
        item.reasons[alone], item.details[alone] = Reason.SUPPRESSED, "rare_place"
        kept = np.flatnonzero(where)[together]
        item.rows.geometry[kept] = shapely.points(item.x[kept], item.y[kept])


def _released(layer: Layer, judged: _Judged) -> pa.Table:
    places = np.flatnonzero(np.isin(judged.reasons, (Reason.KEPT, Reason.REPAIRED)))
    columns = {ID: pa.array(judged.ids[places])}
    for name, column in layer.sources.items():
        columns[name] = _typed(layer, name, judged.rows.table[column].take(pa.array(places)), judged.rows.file)
    shapes = shapely.to_wkb(shapely.normalize(judged.rows.geometry[places]))
    return pa.table({**columns, GEOMETRY: pa.array(shapes, pa.binary())})


def _typed(layer: Layer, name: str, values: pa.ChunkedArray, file: SourceFile) -> pa.ChunkedArray:
    kind = layer.attributes[name].type
    try:
        if kind == "text":
            return _text(values)
        source = compute.utf8_trim_whitespace(values) if pa.types.is_string(values.type) else values
        typed = compute.cast(source, _TYPES[kind])
        if kind == "number" and compute.any(compute.invert(compute.is_finite(typed))).as_py():
            raise pa.ArrowInvalid("NaN or infinity")
        return typed
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidInput(
            "attribute_type",
            f"{file.path.name} holds a value of {name} that is no {kind}: {str(error).splitlines()[0]}.",
            field=f"attributes.{name}.type",
            hint="Mend the file, or call the attribute text.",
        ) from error


def _check_texts(layer: Layer, table: pa.Table) -> None:
    assert layer.gate is not None
    for name, column in layer.sources.items():
        if column not in layer.gate.allow:
            privacy.check_texts(name, compute.unique(table[name]).to_pylist(), len(table))


def _rejected(judged: _Judged) -> pa.Table:
    places = np.flatnonzero(np.isin(judged.reasons, REJECTED))
    return pa.table(
        {
            "file": pa.array([judged.rows.file.path.name] * len(places), pa.string()),
            "row": pa.array(places + 1, pa.int64()),
            "reason": pa.array([Reason(judged.reasons[place]).label for place in places], pa.string()),
            "detail": pa.array(judged.details[places].tolist(), pa.string()),
        }
    )


def _reasons(judged: Sequence[_Judged]) -> str:
    details, counts = np.unique(np.concatenate([item.details for item in judged]).astype(str), return_counts=True)
    return ", ".join(f"{detail} {count:,}" for detail, count in zip(details, counts, strict=True))


def to_points(table: pa.Table, layer: Layer) -> Points:
    """Points for the tile encoder, from the features of a point layer."""
    columns = [column_of(name, table[name]) for name in layer.attributes]
    return Points.of(table[ID].to_numpy(), *coordinates(table[GEOMETRY]), columns)


def coordinates(points: pa.ChunkedArray) -> tuple[Floats, Floats]:
    """Longitude and latitude of points in WKB (OGC 06-103r4, §8.2), without a shape in memory for each."""
    arrays = [_plain_points(chunk) for chunk in points.chunks]
    if all(array is not None for array in arrays):
        read = np.concatenate([*arrays, np.zeros(0, _WKB_POINT)])
        return read["x"].copy(), read["y"].copy()
    shapes = shapely.from_wkb(points.to_numpy(zero_copy_only=False))
    return shapely.get_x(shapes), shapely.get_y(shapes)


def _plain_points(points: pa.BinaryArray) -> NDArray[np.void] | None:
    """The points of an array, where all are little-endian, flat and without a reference system."""
    if points.type != pa.binary() or points.null_count:
        return None
    if not len(points):
        return np.zeros(0, _WKB_POINT)
    _, ends, data = points.buffers()
    offsets = np.frombuffer(ends, np.int32)[points.offset : points.offset + len(points) + 1]
    if (np.diff(offsets) != _WKB_POINT.itemsize).any():
        return None
    read = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]].view(_WKB_POINT)
    return read if (read["order"] == 1).all() and (read["kind"] == 1).all() else None


def column_of(name: str, values: pa.ChunkedArray) -> Column:
    """A column of the tile encoder from one of a table."""
    encoded = values.unify_dictionaries().combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    dictionary = encoded.dictionary
    order = compute.sort_indices(dictionary).to_numpy()
    rank = np.empty(len(order) + 1, np.int32)
    rank[order], rank[-1] = np.arange(len(order)), -1
    codes = compute.fill_null(encoded.indices, -1).to_numpy()
    return Column(name, rank[codes], tuple(dictionary.take(pa.array(order)).to_pylist()))
