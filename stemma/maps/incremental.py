"""What a change costs: only the tiles that it touches are encoded, and the archive has the bytes of a full build.

A tile follows from its own points alone (`point_tiles`), so that the tiles of points that came, went or changed are all
that can differ; the others are copied as they are stored.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stemma.errors import InvalidInput
from stemma.maps import compression, grid, mvt
from stemma.maps.building import Built, Figures, Provenance, compressed, finish, mixed_bits
from stemma.maps.pmtiles import Archive, ArchiveWriter
from stemma.maps.point_tiles import PointLayer, PointTiles, runs
from stemma.maps.points import Points
from stemma.maps.varints import Integers

_BEGINNING = 300


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A rebuilt archive: how many tiles were encoded, and how many copied from the one before."""

    built: Built
    encoded: int
    copied: int


def rebuild_points(
    path: Path, previous: Path, before: Points, after: Points, layer: PointLayer, provenance: Provenance
) -> Rebuilt:
    """Write the archive of `after` to `path`, which may be `previous`: the archive of `before` by the same layer.

    The bytes are those of `build_points`. Raises what that raises, and InvalidInput(archive_stale) where `previous` is
    not of `before`.
    """
    tiles = PointTiles(after, layer)
    changed = changes(before, after)
    figures = Figures()
    encoded = copied = 0
    with Archive(previous) as archive, ArchiveWriter(path) as writer:
        stored = dict(archive.stored())
        for zoom in range(layer.min_zoom, layer.max_zoom + 1):
            wanted = runs(after, zoom)
            touched = np.isin(wanted.tiles, changed >> 2 * (grid.LEVELS - zoom))
            for tile, data in compressed(tiles.at(zoom, wanted.taken(np.flatnonzero(touched)))):
                writer.add(tile.id, data)
                figures.add(zoom, len(tile.content), tile.points, exact=tile.exact)
                encoded += 1
            kept = wanted.taken(np.flatnonzero(~touched))
            for key, count in zip(kept.tiles.tolist(), kept.counts.tolist(), strict=True):
                tile_id = grid.first_tile_id(zoom) + key
                if tile_id not in stored:
                    raise InvalidInput("archive_stale", f"{previous.name} was not made of the features before.")
                writer.add(tile_id, stored[tile_id])
                length, exact = _kept(stored[tile_id], layer)
                figures.add(zoom, length, count, exact=exact)
                copied += 1
        built = finish(writer, after, layer, provenance, tiles.cell_fields, figures)
    return Rebuilt(built, encoded, copied)


def _kept(data: bytes, layer: PointLayer) -> tuple[int, bool]:
    """The length of a stored tile before compression (gzip's own record, RFC 1952 §2.3.1), and whether it is exact."""
    name = layer.cells.encode()
    beginning = compression.beginning(data, _BEGINNING)
    return int.from_bytes(data[-4:], "little"), b"\x0a" + bytes([len(name)]) + name not in beginning[: len(name) + 16]


def changes(before: Points, after: Points) -> Integers:
    """The keys of places where a point came, went or changed."""
    old, new = _fingerprints(before), _fingerprints(after)
    gone, come = ~np.isin(old, new), ~np.isin(new, old)
    return np.unique(np.concatenate((before.keys[gone], after.keys[come])))


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
