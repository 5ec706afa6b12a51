"""Gzip, the one compression of tiles and directories: the same bytes from the same input, at any time.

zlib-ng makes tiles smaller than zlib does, in less than half of its time. Large tiles are compressed in pieces, each by
itself, of which the member's extra field tells (RFC 1952, §2.3.1.1): a piece that a change does not touch is copied as
it is, without being unpacked. For every reader it is one ordinary member.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from zlib_ng import zlib_ng

from stemma.maps import crc32

_GZIP = 31
_LEVEL = 6
_RAW = -15
_HEADER = b"\x1f\x8b"
# Deflate with an extra field, no time, no word on the system.
_PIECES_HEADER = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff"
_PIECES = b"St"
_PIECE = struct.Struct("<3I")
_START = len(_PIECES_HEADER) + 6


class TooLong(ValueError):
    """What was compressed is longer than it may be."""


def compress(data: bytes) -> bytes:
    """One gzip member without name and time."""
    compressor = zlib_ng.compressobj(_LEVEL, zlib_ng.DEFLATED, _GZIP)
    return compressor.compress(data) + compressor.flush()


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece as it is stored: its stream, the size of its content, and the CRC-32 of all after the first one."""

    stream: bytes
    size: int
    checksum: int


def compress_pieces(first: bytes, stored: Sequence[Piece], others: Sequence[bytes]) -> bytes:
    """One gzip member of several pieces: one that always changes, some that are stored already, and the others."""
    pieces = [Piece(_deflated(first, zlib_ng.Z_SYNC_FLUSH), len(first), 0), *stored]
    for place, content in enumerate(others, start=1):
        ending = zlib_ng.Z_FINISH if place == len(others) else zlib_ng.Z_SYNC_FLUSH
        checksum = zlib_ng.crc32(content, pieces[-1].checksum)
        pieces.append(Piece(_deflated(content, ending), len(content), checksum))
    told = b"".join(_PIECE.pack(len(piece.stream), piece.size, piece.checksum) for piece in pieces)
    field = struct.pack("<H", 4 + len(told)) + _PIECES + struct.pack("<H", len(told)) + told
    size = sum(piece.size for piece in pieces)
    checksum = crc32.joined(zlib_ng.crc32(first), pieces[-1].checksum, size - len(first))
    streams = (piece.stream for piece in pieces)
    return b"".join((_PIECES_HEADER, field, *streams, struct.pack("<2I", checksum, size)))


def _deflated(data: bytes, ending: int) -> bytes:
    compressor = zlib_ng.compressobj(_LEVEL, zlib_ng.DEFLATED, _RAW)
    return bytes(compressor.compress(data) + compressor.flush(ending))


def pieces_of(data: bytes) -> list[Piece]:
    """The pieces of a member; none where it was not made by `compress_pieces`."""
    if data[: len(_PIECES_HEADER)] != _PIECES_HEADER or data[_START - 4 : _START - 2] != _PIECES:
        return []
    start = _START + int.from_bytes(data[_START - 2 : _START], "little")
    found = []
    for length, size, checksum in _PIECE.iter_unpack(data[_START:start]):
        found.append(Piece(data[start : start + length], size, checksum))
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
