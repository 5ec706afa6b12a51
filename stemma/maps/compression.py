"""Gzip, the one compression of tiles and directories: the same bytes from the same input, at any time.

zlib-ng makes tiles smaller than zlib does, in less than half of its time. Large tiles are compressed in pieces, each by
itself, whose lengths stand in the member's extra field (RFC 1952, §2.3.1.1): a piece that a change does not touch is
copied as it is. For every reader it is one ordinary member.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from zlib_ng import zlib_ng

_GZIP = 31
_LEVEL = 6
_RAW = -15
_HEADER = b"\x1f\x8b"
# Deflate with an extra field, no time, no word on the system.
_PIECES_HEADER = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff"
_PIECES = b"St"
_START = len(_PIECES_HEADER) + 6


class TooLong(ValueError):
    """What was compressed is longer than it may be."""


def compress(data: bytes) -> bytes:
    """One gzip member without name and time."""
    compressor = zlib_ng.compressobj(_LEVEL, zlib_ng.DEFLATED, _GZIP)
    return compressor.compress(data) + compressor.flush()


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes, and what they are compressed where that is known."""

    content: bytes
    packed: bytes | None = None

    @classmethod
    def unpacked(cls, packed: bytes) -> Piece:
        """The piece that `pieces` gave; raises ValueError where it is damaged."""
        try:
            return cls(bytes(zlib_ng.decompressobj(_RAW).decompress(packed)), packed)
        except zlib_ng.error as error:  # type: ignore[misc]  # typed as an instance
            raise ValueError(f"The gzip data are damaged: {error}.") from error


def compress_pieces(pieces: Iterable[Piece]) -> bytes:
    """One gzip member whose pieces can be told apart; the last one is compressed anew."""
    *first, last = pieces
    packed = [piece.packed or _deflated(piece.content, zlib_ng.Z_SYNC_FLUSH) for piece in first]
    packed.append(_deflated(last.content, zlib_ng.Z_FINISH))
    lengths = struct.pack(f"<{len(packed)}I", *map(len, packed))
    field = struct.pack("<H", 4 + len(lengths)) + _PIECES + struct.pack("<H", len(lengths)) + lengths
    checksum, length = 0, 0
    for piece in (*first, last):
        checksum, length = zlib_ng.crc32(piece.content, checksum), length + len(piece.content)
    return b"".join((_PIECES_HEADER, field, *packed, struct.pack("<2I", checksum, length)))


def _deflated(data: bytes, ending: int) -> bytes:
    compressor = zlib_ng.compressobj(_LEVEL, zlib_ng.DEFLATED, _RAW)
    return bytes(compressor.compress(data) + compressor.flush(ending))


def pieces(data: bytes) -> list[bytes]:
    """The pieces of a member as they are compressed; none where it was not made by `compress_pieces`."""
    if data[: len(_PIECES_HEADER)] != _PIECES_HEADER or data[_START - 4 : _START - 2] != _PIECES:
        return []
    size = int.from_bytes(data[_START - 2 : _START], "little")
    start = _START + size
    found = []
    for (length,) in struct.iter_unpack("<I", data[_START:start]):
        found.append(data[start : start + length])
        start += length
    return found


def decompress(data: bytes, limit: int) -> bytes:
    """What `compress` was given; raises ValueError for what is no whole gzip member, TooLong over `limit` bytes."""
    decompressor = zlib_ng.decompressobj(_GZIP)
    try:
        content: bytes = decompressor.decompress(data, limit)
    except zlib_ng.error as error:  # type: ignore[misc]  # typed as an instance
        raise ValueError(f"The gzip data are damaged: {error}.") from error
    if decompressor.unconsumed_tail:
        raise TooLong(f"The content is longer than {limit:,} bytes.")
    if not decompressor.eof:
        raise ValueError("The gzip data are cut off.")
    return content


def beginning(data: bytes, length: int) -> bytes:
    """The first bytes of what was compressed, at most so many."""
    return bytes(zlib_ng.decompressobj(_GZIP).decompress(data, length))


def is_gzip(data: bytes) -> bool:
    """Whether the data begin as gzip does."""
    return data[:2] == _HEADER
