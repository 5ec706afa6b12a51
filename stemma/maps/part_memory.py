"""Parts of tiles that were decoded before are not decoded again: the same bytes hold the same features.

A part is a run of whole features of a tile that holds one layer: what `exact` compresses by itself, or all features of
a smaller tile. What it holds is kept under the SHA-256 of its bytes; what surrounds it is decoded each time, and a check
looks at every feature whether it was remembered or not. So a memory, which need not be of the same archive, changes
what a check costs and never what it finds. It lies in a folder of the studio's own and is believed as far as that is.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import numpy as np

from stemma.maps import compression, varints
from stemma.maps.decoding import Layer, PointFeatures, decode, decode_points
from stemma.store.files import staged
from stemma.store.settings import Settings

_VERSION: Final = 1
"""Changes when the same bytes would be decoded otherwise."""

_MOST: Final = 1 << 22
"""So many features are kept at most, 16 bytes each; parts beyond are decoded each time."""

_LAYER, _NAME, _FEATURE = 0x1A, 0x0A, 0x12


def memory_file(settings: Settings, layer: str) -> Path:
    """Where what was decoded of a layer of the studio is kept."""
    return settings.home / "maps" / f"{layer}.npz"


class PartMemory:
    """What was decoded of parts. Made of `known` ones, it keeps those that are met again, and new ones."""

    def __init__(self, known: Mapping[bytes, PointFeatures] | None = None) -> None:
        self._known = known or {}
        self._met: dict[bytes, PointFeatures] = {}
        self._room = _MOST
        self.decoded = 0

    @classmethod
    def load(cls, path: Path) -> Self:
        """What was kept in a file; nothing where there is none, or a damaged one."""
        try:
            with np.load(path, allow_pickle=False) as kept:
                if int(kept["version"]) != _VERSION:
                    return cls()
                ends, tag_ends = np.cumsum(kept["counts"], axis=0).T[:, :-1]
                ids, places, tags = (kept[name] for name in ("ids", "places", "tags"))
                digests = [row.tobytes() for row in kept["digests"]]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return cls()
        found = zip(np.split(ids, ends), np.split(places, ends), np.split(tags, tag_ends), strict=True)
        return cls({digest: PointFeatures(*part) for digest, part in zip(digests, found, strict=True)})

    def save(self, path: Path) -> None:
        """Keep the parts that were met; raises Unavailable where the disk refuses."""
        parts = self._met.values()
        counts = np.array([(len(part), len(part.tags)) for part in parts], np.int64).reshape(-1, 2)
        none = np.zeros((0, 2), np.int64)
        written = io.BytesIO()
        np.savez(
            written,
            version=_VERSION,
            digests=np.frombuffer(b"".join(self._met), np.uint8).reshape(-1, hashlib.sha256().digest_size),
            counts=counts,
            ids=np.concatenate([np.zeros(0, np.uint64), *(part.ids for part in parts)]),
            places=np.concatenate([none, *(part.places for part in parts)]).astype(np.int32),
            tags=np.concatenate([none, *(part.tags for part in parts)]),
        )
        with staged(path.parent) as file:
            file.write(written.getbuffer())
            file.flush()
            file.replace(path)

    def decode(self, content: bytes, stored: bytes) -> list[Layer]:
        """The layers of a tile, of which `stored` is what the archive has; raises as `decoding.decode` does."""
        cuts = _cuts(content, stored)
        found: list[PointFeatures] = []
        for start, end in zip(cuts, cuts[1:], strict=False):
            part = self._part(content[start:end])
            if part is None:
                return decode(content)
            found.append(part)
        if not found:
            return decode(content)
        (layer,) = decode(_without(content, cuts[0], cuts[-1]))
        return [
            Layer(layer.name, layer.version, layer.extent, layer.keys, layer.values, layer.features, tuple(found))
        ]

    def _part(self, data: bytes) -> PointFeatures | None:
        digest = hashlib.sha256(data).digest()
        part = self._met.get(digest) or self._known.get(digest)
        if part is None:
            part = decode_points(data)
            self.decoded += len(part or ())
        if part is not None and digest not in self._met and len(part) <= self._room:
            self._met[digest] = part
            self._room -= len(part)
        return part


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
