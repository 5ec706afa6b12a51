"""Rows of CSV and Parquet files, as dictionaries from column to value. What they mean is `importing`'s business."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stemma.errors import InvalidInput, NotFound, Unavailable, UnsupportedType

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """A file's columns, how many rows it has where that is known before they are read, and the rows.

    A cell of CSV is a text; what is empty there, and null in Parquet, is left out of its row.
    """

    columns: tuple[str, ...]
    total: int | None
    rows: Iterator[Row]


def open_table(path: Path) -> Table:
    """The rows of a file, which are read as they are asked for.

    Raises NotFound; Unavailable where it cannot be read; UnsupportedType unless its name ends with .csv or .parquet;
    InvalidInput, also while rows are asked for, for what is no such file.
    """
    if not path.is_file():
        raise NotFound("file_not_found", f"There is no file {path}.", field="FILE")
    readers = {".csv": _csv, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        what = f"{path.name} is neither CSV nor Parquet by its name."
        raise UnsupportedType("file_type_unsupported", what, field="FILE", hint="Its name ends with .csv or .parquet.")
    try:
        table = readers[path.suffix.lower()](path)
    except OSError as error:
        raise Unavailable("file_unreadable", f"{path} cannot be read: {error.strerror or error}.") from error
    if len(set(table.columns)) < len(table.columns) or not all(table.columns):
        raise _unreadable(path, "its columns do not have a name each, all different")
    return table


def _csv(path: Path) -> Table:
    rows = _csv_rows(path)
    columns = next(rows, None)
    if columns is None:
        raise _unreadable(path, "it is empty")
    return Table(tuple(columns), None, _named(path, tuple(columns), rows))


def _csv_rows(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            yield from reader
        except UnicodeDecodeError as error:
            raise _unreadable(path, f"after line {reader.line_num:,} it is not UTF-8") from error
        except csv.Error as error:
            raise _unreadable(path, f"line {reader.line_num:,}: {error}") from error


def _named(path: Path, columns: tuple[str, ...], rows: Iterator[list[str]]) -> Iterator[Row]:
    for cells in rows:
        # A blank line is no row.
        if cells:
            if len(cells) > len(columns):
                raise _unreadable(path, f"a row has {len(cells)} cells, more than there are columns: {cells[:3]}")
            yield {name: cell for name, cell in zip(columns, cells, strict=False) if cell != ""}


def _parquet(path: Path) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise _unreadable(path, "it is no Parquet file") from error

    def rows() -> Iterator[Row]:
        try:
            for batch in file.iter_batches(batch_size=1_000):
                for row in batch.to_pylist():
                    yield {name: value for name, value in row.items() if value is not None}
        except (pyarrow.ArrowException, OSError) as error:
            raise _unreadable(path, f"{' '.join(str(error).split())[:200]}") from error

    return Table(tuple(file.schema_arrow.names), file.metadata.num_rows, rows())


def _unreadable(path: Path, why: str) -> InvalidInput:
    return InvalidInput("file_invalid", f"{path.name} cannot be read: {why}.", field="FILE")
