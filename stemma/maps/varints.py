"""Variable-length integers of Protocol Buffers (LEB128), many at once.

Vector tiles and PMTiles directories are sequences of these, so that both are encoded here and by numpy alone. Values
are not negative and below 2^63; what a value means is not known here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]


def sizes(values: Integers) -> Integers:
    """How many bytes each value takes."""
    lengths = np.ones(len(values), np.int64)
    large = np.flatnonzero(values > 127)
    rest = values[large] >> 7
    while len(large):
        lengths[large] += 1
        more = rest > 127
        large, rest = large[more], rest[more] >> 7
    return lengths


def encode(values: Integers, lengths: Integers | None = None) -> Bytes:
    """The values one after the other; `lengths` are their `sizes`, where they are known already."""
    if lengths is None:
        lengths = sizes(values)
    ends = np.cumsum(lengths)
    encoded = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    places = ends - lengths
    encoded[places] = (values & 127) | ((lengths > 1) << 7)
    large = np.flatnonzero(lengths > 1)
    rest, places, lengths = values[large] >> 7, places[large] + 1, lengths[large] - 1
    while len(rest):
        encoded[places] = (rest & 127) | ((lengths > 1) << 7)
        more = np.flatnonzero(lengths > 1)
        rest, places, lengths = rest[more] >> 7, places[more] + 1, lengths[more] - 1
    return encoded


class Rows:
    """Messages of one shape, a row of bytes each, filled column by column; bytes that a row does not use are skipped.

    For many short values that is several times faster than `encode`.
    """

    def __init__(self, rows: int, width: int) -> None:
        self._bytes = np.zeros((rows, width), np.uint8)
        self._used = np.zeros((rows, width), bool)
        self._column = 0

    def constant(self, value: int, some: NDArray[np.bool_] | bool = True) -> None:
        """A byte in every row, or in some."""
        self._bytes[:, self._column] = value
        self._used[:, self._column] = some
        self._column += 1

    def values(self, values: Integers, lengths: Integers) -> None:
        """A value in each row; `lengths` are the values' `sizes`, or 0 for rows without."""
        for place in range(int(lengths.max()) if len(lengths) else 0):
            byte = values & 127
            byte |= (lengths > place + 1) << 7
            self.constant(0, lengths > place)
            self._bytes[:, self._column - 1] = byte
            values = values >> 7

    def joined(self) -> Bytes:
        """The rows one after the other."""
        return self._bytes[self._used]


def decode(encoded: Bytes) -> Integers:
    """Every value of a sequence; raises ValueError where it is cut off or holds one of 2^63 or more."""
    last = encoded < 128
    if len(encoded) and not last[-1]:
        raise ValueError("The last integer is cut off.")
    ends = np.flatnonzero(last) + 1
    starts = np.concatenate(([0], ends[:-1])) if len(ends) else ends
    lengths = ends - starts
    if len(lengths) and lengths.max() > 9:
        raise ValueError("An integer takes more than 63 bits.")
    values = np.zeros(len(ends), np.int64)
    for place in range(int(lengths.max()) if len(lengths) else 0):
        some = np.flatnonzero(lengths > place)
        values[some] |= (encoded[starts[some] + place] & 127).astype(np.int64) << (7 * place)
    return values


def one(value: int) -> bytes:
    """A single value."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
