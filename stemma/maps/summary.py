"""What a map shows, in numbers and words: counts by category and by period, and the features themselves in pages.

What a map cannot say to everybody, a table does. Both are read from the features that the tiles were made of.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from stemma.maps.catalog import BuiltArchive
from stemma.maps.features import GEOMETRY, ID
from stemma.maps.layers import Layer
from stemma.store.cursors import Page, decode_cursor, encode_cursor
from stemma.store.files import FileStore

_KEPT: Final = 64


@dataclass(frozen=True, slots=True)
class Share:
    """How many features have a value; `value` is as people read it."""

    value: str
    count: int


@dataclass(frozen=True, slots=True)
class Summary:
    """How many features there are; by category, the most frequent first; by period, in order."""

    features: int
    categories: tuple[Share, ...]
    periods: tuple[Share, ...]


def summarize(store: FileStore, layer: Layer, archive: BuiltArchive) -> Summary:
    """Count what an archive of a layer shows; raises NotFound where its features are gone."""
    return _summarize(_Content(archive.features_sha256, archive.features_path, store), layer.category, layer.time)


@dataclass(frozen=True)
class _Content:
    """Features that are known by their hash alone: what was counted once holds for the same bytes anywhere."""

    sha256: str
    path: str = field(compare=False)
    store: FileStore = field(compare=False)


@lru_cache(maxsize=_KEPT)
def _summarize(content: _Content, category: str | None, time: str | None) -> Summary:
    from pyarrow import parquet

    names = [ID, *(name for name in (category, time) if name is not None)]
    with content.store.open(content.path) as file:
        table = parquet.read_table(file, columns=names)
    by_category, by_period = (() if name is None else _shares(table[name]) for name in (category, time))
    ranked = sorted(by_category, key=lambda share: (-share.count, share.value))
    return Summary(len(table), tuple(ranked), tuple(sorted(by_period, key=lambda share: share.value)))


def _shares(column: Any) -> Iterable[Share]:
    """How often each value is there; features without one count for none, as in the cells of tiles."""
    return [Share(str(one["values"]), one["counts"]) for one in column.drop_null().value_counts().to_pylist()]


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature as a table shows it: its number, what it says, and the middle of its bounds in degrees."""

    id: int
    attributes: dict[str, Any]
    longitude: float
    latitude: float


def list_features(
    store: FileStore, archive: BuiltArchive, *, cursor: str | None = None, limit: int = 50
) -> Page[Feature]:
    """The features of an archive, in the order in which they were read.

    Raises InvalidInput(field="cursor"), NotFound where their file is gone.
    """
    import shapely
    from pyarrow import parquet

    listing = f"features:{archive.layer}:{archive.version}"
    (start,) = decode_cursor(listing, cursor, int) if cursor else (0,)
    start = max(int(start), 0)
    with store.open(archive.features_path) as file:
        opened = parquet.ParquetFile(file)
        found: list[dict[str, Any]] = []
        before = 0
        for group in range(opened.num_row_groups):
            rows = opened.metadata.row_group(group).num_rows
            if before + rows > start and len(found) <= limit:
                table = opened.read_row_group(group).slice(max(start - before, 0), limit + 1 - len(found))
                found += table.to_pylist()
            before += rows
    data = tuple(_feature(row, shapely.bounds(shapely.from_wkb(row[GEOMETRY]))) for row in found[:limit])
    return Page(data, encode_cursor(listing, start + limit) if len(found) > limit else None)


def _feature(row: dict[str, Any], bounds: Any) -> Feature:
    west, south, east, north = map(float, bounds)
    attributes = {name: value for name, value in row.items() if name not in (ID, GEOMETRY)}
    return Feature(int(row[ID]), attributes, (west + east) / 2, (south + north) / 2)
