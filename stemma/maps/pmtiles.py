"""PMTiles v3 archives: header, directories, and how an archive is written whole and read by parts.

The format is https://github.com/protomaps/PMTiles/blob/main/spec/v3/spec.md. Written archives are clustered and
deduplicated, and the same tiles give the same bytes. What is inside a tile is not known here.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from stemma.errors import InvalidInput, NotFound, Unavailable
from stemma.maps import compression, varints
from stemma.maps.grid import zoom_of
from stemma.maps.varints import Integers
from stemma.store.files import storage_error

MAGIC = b"PMTiles"
VERSION = 3
HEADER_BYTES = 127
ROOT_BYTES = 16_384
NONE, GZIP = 1, 2
MVT = 1
CONTENT_LIMIT = 64 << 20
"""No tile that anybody draws is larger without its compression (bytes)."""

_HEADER = struct.Struct("<7sB8Q3Q3B3B4iB2i")
_LEAF_ENTRIES = 4096
_ENTRY_LIMIT = 1 << 24
_METADATA_LIMIT = 16 << 20


@dataclass(frozen=True, slots=True)
class Bounds:
    """West, south, east and north in degrees of WGS 84."""

    west: float
    south: float
    east: float
    north: float

    def joined(self, other: Bounds) -> Bounds:
        """What holds both."""
        return Bounds(
            min(self.west, other.west),
            min(self.south, other.south),
            max(self.east, other.east),
            max(self.north, other.north),
        )


@dataclass(frozen=True, slots=True)
class Header:
    """The first 127 bytes, in the order of the specification (§3); offsets and lengths in bytes."""

    root_offset: int
    root_length: int
    metadata_offset: int
    metadata_length: int
    leaves_offset: int
    leaves_length: int
    data_offset: int
    data_length: int
    addressed_tiles: int
    tile_entries: int
    tile_contents: int
    clustered: int
    internal_compression: int
    tile_compression: int
    tile_type: int
    min_zoom: int
    max_zoom: int
    west_e7: int
    south_e7: int
    east_e7: int
    north_e7: int
    center_zoom: int
    center_longitude_e7: int
    center_latitude_e7: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the header; raises ValueError for what is none, or is one of another version."""
        if len(data) < HEADER_BYTES:
            raise ValueError("It is shorter than a PMTiles header.")
        magic, version, *fields = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise ValueError("It does not begin as a PMTiles archive does.")
        if version != VERSION:
            raise ValueError(f"It is a PMTiles archive of version {version}; version {VERSION} is read here.")
        return cls(*fields)

    def packed(self) -> bytes:
        """The header's bytes."""
        return _HEADER.pack(MAGIC, VERSION, *(getattr(self, name) for name in self.__slots__))

    @property
    def bounds(self) -> Bounds:
        """The bounds in degrees."""
        return Bounds(*(edge / 1e7 for edge in (self.west_e7, self.south_e7, self.east_e7, self.north_e7)))


@dataclass(frozen=True, slots=True)
class Directory:
    """Entries of one or of all directories: `runs` of 0 point at leaf directories; offsets are relative."""

    ids: Integers
    offsets: Integers
    lengths: Integers
    runs: Integers

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, end: int) -> Directory:
        """The entries from `start` to before `end`."""
        return Directory(self.ids[start:end], self.offsets[start:end], self.lengths[start:end], self.runs[start:end])

    def packed(self) -> bytes:
        """The entries as one compressed directory (§4)."""
        follows = np.zeros(len(self), bool)
        follows[1:] = self.offsets[1:] == self.offsets[:-1] + self.lengths[:-1]
        columns = (
            np.array([len(self)]),
            np.diff(self.ids, prepend=0),
            self.runs,
            self.lengths,
            np.where(follows, 0, self.offsets + 1),
        )
        return compression.compress(varints.encode(np.concatenate(columns)).tobytes())

    @classmethod
    def parse(cls, data: bytes, compressed: int) -> Directory:
        """Read one directory; raises ValueError where it is damaged."""
        content = _uncompressed(data, compressed, 10 * 4 * _ENTRY_LIMIT)
        values = varints.decode(np.frombuffer(content, np.uint8))
        if not len(values) or len(values) != 1 + 4 * int(values[0]):
            raise ValueError("A directory does not hold as many entries as it says.")
        deltas, runs, lengths, places = values[1:].reshape(4, -1)
        if len(places) and places[0] == 0:
            raise ValueError("The first entry of a directory has no offset.")
        return cls(np.cumsum(deltas), _offsets(places, lengths), lengths, runs)


def _offsets(places: Integers, lengths: Integers) -> Integers:
    """Offsets, in which 0 stands for 'where the entry before ends'."""
    before = np.cumsum(lengths) - lengths
    given = np.flatnonzero(places)
    since = given[np.cumsum(places != 0) - 1] if len(places) else given
    offsets: Integers = places[since] - 1 + before - before[since]
    return offsets


def _uncompressed(data: bytes, compressed: int, limit: int) -> bytes:
    if compressed == NONE:
        return data
    if compressed != GZIP:
        raise ValueError(f"Compression {compressed} is not read here; 1 (none) and 2 (gzip) are.")
    return compression.decompress(data, limit)


class Archive:
    """An archive that is open for reading. A context manager; one reader may serve many threads.

    Raises NotFound where there is no file, and InvalidInput(archive_invalid) for what is no archive that can be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else None
        except FileNotFoundError as error:
            raise NotFound("archive_not_found", f"There is no archive {path.name}.") from error
        except OSError as error:
            problem = f"{path.name} cannot be read: {error.strerror or error}."
            raise Unavailable("archive_unreadable", problem) from error
        self.name = path.name
        try:
            self.header = Header.parse(self.span(0, HEADER_BYTES))
        except ValueError as error:
            self.close()
            raise InvalidInput("archive_invalid", f"{path.name} is not a PMTiles v3 archive. {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._map is not None:
            self._map.close()

    def span(self, offset: int, length: int) -> bytes:
        """Bytes of the file, fewer where it ends."""
        return self._map[offset : offset + length] if self._map is not None else b""

    def root(self) -> Directory:
        """The root directory; raises ValueError where it is damaged."""
        data = self.span(self.header.root_offset, self.header.root_length)
        return Directory.parse(data, self.header.internal_compression)

    def leaf(self, offset: int, length: int) -> Directory:
        """The leaf directory that an entry of the root points at; raises ValueError where it is damaged."""
        data = self.span(self.header.leaves_offset + offset, length)
        return Directory.parse(data, self.header.internal_compression)

    def entries(self) -> Directory:
        """Every tile entry in the order of the directories; raises ValueError where one is damaged."""
        root = self.root()
        parts = []
        at_leaves = np.flatnonzero(root.runs == 0)
        start = 0
        for place in map(int, at_leaves):
            leaf = self.leaf(int(root.offsets[place]), int(root.lengths[place]))
            if not leaf.runs.all():
                raise ValueError("A leaf directory points at another one.")
            parts += [root.part(start, place), leaf]
            start = place + 1
        parts.append(root.part(start, len(root)))
        names = ("ids", "offsets", "lengths", "runs")
        return Directory(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def stored(self) -> Iterator[tuple[int, bytes]]:
        """Every tile as (id, stored bytes), in the order of ids."""
        entries = self.entries()
        for place in map(int, np.argsort(entries.ids, kind="stable")):
            data = self.span(self.header.data_offset + int(entries.offsets[place]), int(entries.lengths[place]))
            first = int(entries.ids[place])
            for tile_id in range(first, first + int(entries.runs[place])):
                yield tile_id, data

    def content(self, data: bytes, limit: int = CONTENT_LIMIT) -> bytes:
        """A tile without its compression; raises ValueError, and `compression.TooLong` over `limit` bytes."""
        return _uncompressed(data, self.header.tile_compression, limit)

    def metadata(self) -> dict[str, Any]:
        """The metadata document; raises ValueError where it is no JSON object."""
        data = self.span(self.header.metadata_offset, self.header.metadata_length)
        found = json.loads(_uncompressed(data, self.header.internal_compression, _METADATA_LIMIT))
        if not isinstance(found, dict):
            raise ValueError("The metadata are not a JSON object.")
        return found


class ArchiveWriter:
    """An archive of vector tiles in the making: add tiles in any order, then `finish`.

    A context manager. The file appears whole, in place of the one before, or not at all. Tiles wait in a temporary file
    beside it; memory holds some 60 bytes for each. Raises Unavailable where the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._spool = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115
        except OSError as error:
            raise storage_error(error) from error
        self._ids: list[int] = []
        self._contents: list[int] = []
        self._places: list[tuple[int, int]] = []
        self._known: dict[bytes, int] = {}
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    def add(self, tile_id: int, data: bytes) -> None:
        """Keep one compressed tile; the same bytes are kept once."""
        digest = hashlib.blake2b(data, digest_size=16).digest()
        content = self._known.setdefault(digest, len(self._places))
        if content == len(self._places):
            try:
                self._spool.write(data)
            except OSError as error:
                raise storage_error(error) from error
            self._places.append((self._end, len(data)))
            self._end += len(data)
        self._ids.append(tile_id)
        self._contents.append(content)

    def finish(self, bounds: Bounds, center_zoom: int, metadata: Mapping[str, Any]) -> Header:
        """Write the archive and give its header.

        Raises InvalidInput(layer_empty) where no tile was added, ValueError where one was added twice.
        """
        if not self._ids:
            raise InvalidInput("layer_empty", "There is nothing to make tiles of.")
        order = np.argsort(np.array(self._ids, np.int64), kind="stable")
        ids, contents = np.array(self._ids, np.int64)[order], np.array(self._contents, np.int64)[order]
        if len(ids) > 1 and not (np.diff(ids) > 0).all():
            raise ValueError("A tile was added twice.")
        _, first = np.unique(contents, return_index=True)
        in_file = contents[np.sort(first)]
        places = np.array(self._places, np.int64)
        lengths = places[:, 1]
        offsets = np.empty(len(places), np.int64)
        offsets[in_file] = np.cumsum(lengths[in_file]) - lengths[in_file]
        entries = _run_lengths(ids, offsets[contents], lengths[contents])
        root, leaves = _directories(entries)
        described = compression.compress(_canonical(metadata))
        header = _header(bounds, center_zoom, ids, len(entries), len(places), root, described, leaves, self._end)
        self._write(header.packed() + root + described + leaves, places[in_file])
        return header

    def _write(self, head: bytes, places: Integers) -> None:
        """The head and then the contents from the spool, in the order given."""
        try:
            self._spool.flush()
            with tempfile.NamedTemporaryFile(dir=self._path.parent, delete=False) as file:
                try:
                    file.write(head)
                    self._copy(places, file)
                    file.flush()
                    os.fsync(file.fileno())
                    Path(file.name).chmod(0o644)
                    Path(file.name).replace(self._path)
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise storage_error(error) from error

    def _copy(self, places: Integers, file: IO[bytes]) -> None:
        if not len(places):
            return
        with mmap.mmap(self._spool.fileno(), 0, access=mmap.ACCESS_READ) as spool:
            for offset, length in places.tolist():
                file.write(spool[offset : offset + length])


def _canonical(metadata: Mapping[str, Any]) -> bytes:
    return json.dumps(metadata, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _run_lengths(ids: Integers, offsets: Integers, lengths: Integers) -> Directory:
    """One entry for each run of neighbouring tiles with the same content."""
    starts = np.ones(len(ids), bool)
    starts[1:] = (np.diff(ids) != 1) | (np.diff(offsets) != 0)
    first = np.flatnonzero(starts)
    return Directory(ids[first], offsets[first], lengths[first], np.diff(first, append=len(ids)))


def _directories(entries: Directory) -> tuple[bytes, bytes]:
    """The root directory and the leaves: none where all entries fit the root (§4.2: the first 16 KiB)."""
    room = ROOT_BYTES - HEADER_BYTES
    root = entries.packed() if len(entries) <= ROOT_BYTES else b""
    if root and len(root) <= room:
        return root, b""
    size = _LEAF_ENTRIES
    while True:
        starts = np.arange(0, len(entries), size)
        leaves = [entries.part(start, start + size).packed() for start in starts.tolist()]
        lengths = np.array([len(leaf) for leaf in leaves])
        pointers = Directory(entries.ids[starts], np.cumsum(lengths) - lengths, lengths, np.zeros_like(lengths))
        root = pointers.packed()
        if len(root) <= room:
            return root, b"".join(leaves)
        size *= 2


def _header(
    bounds: Bounds,
    center_zoom: int,
    ids: Integers,
    entries: int,
    contents: int,
    root: bytes,
    metadata: bytes,
    leaves: bytes,
    data_length: int,
) -> Header:
    west, south, east, north = (round(edge * 1e7) for edge in (bounds.west, bounds.south, bounds.east, bounds.north))
    metadata_offset = HEADER_BYTES + len(root)
    leaves_offset = metadata_offset + len(metadata)
    return Header(
        root_offset=HEADER_BYTES,
        root_length=len(root),
        metadata_offset=metadata_offset,
        metadata_length=len(metadata),
        leaves_offset=leaves_offset,
        leaves_length=len(leaves),
        data_offset=leaves_offset + len(leaves),
        data_length=data_length,
        addressed_tiles=len(ids),
        tile_entries=entries,
        tile_contents=contents,
        clustered=1,
        internal_compression=GZIP,
        tile_compression=GZIP,
        tile_type=MVT,
        min_zoom=zoom_of(int(ids[0])),
        max_zoom=zoom_of(int(ids[-1])),
        west_e7=west,
        south_e7=south,
        east_e7=east,
        north_e7=north,
        center_zoom=center_zoom,
        center_longitude_e7=(west + east) // 2,
        center_latitude_e7=(south + north) // 2,
    )
