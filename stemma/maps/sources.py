"""Reading features from files: CSV, GeoJSON, GeoParquet, FlatGeobuf and Shapefile, also in a ZIP.

Rows come as they are, each with its number in the file, in WGS 84. Which of them are good is decided in `features`.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import re
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from stemma.errors import InvalidInput, NotFound, TooLarge, Unavailable
from stemma.maps.building import Input
from stemma.maps.layers import Layer

FORMATS = (".csv", ".geojson", ".json", ".parquet", ".geoparquet", ".fgb", ".shp")
WGS84 = "EPSG:4326"

_MONTH = re.compile(r"(?<!\d)(\d{4})-(0[1-9]|1[0-2])(?!\d)")
_UNPACKED_LIMIT = 8 << 30
_MEMBERS = 1000
_SHAPEFILE = (".shp", ".shx", ".dbf", ".prj", ".cpg")


@dataclass(frozen=True)
class SourceFile:
    """A file of a layer; `partition` is its month (`2020-01`), or empty."""

    path: Path
    partition: str

    @property
    def parts(self) -> tuple[Path, ...]:
        """The file itself; of a Shapefile all files that are read with it."""
        if self.path.suffix.lower() != ".shp":
            return (self.path,)
        beside = (item for item in self.path.parent.iterdir() if item.stem == self.path.stem)
        return tuple(sorted(item for item in beside if item.suffix.lower() in _SHAPEFILE))

    @cached_property
    def inputs(self) -> tuple[Input, ...]:
        """Its parts by name, with the SHA-256 of their bytes."""
        return tuple(Input(part.name, _sha256(part)) for part in self.parts)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a file in its order.

    `table` has the columns that the layer names, `geometry` a shape or None for each row, `flawed` what is known to be
    wrong with one: its number and a word. Coordinates are WGS 84 degrees, unless they are wrong.
    """

    file: SourceFile
    table: pa.Table
    geometry: NDArray[np.object_]
    flawed: dict[int, str]

    def __len__(self) -> int:
        return len(self.geometry)


def source_files(layer: Layer, root: Path) -> list[SourceFile]:
    """The files of a layer under the folder that its path is relative to, by month.

    Raises InvalidInput(path_outside, partition_invalid), NotFound(source_not_found), InvalidInput(source_empty).
    """
    path = (root / layer.source.path).resolve()
    if not path.is_relative_to(root.resolve()):
        raise InvalidInput("path_outside", "The source lies outside the folder of sources.", field="source.path")
    if not path.exists():
        raise NotFound("source_not_found", f"There is no source {layer.source.path}.")
    if not layer.source.monthly:
        if path.is_dir():
            raise InvalidInput("source_invalid", "The source is a folder; say `monthly: true`.", field="source.monthly")
        return [SourceFile(path, "")]
    files = sorted(item for item in path.iterdir() if item.is_file() and not item.name.startswith("."))
    found = [SourceFile(item, _month(item.name)) for item in files]
    if not found:
        raise InvalidInput("source_empty", f"The folder {layer.source.path} holds no files.", field="source.path")
    months = [file.partition for file in found]
    for month in months:
        if months.count(month) > 1:
            raise InvalidInput("partition_invalid", f"Two files are for {month}.", field="source.path")
    return sorted(found, key=lambda file: file.partition)


def _month(name: str) -> str:
    found = _MONTH.search(name)
    if found is None:
        raise InvalidInput("partition_invalid", f"The name of {name} has no month (2020-01).", field="source.path")
    return found[0]


def read(layer: Layer, file: SourceFile) -> Rows:
    """Read a file; raises InvalidInput, which names the file, for what cannot be understood."""
    with _unpacked(file.path) as path:
        suffix = path.suffix.lower()
        if suffix not in FORMATS:
            raise InvalidInput(
                "format_unknown", f"{file.path.name} is of no format that is read: {', '.join(FORMATS)}."
            )
        try:
            if suffix == ".csv":
                return _read_csv(layer, file, path.read_bytes())
            reader = _read_parquet if suffix in (".parquet", ".geoparquet") else _read_ogr
            table, shapes, crs = reader(path)
        except OSError as error:
            problem = f"{file.path.name} cannot be read: {error.strerror or error}."
            raise Unavailable("source_unreadable", problem) from error
    return _as_rows(layer, file, table, shapes, crs)


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The file itself, or the one data file of a ZIP, unpacked for as long as it is read."""
    if path.suffix.lower() != ".zip":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                _check_members(path.name, archive.infolist())
                archive.extractall(folder)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise InvalidInput("zip_invalid", f"{path.name} cannot be unpacked: {error}.") from error
        found = sorted(item for item in Path(folder).rglob("*") if item.suffix.lower() in FORMATS)
        if len(found) != 1:
            raise InvalidInput("zip_invalid", f"{path.name} holds {len(found)} files that can be read, not one.")
        yield found[0]


def _check_members(name: str, members: Sequence[zipfile.ZipInfo]) -> None:
    for member in members:
        parts = PurePosixPath(member.filename.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
            raise InvalidInput("zip_traversal", f"{name} holds a file that would be written outside of its folder.")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise InvalidInput("zip_traversal", f"{name} holds a link.")
    if len(members) > _MEMBERS or sum(member.file_size for member in members) > _UNPACKED_LIMIT:
        raise TooLarge("zip_too_large", f"{name} unpacks to more than {_UNPACKED_LIMIT >> 30} GiB or {_MEMBERS} files.")


def _read_csv(layer: Layer, file: SourceFile, data: bytes) -> Rows:
    name, columns = file.path.name, layer.columns
    if columns.longitude is None or columns.latitude is None:
        raise InvalidInput("column_missing", "A CSV needs columns.longitude and columns.latitude.", field="columns")
    header = _csv_header(name, data, layer.source.encoding)
    wanted = dict.fromkeys((*_wanted(layer), columns.longitude, columns.latitude))
    _require(name, wanted, header)
    table, malformed = _parse_csv(name, data, header, list(wanted), layer.source.encoding)
    x, y = (_numbers(table[column]) for column in (columns.longitude, columns.latitude))
    flawed = dict(malformed)
    for column, parsed in ((columns.longitude, x), (columns.latitude, y)):
        given = table[column].is_valid().to_numpy()
        for place in np.flatnonzero(given & np.isnan(parsed)).tolist():
            flawed.setdefault(place, "not_a_number")
        for place in np.flatnonzero(np.isinf(parsed)).tolist():
            flawed.setdefault(place, "not_finite")
    shapes = np.full(len(table), None, object)
    good = np.isfinite(x) & np.isfinite(y)
    shapes[good] = shapely.points(x[good], y[good])
    return _reprojected(Rows(file, table.select(_wanted(layer)), shapes, flawed), layer.source.crs or WGS84)


def _csv_header(name: str, data: bytes, encoding: str) -> list[str]:
    try:
        text = data.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except LookupError as error:
        raise InvalidInput("encoding_unknown", f"There is no encoding {encoding}.", field="source.encoding") from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InvalidInput(
            "encoding_mixed",
            f"{name} is not all {encoding}: line {line} holds other bytes.",
            field="source.encoding",
            hint="Say which encoding it has (often cp1252), or mend the line.",
        ) from error
    header = next(csv.reader(io.StringIO(text[: 1 << 20])), [])
    if not header:
        raise InvalidInput("source_empty", f"{name} is empty.")
    for column in header:
        if header.count(column) > 1:
            raise InvalidInput("column_twice", f"{name} has the column {column} twice.")
    return header


def _require(name: str, wanted: Sequence[str] | dict[str, Any], present: Sequence[str]) -> None:
    for column in wanted:
        if column not in present:
            raise InvalidInput(
                "column_missing",
                f"{name} has no column {column}.",
                field=column,
                hint=f"It has: {', '.join(present)}.",
            )


def _wanted(layer: Layer) -> list[str]:
    columns = list(dict.fromkeys(layer.sources.values()))
    return columns if layer.columns.id in (None, *columns) else [*columns, str(layer.columns.id)]


def _parse_csv(
    name: str, data: bytes, header: list[str], wanted: list[str], encoding: str
) -> tuple[pa.Table, dict[int, str]]:
    """The wanted columns as text, with an empty row for each that has too few or too many fields."""
    from pyarrow import csv as arrow

    malformed: list[int] = []

    def note(row: Any) -> str:
        malformed.append(row.number - 2)
        return "skip"

    try:
        table = arrow.read_csv(
            io.BytesIO(data),
            read_options=arrow.ReadOptions(use_threads=False, encoding=encoding),
            parse_options=arrow.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
            convert_options=arrow.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                include_columns=wanted,
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
                null_values=[""],
            ),
        )
    except pa.ArrowInvalid as error:
        raise InvalidInput("source_invalid", f"{name} is no CSV that can be read: {error}.") from error
    if not malformed:
        return table, {}
    total = len(table) + len(malformed)
    places = np.full(total, -1, np.int64)
    places[np.setdiff1d(np.arange(total), malformed)] = np.arange(len(table))
    spread = table.take(pa.array(places, mask=places < 0))
    return spread, dict.fromkeys(malformed, "malformed_row")


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Text as numbers; NaN where it is none."""
    from pyarrow import compute

    text = compute.utf8_trim_whitespace(column)
    number = compute.match_substring_regex(text, r"(?i)^[+-]?(\d+\.?\d*(e[+-]?\d+)?|\.\d+(e[+-]?\d+)?|inf(inity)?)$")
    return np.array(compute.cast(compute.if_else(number, text, None), pa.float64()).to_numpy(), np.float64)


def _read_parquet(path: Path) -> tuple[pa.Table, NDArray[np.object_], str | None]:
    """A GeoParquet file (https://geoparquet.org/releases/v1.1.0/): without a CRS it is in WGS 84."""
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        geo = json.loads((table.schema.metadata or {})[b"geo"])
        column = geo["columns"][geo["primary_column"]]
        if column["encoding"] != "WKB":
            raise InvalidInput("format_unknown", f"{path.name} encodes geometry as {column['encoding']}, not as WKB.")
        shapes = shapely.from_wkb(table[geo["primary_column"]].to_numpy(zero_copy_only=False), on_invalid="ignore")
    except (pa.ArrowInvalid, KeyError, ValueError) as error:
        raise InvalidInput("source_invalid", f"{path.name} is no GeoParquet that can be read: {error}.") from error
    crs = column.get("crs", WGS84)
    return table, shapes, json.dumps(crs) if isinstance(crs, dict) else crs


def _read_ogr(path: Path) -> tuple[pa.Table, NDArray[np.object_], str | None]:
    """GeoJSON, FlatGeobuf and Shapefile by GDAL; not through Arrow, where GDAL 3.12 damages missing geometries."""
    from pyogrio import raw
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError

    try:
        described, _, shapes, values = raw.read(path)
    except (DataSourceError, DataLayerError, FeatureError, FieldError) as error:
        raise InvalidInput("source_invalid", f"{path.name} cannot be read: {error}.") from error
    if shapes is None:
        raise InvalidInput("source_invalid", f"{path.name} has no geometry.")
    columns = [pa.array(column, from_pandas=True) for column in values]
    table = pa.table(dict(zip(described["fields"].tolist(), columns, strict=True)))
    return table, shapely.from_wkb(shapes, on_invalid="ignore"), described["crs"]


def _as_rows(layer: Layer, file: SourceFile, table: pa.Table, shapes: NDArray[np.object_], crs: str | None) -> Rows:
    if not len(shapes) and not table.column_names:
        # GeoJSON without features names no columns either.
        none = pa.table({column: pa.array([], pa.string()) for column in _wanted(layer)})
        return Rows(file, none, np.zeros(0, object), {})
    _require(file.path.name, _wanted(layer), table.column_names)
    if crs is None and layer.source.crs is None:
        raise InvalidInput("crs_missing", f"{file.path.name} does not say its coordinate system.", field="source.crs")
    if crs is not None and layer.source.crs is not None and not _same_crs(crs, layer.source.crs):
        raise InvalidInput(
            "crs_conflict",
            f"{file.path.name} says that it is in another coordinate system than {layer.source.crs}.",
            field="source.crs",
        )
    rows = Rows(file, table.select(_wanted(layer)), np.asarray(shapes, object), {})
    return _reprojected(rows, crs or str(layer.source.crs))


def _crs(text: str) -> Any:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise InvalidInput("crs_unknown", f"There is no coordinate system {text[:60]}.", field="source.crs") from error


def _same_crs(one: str, other: str) -> bool:
    return bool(_crs(one).equals(_crs(other), ignore_axis_order=True))


def _reprojected(rows: Rows, crs: str) -> Rows:
    """The rows in WGS 84; what cannot be projected becomes infinite, and is rejected as such."""
    known = _crs(crs)
    if known.equals(_crs(WGS84), ignore_axis_order=True):
        return rows
    from pyproj import Transformer

    transformer = Transformer.from_crs(known, WGS84, always_xy=True)

    def project(places: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = transformer.transform(places[:, 0], places[:, 1])
        return np.column_stack((x, y, places[:, 2:]))

    return Rows(rows.file, rows.table, shapely.transform(rows.geometry, project, include_z=True), rows.flawed)
