"""What a change costs: only the tiles that it touches are encoded, and the archive has the bytes of a full build.

A tile follows from its own points alone (`point_tiles`), so that the tiles of points that came, went or changed are all
that can differ; the others are copied as they are stored. Of a large tile that differs, the parts before the first
month with a change are copied (`exact`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stemma.errors import InvalidInput
from stemma.maps import compression, grid, mvt
from stemma.maps.building import Built, Figures, Provenance, compressed, finish, mixed_bits
from stemma.maps.exact import Lent
from stemma.maps.pmtiles import Archive, ArchiveWriter
from stemma.maps.point_tiles import PointLayer, PointTiles, Tile
from stemma.maps.points import BATCH_BITS, Points
from stemma.maps.runs import Runs, runs
from stemma.maps.varints import Integers

_BEGINNING = 300


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A rebuilt archive: how many tiles were encoded, and how many copied from the one before."""

    built: Built
    encoded: int
    copied: int


def rebuild_points(
    path: Path,
    previous: Path,
    before: Points,
    after: Points,
    layer: PointLayer,
    provenance: Provenance,
    same: Sequence[int] = (),
) -> Rebuilt:
    """Write the archive of `after` to `path`, which may be `previous`: the archive of `before` by the same layer.

    `same` names batches that are known not to have changed (`features.same_batches`); `before` may lack them. The bytes
    are those of `build_points`. Raises what that raises, and InvalidInput(archive_stale) where `previous` is not of
    `before`.
    """
    tiles = PointTiles(after, layer)
    changed = changes(before, after, same)
    figures = Figures()
    encoded = copied = 0
    with Archive(previous) as archive, ArchiveWriter(path) as writer:
        stored = dict(archive.stored())
        touched, kept = _divided(after, layer, changed)
        for tile, data in compressed(_encoded(tiles, touched, stored, changed)):
            writer.add(tile.id, data)
            figures.add(tile.zoom, tile.size, tile.points, exact=tile.exact)
            encoded += 1
        for zoom, others in kept.items():
            for key, count in zip(others.tiles.tolist(), others.counts.tolist(), strict=True):
                tile_id = grid.first_tile_id(zoom) + key
                if tile_id not in stored:
                    raise InvalidInput("archive_stale", f"{previous.name} was not made of the features before.")
                writer.add(tile_id, stored[tile_id])
                length, exact = _kept(stored[tile_id], layer)
                figures.add(zoom, length, count, exact=exact)
                copied += 1
        built = finish(writer, after, layer, provenance, tiles.cell_fields, figures)
    return Rebuilt(built, encoded, copied)


def _divided(after: Points, layer: PointLayer, changed: Changes) -> tuple[dict[int, Runs], dict[int, Runs]]:
    """The tiles of each zoom that a change touches, and the others."""
    touched, kept = {}, {}
    for zoom in range(layer.min_zoom, layer.max_zoom + 1):
        wanted = runs(after, zoom)
        differ = np.isin(wanted.tiles, changed.tiles(zoom))
        touched[zoom], kept[zoom] = wanted.taken(np.flatnonzero(differ)), wanted.taken(np.flatnonzero(~differ))
    return touched, kept


def _encoded(
    tiles: PointTiles, touched: Mapping[int, Runs], stored: Mapping[int, bytes], changed: Changes
) -> Iterator[list[Tile]]:
    for zoom, wanted in touched.items():
        yield from tiles.at(zoom, wanted, _lent(stored, zoom, changed))


def _lent(stored: Mapping[int, bytes], zoom: int, changed: Changes) -> dict[int, Lent]:
    """What the tiles of the archive before lend to those that differ."""
    first = grid.first_tile_id(zoom)
    found = (
        (key, batch, compression.pieces_of(stored.get(first + key, b""))) for key, batch in changed.batches_of(zoom)
    )
    return {key: Lent(pieces, batch) for key, batch, pieces in found if pieces}


def _kept(data: bytes, layer: PointLayer) -> tuple[int, bool]:
    """The length of a stored tile before compression (gzip's own record, RFC 1952 §2.3.1), and whether it is exact."""
    name = layer.cells.encode()
    beginning = compression.beginning(data, _BEGINNING)
    return int.from_bytes(data[-4:], "little"), b"\x0a" + bytes([len(name)]) + name not in beginning[: len(name) + 16]


@dataclass(frozen=True, slots=True)
class Changes:
    """Where points came, went or changed: their keys, ascending, and their batches."""

    keys: Integers
    batches: Integers

    def tiles(self, zoom: int) -> Integers:
        """The tiles of a zoom that differ, by their place on its curve."""
        return np.unique(self.keys >> 2 * (grid.LEVELS - zoom))

    def batches_of(self, zoom: int) -> Iterator[tuple[int, int]]:
        """Each of these tiles with the first batch in which a point of it changed."""
        tile = self.keys >> 2 * (grid.LEVELS - zoom)
        starts = np.flatnonzero(np.diff(tile, prepend=-1))
        if len(starts):
            yield from zip(tile[starts].tolist(), np.minimum.reduceat(self.batches, starts).tolist(), strict=True)


def changes(before: Points, after: Points, same: Sequence[int] = ()) -> Changes:
    """The points that came, went or changed in other batches than those that are known to be the same."""
    before, after = (_others(points, same) for points in (before, after))
    old, new = _fingerprints(before), _fingerprints(after)
    old_batches, new_batches = before.ids >> BATCH_BITS, after.ids >> BATCH_BITS
    gone, come = np.flatnonzero(~np.isin(old, new)), np.flatnonzero(~np.isin(new, old))
    keys = np.concatenate((before.keys[gone], after.keys[come]))
    order = np.argsort(keys, kind="stable")
    return Changes(keys[order], np.concatenate((old_batches[gone], new_batches[come]))[order])


def _others(points: Points, batches: Sequence[int]) -> Points:
    return points.taken(np.flatnonzero(~np.isin(points.ids >> BATCH_BITS, batches))) if batches else points


def _fingerprints(points: Points) -> NDArray[np.uint64]:
    """64 bits for each point that depend on all that a tile says of it."""
    mixed = mixed_bits(points.ids.astype(np.uint64)) ^ points.keys.astype(np.uint64)
    for column in points.columns:
        words = [mvt.value_message(value) for value in column.values]
        hashed = np.array([*(_hash(word) for word in words), 0], np.uint64)
        mixed = mixed_bits(mixed) ^ hashed[column.codes]
    return mixed_bits(mixed)


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
