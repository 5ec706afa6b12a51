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
from stemma.maps import denylist, grid, privacy
from stemma.maps.grid import Floats
from stemma.maps.layers import Layer
from stemma.maps.points import BATCH_BITS, Column, Points
from stemma.maps.row_ledger import Reason, RowLedger, released
from stemma.maps.sources import Rows, read, source_files
from stemma.maps.varints import Integers

ID, GEOMETRY = "stemma_id", "geometry"
_GEO_VERSION = "1.1.0"
# What is judged of a row, beside the columns of the source.
_KEY, _REASON, _DETAIL, _X, _Y = "stemma_key", "stemma_reason", "stemma_detail", "stemma_x", "stemma_y"
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
        kinds, bounds = _extent(self.table[GEOMETRY])
        described = {"encoding": "WKB", "geometry_types": kinds, "bbox": bounds}
        geo = {"version": _GEO_VERSION, "primary_column": GEOMETRY, "columns": {GEOMETRY: described}}
        parquet.write_table(self.table.replace_schema_metadata({"geo": json.dumps(geo)}), path, compression="zstd")
        parquet.write_table(self.rejected, quarantine, compression="zstd")


def _extent(geometry: pa.ChunkedArray) -> tuple[list[str], list[float]]:
    """The kinds of geometry in a column of WKB, and what holds them all: west, south, east, north."""
    plain = _plain(geometry)
    if plain is not None:
        x, y = plain["x"], plain["y"]
        return ["Point"], [float(edge) for edge in (x.min(), y.min(), x.max(), y.max())]
    shapes = shapely.from_wkb(geometry.to_numpy(zero_copy_only=False))
    _, examples = np.unique(shapely.get_type_id(shapes), return_index=True)
    return sorted(shape.geom_type for shape in shapes[examples]), shapely.total_bounds(shapes).tolist()


@dataclass(slots=True)
class _Draft:
    """The rows of a file as they are judged; the detail says more about a reason."""

    rows: Rows
    reasons: NDArray[np.int8]
    details: NDArray[np.object_]

    def reject(self, where: NDArray[np.bool_], reason: Reason, detail: str) -> None:
        """Give a reason to rows that have none yet."""
        chosen = where & (self.reasons == Reason.KEPT)
        self.reasons[chosen] = reason
        self.details[chosen] = detail


@dataclass(frozen=True, slots=True)
class Judged:
    """A file whose rows were judged without looking at any other file, so that it need not be read again.

    `table` has a row for each of the file's: the attributes, the id without blanks, a reason, a detail, and of rows
    that are good the place: longitude and latitude of points, snapped where the layer is gated, or a shape as WKB.
    """

    name: str
    partition: str
    table: pa.Table

    def __len__(self) -> int:
        return len(self.table)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The id that each row has if it is released."""
        return (_month_number(self.partition) << BATCH_BITS) + np.arange(len(self))

    def packed(self) -> bytes:
        """The same as an Arrow stream."""
        said = {"name": self.name, "partition": self.partition}
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema.with_metadata(said)) as writer:
            writer.write_table(self.table.replace_schema_metadata(said))
        return bytes(sink.getvalue())

    @classmethod
    def parse(cls, data: bytes) -> Judged:
        """Read what `packed` wrote; raises ValueError for something else."""
        table = pa.ipc.open_stream(data).read_all()
        said = table.schema.metadata or {}
        if said.keys() != {b"name", b"partition"}:
            raise ValueError("These are no judged rows.")
        return cls(said[b"name"].decode(), said[b"partition"].decode(), table.replace_schema_metadata(None))


def read_features(layer: Layer, root: Path) -> Features:
    """Read and clean a layer whose source lies under `root`; raises what `source_files`, `read` and `clean` raise."""
    return clean(layer, [read(layer, file) for file in source_files(layer, root)])


def clean(layer: Layer, files: Sequence[Rows]) -> Features:
    """Clean the rows of all files of a layer, in the order of their months; raises what `combine` raises."""
    return combine(layer, [judge(layer, rows) for rows in files])


def judge(layer: Layer, rows: Rows) -> Judged:
    """Judge the rows of one file: all but what other files decide, which are duplicates and rare places."""
    count = len(rows)
    draft = _Draft(
        Rows(rows.file, rows.table, rows.geometry.copy(), rows.flawed),
        np.full(count, Reason.KEPT, np.int8),
        np.full(count, "", object),
    )
    shapes = draft.rows.geometry
    for place, detail in rows.flawed.items():
        draft.reasons[place], draft.details[place] = Reason.NO_COORDINATE, detail
    absent: NDArray[np.bool_] = np.asarray(shapely.is_missing(shapes)) | np.asarray(shapely.is_empty(shapes))
    draft.reject(absent, Reason.NO_COORDINATE, "missing")
    finite = np.asarray(np.isfinite(shapely.bounds(shapes)).all(axis=1))
    draft.reject(~finite, Reason.NO_COORDINATE, "not_finite")
    draft.reject(~np.isin(shapely.get_type_id(shapes), _KINDS[layer.kind]), Reason.NO_COORDINATE, "wrong_geometry")
    _mend(layer, draft)
    _judge_places(layer, draft)
    columns = {name: rows.table[name] for name in dict.fromkeys(layer.sources.values())}
    if layer.columns.id is not None:
        key = compute.utf8_trim_whitespace(_text(rows.table[layer.columns.id]))
        columns[_KEY] = compute.if_else(compute.equal(key, ""), None, key)
    details = pa.array(draft.details, pa.string())
    judged = {**columns, _REASON: pa.array(draft.reasons), _DETAIL: details, **_places(layer, draft)}
    return Judged(rows.file.path.name, rows.file.partition, pa.table(judged))


def _places(layer: Layer, draft: _Draft) -> dict[str, pa.Array]:
    shapes = draft.rows.geometry
    good = released(draft.reasons)
    if layer.kind != "points":
        shapes[~good] = None
        return {GEOMETRY: pa.array(shapely.to_wkb(shapely.normalize(shapes)), pa.binary())}
    x, y = (np.where(good, of(shapes), np.nan) for of in (shapely.get_x, shapely.get_y))
    if layer.gate is not None:
        x[good], y[good] = privacy.snapped(x[good], y[good], layer.gate.level)
    return {_X: pa.array(x), _Y: pa.array(y)}


def _month_number(partition: str) -> int:
    """Months since 1970; 0 for a file that is for no month."""
    if not partition:
        return 0
    year, month = map(int, partition.split("-"))
    return max(0, (year - 1970) * 12 + month - 1)


def _mend(layer: Layer, draft: _Draft) -> None:
    shapes = draft.rows.geometry
    good = draft.reasons == Reason.KEPT
    deep = good & shapely.has_z(shapes)
    shapes[deep] = shapely.force_2d(shapes[deep])
    single = good & (shapely.get_type_id(shapes) == shapely.GeometryType.MULTIPOINT)
    draft.reject(single & (shapely.get_num_geometries(shapes) != 1), Reason.NO_COORDINATE, "several_points")
    single &= draft.reasons == Reason.KEPT
    shapes[single] = shapely.get_geometry(shapes[single], 0)
    invalid = good & ~shapely.is_valid(shapes)
    for place in np.flatnonzero(invalid).tolist():
        shapes[place] = _of_kind(shapely.make_valid(shapes[place]), layer.kind)
    draft.reject(invalid & shapely.is_missing(shapes), Reason.NO_COORDINATE, "not_mendable")
    for where, detail in ((invalid, "made_valid"), (deep, "flattened"), (single, "unwrapped")):
        draft.reject(where, Reason.REPAIRED, detail)


def _of_kind(shape: Any, kind: str) -> Any:
    """The parts of a mended shape that are of the layer's kind; None where there are none."""
    parts = [part for part in shapely.get_parts(shape, return_index=False) if not part.is_empty]
    parts = [piece for part in parts for piece in shapely.get_parts(part)]
    chosen = [part for part in parts if shapely.get_type_id(part) == _KINDS[kind][0]]
    if len(chosen) < 2:
        return chosen[0] if chosen else None
    return shapely.multilinestrings(chosen) if kind == "lines" else shapely.multipolygons(chosen)


def _judge_places(layer: Layer, draft: _Draft) -> None:
    west, south, east, north = shapely.bounds(draft.rows.geometry).T
    usable = released(draft.reasons)
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
        chosen = where & usable & released(draft.reasons)
        draft.reasons[chosen] = Reason.OUT_OF_BOUNDS
        draft.details[chosen] = detail


def combine(layer: Layer, files: Sequence[Judged]) -> Features:
    """The features of all files of a layer, in the order of their months.

    Raises InvalidInput: source_empty where there is no row, no_feature_left where none is good, attribute_type for a
    value that is not of its type, attribute_denied for free text in an incident layer.
    """
    total = sum(map(len, files))
    if not total:
        raise InvalidInput("source_empty", f"The source of {layer.id} has no rows.", field="source.path")
    reasons = _together(files, _REASON).astype(np.int8)
    details = _together(files, _DETAIL)
    doubled = _duplicates(layer, files, reasons)
    reasons[doubled], details[doubled] = Reason.DUPLICATE, "same_id"
    rare = _rare(layer, files, reasons)
    reasons[rare], details[rare] = Reason.SUPPRESSED, "rare_place"
    places = np.flatnonzero(released(reasons))
    if not len(places):
        raise InvalidInput("no_feature_left", f"No row of {layer.id} can be shown: {_counted(details)}.")
    ends = np.cumsum([len(item) for item in files])
    kept = [item.table.take(pa.array(rows)) for item, rows in zip(files, _by_file(places, ends), strict=True)]
    attributes = {
        name: _typed(layer, name, files, [rows[column] for rows in kept]) for name, column in layer.sources.items()
    }
    ids = np.concatenate([item.ids for item in files])[places]
    table = pa.table({ID: pa.array(ids), **attributes, GEOMETRY: _geometry(layer, kept)})
    if layer.gate is not None:
        _check_texts(layer, table)
    by_file = np.split(reasons, ends[:-1])
    return Features(
        table,
        RowLedger.of(reasons, total),
        tuple(RowLedger.of(found, len(item), item.partition) for item, found in zip(files, by_file, strict=True)),
        _rejected(files, reasons, details),
    )


def _together(files: Sequence[Judged], name: str) -> NDArray[Any]:
    """What was judged of all rows."""
    return np.concatenate([item.table[name].to_numpy() for item in files])


def _by_file(places: Integers, ends: Integers) -> list[Integers]:
    """Places among all rows as places within each file."""
    parts = np.split(places, np.searchsorted(places, ends[:-1]))
    return [part - start for part, start in zip(parts, [0, *ends[:-1].tolist()], strict=True)]


def _duplicates(layer: Layer, files: Sequence[Judged], reasons: NDArray[np.int8]) -> Integers:
    """Of rows with the same id, all but the first: across all files, in the order of months."""
    if layer.columns.id is None:
        return np.zeros(0, np.int64)
    ids = pa.chunked_array([chunk for item in files for chunk in item.table[_KEY].chunks], pa.string())
    codes = compute.fill_null(ids.combine_chunks().dictionary_encode().indices, -1).to_numpy()
    candidates = np.flatnonzero(released(reasons) & (codes >= 0))
    _, first = np.unique(codes[candidates], return_index=True)
    again = np.ones(len(candidates), bool)
    again[first] = False
    return candidates[again]


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return compute.cast(column, pa.string())


def _rare(layer: Layer, files: Sequence[Judged], reasons: NDArray[np.int8]) -> Integers:
    """The rows at places that the privacy rule does not show."""
    if layer.gate is None or layer.kind != "points":
        return np.zeros(0, np.int64)
    usable = np.flatnonzero(released(reasons))
    x, y = (_together(files, axis)[usable] for axis in (_X, _Y))
    return usable[~privacy.crowded(x, y, layer.gate.minimum_count)]


def _geometry(layer: Layer, kept: Sequence[pa.Table]) -> pa.ChunkedArray:
    """The places of rows as WKB."""
    if layer.kind != "points":
        return pa.chunked_array([chunk for rows in kept for chunk in rows[GEOMETRY].chunks], pa.binary())
    count = sum(map(len, kept))
    written = np.empty(count, _WKB_POINT)
    written["order"], written["kind"] = 1, 1
    for axis, name in (("x", _X), ("y", _Y)):
        written[axis] = np.concatenate([rows[name].to_numpy() for rows in kept])
    ends = np.arange(count + 1, dtype=np.int32) * _WKB_POINT.itemsize
    points = pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(ends), pa.py_buffer(written)])
    return pa.chunked_array([points])


def _typed(layer: Layer, name: str, files: Sequence[Judged], values: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    """An attribute in its type, though files may hold it as numbers here and as text there."""
    kind = layer.attributes[name].type
    typed = []
    for file, of_file in zip(files, values, strict=True):
        try:
            typed += _cast(kind, of_file).chunks
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InvalidInput(
                "attribute_type",
                f"{file.name} holds a value of {name} that is no {kind}: {str(error).splitlines()[0]}.",
                field=f"attributes.{name}.type",
                hint="Mend the file, or call the attribute text.",
            ) from error
    return pa.chunked_array(typed, _TYPES[kind])


def _cast(kind: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    if kind == "text":
        return _text(values)
    source = compute.utf8_trim_whitespace(values) if pa.types.is_string(values.type) else values
    typed = compute.cast(source, _TYPES[kind])
    if kind == "number" and compute.any(compute.invert(compute.is_finite(typed))).as_py():
        raise pa.ArrowInvalid("NaN or infinity")
    return typed


def _check_texts(layer: Layer, table: pa.Table) -> None:
    assert layer.gate is not None
    for name, column in layer.sources.items():
        if column not in layer.gate.allow:
            denylist.check_texts(name, compute.unique(table[name]).to_pylist(), len(table))


def _rejected(files: Sequence[Judged], reasons: NDArray[np.int8], details: NDArray[np.object_]) -> pa.Table:
    places = np.flatnonzero(~released(reasons))
    ends = np.cumsum([len(item) for item in files])
    of_files = _by_file(places, ends)
    names = np.repeat([item.name for item in files], [len(rows) for rows in of_files])
    labels = np.array(["", *(reason.label for reason in Reason)])
    return pa.table(
        {
            "file": pa.array(names, pa.string()),
            "row": pa.array(np.concatenate(of_files) + 1, pa.int64()),
            "reason": pa.array(labels[reasons[places]], pa.string()),
            "detail": pa.array(details[places], pa.string()),
        }
    )


def _counted(details: NDArray[np.object_]) -> str:
    words, counts = np.unique(details.astype(str), return_counts=True)
    return ", ".join(f"{word} {count:,}" for word, count in zip(words, counts, strict=True))


def to_points(table: pa.Table, layer: Layer) -> Points:
    """Points for the tile encoder, from the features of a point layer."""
    columns = [column_of(name, table[name]) for name in layer.attributes]
    return Points.of(table[ID].to_numpy(), *coordinates(table[GEOMETRY]), columns)


def same_batches(before: pa.Table, after: pa.Table) -> list[int]:
    """The batches (months, as ids count them) whose features are the same in two tables of `Features`."""
    old, new = _batches(before), _batches(after)
    return [batch for batch in sorted(old.keys() & new.keys()) if old[batch].equals(new[batch])]


def without(table: pa.Table, batches: Sequence[int]) -> pa.Table:
    """The features of the other batches."""
    return table.filter(pa.array(~np.isin(table[ID].to_numpy() >> BATCH_BITS, batches)))


def _batches(table: pa.Table) -> dict[int, pa.Table]:
    batch = table[ID].to_numpy() >> BATCH_BITS
    starts = np.flatnonzero(np.diff(batch, prepend=-1))
    ends = np.append(starts[1:], len(batch))
    return {int(batch[start]): table.slice(start, end - start) for start, end in zip(starts, ends, strict=True)}


def coordinates(points: pa.ChunkedArray) -> tuple[Floats, Floats]:
    """Longitude and latitude of points in WKB."""
    plain = _plain(points)
    if plain is not None:
        return plain["x"].copy(), plain["y"].copy()
    shapes = shapely.from_wkb(points.to_numpy(zero_copy_only=False))
    return shapely.get_x(shapes), shapely.get_y(shapes)


def _plain(geometry: pa.ChunkedArray) -> NDArray[np.void] | None:
    """A column of WKB (OGC 06-103r4, §8.2) without a shape in memory for each row.

    None where not all are points, little-endian, flat and without a reference system.
    """
    arrays = [_plain_chunk(chunk) for chunk in geometry.chunks]
    found = [array for array in arrays if array is not None]
    return np.concatenate(found) if found and len(found) == len(arrays) else None


def _plain_chunk(points: pa.BinaryArray) -> NDArray[np.void] | None:
    if points.type != pa.binary() or points.null_count or not len(points):
        return None
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
