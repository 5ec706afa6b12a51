"""What a map shows, in numbers and words: counts by category and by period, and the features themselves in pages.

Counts are read from the tiles of the first zoom, which stand for every feature; features from their GeoParquet. What a
map cannot say to everybody, a table does.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from stemma.maps.catalog import BuiltArchive
from stemma.maps.cells import COUNT, counted_as
from stemma.maps.decoding import decode
from stemma.maps.features import GEOMETRY, ID
from stemma.maps.layers import Layer
from stemma.maps.reading import TileReader
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
    """Count what an archive of a layer shows; raises NotFound where its file is gone, InvalidInput(archive_invalid)."""
    return _summarize(_Content(archive.sha256, archive.path, store), layer.id, layer.category, layer.time)


@dataclass(frozen=True)
class _Content:
    """An archive that is known by its hash alone: what was counted once holds for the same bytes anywhere."""

    sha256: str
    path: str
    store: FileStore

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Content) and other.sha256 == self.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)


@lru_cache(maxsize=_KEPT)
def _summarize(content: _Content, name: str, category: str | None, time: str | None) -> Summary:
    by_category: Counter[str] = Counter()
    by_period: Counter[str] = Counter()
    shapes: dict[int, dict[str, Any]] = {}
    features = 0
    with content.store.open(content.path) as file:
        reader = TileReader(file)
        for tile in reader.at(reader.header.min_zoom):
            for layer in decode(tile.content()):
                for feature in layer.features:
                    said = layer.attributes(feature)
                    if layer.name == name:
                        # A shape may lie in several tiles, and is one.
                        shapes[feature.id] = said
                        continue
                    features += int(said.get(COUNT, 0))
                    _add_counted(by_category, said, category)
                    _add_counted(by_period, said, time)
    for said in shapes.values():
        features += 1
        for counter, attribute in ((by_category, category), (by_period, time)):
            if attribute in said:
                counter[str(said[attribute])] += 1
    ranked = sorted(by_category.items(), key=lambda item: (-item[1], item[0]))
    return Summary(
        features,
        tuple(Share(value, count) for value, count in ranked),
        tuple(Share(value, count) for value, count in sorted(by_period.items())),
    )


def _add_counted(counter: Counter[str], said: dict[str, Any], attribute: str | None) -> None:
    if attribute is not None:
        prefix = counted_as(attribute, "")
        for key, count in said.items():
            if key.startswith(prefix):
                counter[key.removeprefix(prefix)] += int(count)


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
