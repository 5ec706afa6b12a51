"""What was decoded of a tile before is not decoded again: the same bytes hold the same features.

A part is a run of whole features of a tile that holds one layer: what `exact` compresses by itself, or all features of
a smaller tile. What it holds is kept under the SHA-256 of its bytes, so that of a tile that changed the parts that stay
are known; and under that of the tile as it is stored, which parts it has, so that one that stays is not even unpacked.
A check looks at every feature, remembered or not: a memory, which need not be of the same archive, changes what a check
costs and never what it finds. It lies in a folder of the studio's own and is believed as far as that is.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from stemma.maps import compression, varints
from stemma.maps.decoding import Layer, PointFeatures, decode, decode_points
from stemma.store.files import staged
from stemma.store.settings import Settings

_VERSION: Final = 1
"""Changes when the same bytes would be decoded otherwise."""

_MOST: Final = 64 << 20
"""So many bytes are kept at most; tiles beyond are decoded each time."""

_FEATURE_BYTES, _RECORD_BYTES = 16, 64

_OF_TILES: Final = ("tile_parts", "frames")
_LAYER, _NAME, _FEATURE = 0x1A, 0x0A, 0x12


def memory_file(settings: Settings, layer: str) -> Path:
    """Where what was decoded of a layer of the studio is kept."""
    return settings.home / "maps" / f"{layer}.npz"


@dataclass(frozen=True, slots=True)
class _Tile:
    """A tile as its parts, by their digests, and what is around them: the tile that is left without them."""

    parts: tuple[bytes, ...]
    frame: bytes


class PartMemory:
    """What was decoded of tiles. Made of what was `known`, it keeps what is met again, and what is new."""

    def __init__(
        self, known: Mapping[bytes, PointFeatures] | None = None, tiles: Mapping[bytes, _Tile] | None = None
    ) -> None:
        self._known = known or {}
        self._known_tiles = tiles or {}
        self._met: dict[bytes, PointFeatures] = {}
        self._met_tiles: dict[bytes, _Tile] = {}
        self._room = _MOST
        self.decoded = 0

    @classmethod
    def load(cls, path: Path) -> Self:
        """What was kept in a file; nothing where there is none, or a damaged one."""
        try:
            with np.load(path, allow_pickle=False) as kept:
                return cls(*_parsed(kept)) if int(kept["version"]) == _VERSION else cls()
        except (OSError, EOFError, ValueError, IndexError, KeyError, zipfile.BadZipFile):
            return cls()

    def save(self, path: Path) -> None:
        """Keep what was met; raises Unavailable where the disk refuses."""
        written = io.BytesIO()
        np.savez(written, allow_pickle=False, version=_VERSION, **_columns(self._met, self._met_tiles))
        with staged(path.parent) as file:
            file.write(written.getvalue())
            file.flush()
            file.replace(path)

    def recall(self, stored: bytes) -> list[Layer] | None:
        """The layers of a tile as an archive has it, where they are known."""
        digest = hashlib.sha256(stored).digest()
        tile = self._met_tiles.get(digest, self._known_tiles.get(digest))
        if tile is None:
            return None
        parts = [self._met[part] if part in self._met else self._known[part] for part in tile.parts]
        self._keep(digest, tile, parts)
        return _layers(tile.frame, parts)

    def decode(self, content: bytes, stored: bytes) -> list[Layer]:
        """The layers of a tile, of which `stored` is what the archive has; raises as `decoding.decode` does."""
        cuts = _cuts(content, stored)
        pieces = [content[start:end] for start, end in pairwise(cuts)]
        digests = tuple(hashlib.sha256(piece).digest() for piece in pieces)
        parts: list[PointFeatures] = []
        for digest, piece in zip(digests, pieces, strict=True):
            part = self._met.get(digest, self._known.get(digest))
            if part is None:
                part = self._decoded(piece)
            if part is None:
                return decode(content)
            parts.append(part)
        if not parts:
            return decode(content)
        tile = _Tile(digests, _without(content, cuts[0], cuts[-1]))
        layers = _layers(tile.frame, parts)
        self._keep(hashlib.sha256(stored).digest(), tile, parts)
        return layers

    def _decoded(self, piece: bytes) -> PointFeatures | None:
        part = decode_points(piece)
        self.decoded += 0 if part is None else len(part)
        return part

    def _keep(self, digest: bytes, tile: _Tile, parts: Sequence[PointFeatures]) -> None:
        if digest in self._met_tiles:
            return
        new = {key: part for key, part in zip(tile.parts, parts, strict=True) if key not in self._met}
        size = _RECORD_BYTES + len(tile.frame)
        size += sum(_RECORD_BYTES + _FEATURE_BYTES * (len(part) + len(part.tags)) for part in new.values())
        if size <= self._room:
            self._met |= new
            self._met_tiles[digest] = tile
            self._room -= size


def _columns(parts: Mapping[bytes, PointFeatures], tiles: Mapping[bytes, _Tile]) -> dict[str, NDArray[Any]]:
    """Parts and tiles as arrays, for a file."""
    place = {digest: number for number, digest in enumerate(parts)}
    none = np.zeros((0, 2), np.int64)
    return {
        "digests": _digests(parts),
        "counts": np.array([(len(part), len(part.tags)) for part in parts.values()], np.int64).reshape(-1, 2),
        "ids": np.concatenate([np.zeros(0, np.uint64), *(part.ids for part in parts.values())]),
        "places": np.concatenate([none, *(part.places for part in parts.values())]).astype(np.int32),
        "tags": np.concatenate([none, *(part.tags for part in parts.values())]),
        "tile_digests": _digests(tiles),
        "tile_counts": np.array([(len(tile.parts), len(tile.frame)) for tile in tiles.values()]).reshape(-1, 2),
        "tile_parts": np.array([place[part] for tile in tiles.values() for part in tile.parts], np.int64),
        "frames": np.frombuffer(b"".join(tile.frame for tile in tiles.values()), np.uint8),
    }


def _digests(keys: Iterable[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, hashlib.sha256().digest_size)


def _parsed(kept: Mapping[str, NDArray[Any]]) -> tuple[dict[bytes, PointFeatures], dict[bytes, _Tile]]:
    """What `_columns` made arrays of; raises ValueError or KeyError for something else."""
    ids, places, tags = (
        _split(kept[name], kept["counts"][:, place]) for name, place in (("ids", 0), ("places", 0), ("tags", 1))
    )
    digests = [row.tobytes() for row in kept["digests"]]
    parts = {digest: PointFeatures(*part) for digest, *part in zip(digests, ids, places, tags, strict=True)}
    of_tiles, frames = (_split(kept[name], kept["tile_counts"][:, place]) for place, name in enumerate(_OF_TILES))
    tiles = {
        row.tobytes(): _Tile(tuple(digests[number] for number in numbers), frame.tobytes())
        for row, numbers, frame in zip(kept["tile_digests"], of_tiles, frames, strict=True)
    }
    return parts, tiles


def _split(values: NDArray[Any], counts: NDArray[Any]) -> list[NDArray[Any]]:
    ends = np.cumsum(counts).tolist()
    return [values[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _layers(frame: bytes, parts: Sequence[PointFeatures]) -> list[Layer]:
    return [replace(layer, points=tuple(parts)) for layer in decode(frame)]


def _cuts(content: bytes, stored: bytes) -> list[int]:
    """Where parts begin, and where the last one ends; nothing for a tile that is laid out in another way."""
    try:
        start = _features_start(content)
        if start is None:
            return []
        sizes = [piece.size for piece in compression.pieces_of(stored)]
        if not sizes:
            return [start, _features_end(content, start)]
    except IndexError:
        return []
    cuts: list[int] = np.cumsum(sizes[:-1]).tolist()
    return cuts if cuts[0] == start else []


def _features_start(content: bytes) -> int | None:
    """Where features may begin in a tile that is one layer, which begins with its name."""
    if content[0] != _LAYER:
        return None
    size, place = _varint(content, 1)
    if place + size != len(content) or content[place] != _NAME:
        return None
    length, place = _varint(content, place + 1)
    return place + length


def _features_end(content: bytes, place: int) -> int:
    while content[place] == _FEATURE:
        size, place = _varint(content, place + 1)
        place += size
    return place


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = shift = 0
    while content[place] > 127:
        value |= (content[place] & 127) << shift
        place, shift = place + 1, shift + 7
    return value | content[place] << shift, place + 1


def _without(content: bytes, start: int, end: int) -> bytes:
    """The tile without its parts."""
    _, place = _varint(content, 1)
    rest = content[place:start] + content[end:]
    return bytes([_LAYER]) + varints.one(len(rest)) + rest
