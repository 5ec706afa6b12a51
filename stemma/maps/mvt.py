"""Mapbox Vector Tiles 2.1, written: points of many tiles at once, as numpy arrays.

The format is https://github.com/mapbox/vector-tile-spec/tree/master/2.1. Everything between the tags of a feature is a
sequence of varints, so that features are laid out as one flat array and encoded in one go. Which point belongs where,
and what it says, is decided elsewhere; `decoding` reads tiles of any origin.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stemma.maps import varints
from stemma.maps.grid import EXTENT
from stemma.maps.varints import Bytes, Integers

Value = str | bool | int | float

_LAYER, _NAME, _FEATURE, _KEYS, _VALUES = b"\x1a", b"\x0a", 0x12, b"\x1a", b"\x22"
_TAIL = b"\x28" + varints.one(EXTENT) + b"\x78\x02"
_ID, _TAGS, _TYPE, _GEOMETRY = 0x08, 0x12, 0x18, 0x22
_POINT, _MOVE_TO_ONE = 1, 9


def value_message(value: Value) -> bytes:
    """One entry of a layer's value table (§4.1, `Value`), with its tag and length."""
    if isinstance(value, str):
        text = value.encode()
        message = b"\x0a" + varints.one(len(text)) + text
    elif isinstance(value, bool):
        message = b"\x38" + bytes([value])
    elif isinstance(value, float):
        message = b"\x19" + struct.pack("<d", value)
    elif value >= 0:
        message = b"\x28" + varints.one(value)
    else:
        message = b"\x30" + varints.one(-2 * value - 1)
    return _VALUES + varints.one(len(message)) + message


def key_message(key: str) -> bytes:
    """One entry of a layer's key table."""
    text = key.encode()
    return _KEYS + varints.one(len(text)) + text


def layer_frame(name: str, size: int, tables: bytes) -> tuple[bytes, bytes]:
    """What stands in a tile before and after the features of a layer, which have `size` bytes; `tables` are the key and
    value tables that their tags point into.
    """
    text = name.encode()
    named = _NAME + varints.one(len(text)) + text
    length = len(named) + size + len(tables) + len(_TAIL)
    return _LAYER + varints.one(length) + named, tables + _TAIL


def layer_message(name: str, features: bytes, tables: bytes) -> bytes:
    """A layer as it stands in a tile."""
    before, after = layer_frame(name, len(features), tables)
    return before + features + after


@dataclass(frozen=True, slots=True)
class Encoded:
    """Messages one after the other; message i is `data[ends[i - 1]:ends[i]]`."""

    data: Bytes
    ends: Integers

    def split(self, ends: Integers) -> list[bytes]:
        """The messages cut into groups; group i ends before message `ends[i]`."""
        data = self.data.tobytes()
        cuts = np.concatenate(([0], self.ends))[ends].tolist()
        return [data[start:end] for start, end in zip([0, *cuts[:-1]], cuts, strict=True)]


def encode_points(ids: Integers, places: Sequence[Integers], x: Integers, y: Integers) -> Encoded:
    """Point features with ids: `places[k]` says where the value of attribute k stands in the table of values, or −1.

    The key of attribute k is the k-th of the table of keys; x and y are in tile units.
    """
    across, down = 2 * x, 2 * y
    id_sizes, across_sizes, down_sizes = (varints.sizes(values) for values in (ids, across, down))
    value_sizes = [varints.sizes(values) * (values >= 0) for values in places]
    tags = np.zeros(len(ids), np.int64)
    for key, sizes in enumerate(value_sizes):
        tags += sizes + (sizes > 0) * len(varints.one(key))
    tags_sizes = varints.sizes(tags)
    geometry = 1 + across_sizes + down_sizes
    content = 6 + id_sizes + tags_sizes + tags + geometry
    content_sizes = varints.sizes(content)
    fields = [content_sizes, id_sizes, tags_sizes, *value_sizes, across_sizes, down_sizes]
    width = 8 + sum(len(varints.one(key)) for key in range(len(places)))
    rows = varints.Rows(len(ids), width + sum(int(sizes.max(initial=0)) for sizes in fields))
    rows.constant(_FEATURE)
    rows.values(content, content_sizes)
    rows.constant(_ID)
    rows.values(ids, id_sizes)
    rows.constant(_TAGS)
    rows.values(tags, tags_sizes)
    for key, (values, sizes) in enumerate(zip(places, value_sizes, strict=True)):
        for byte in varints.one(key):
            rows.constant(byte, sizes > 0)
        rows.values(values, sizes)
    for byte in (_TYPE, _POINT, _GEOMETRY):
        rows.constant(byte)
    rows.values(geometry, np.ones_like(geometry))
    rows.constant(_MOVE_TO_ONE)
    rows.values(across, across_sizes)
    rows.values(down, down_sizes)
    return Encoded(rows.joined(), np.cumsum(1 + content_sizes + content))


def encode_cells(tag_counts: Integers, tags: Integers, x: Integers, y: Integers) -> Encoded:
    """Point features without ids: `tags` holds `tag_counts[i]` (key, value) index pairs of each, few of very many."""
    sizes = 11 + 2 * tag_counts
    ends = np.cumsum(sizes)
    starts = ends - sizes
    flat = np.empty(int(ends[-1]) if len(ends) else 0, np.int64)
    at_tags = starts + 4
    tails = ends - 7
    flat[starts], flat[starts + 1] = _FEATURE, 0
    flat[at_tags - 2], flat[at_tags - 1] = _TAGS, 0
    flat[between(at_tags, 2 * tag_counts)] = tags
    for place, constant in enumerate((_TYPE, _POINT, _GEOMETRY, 0, _MOVE_TO_ONE)):
        flat[tails + place] = constant
    flat[tails + 5], flat[tails + 6] = 2 * x, 2 * y
    lengths = varints.sizes(flat)
    _fill(flat, lengths, tails + 3, 1 + lengths[tails + 5] + lengths[tails + 6])
    total = np.concatenate(([0], np.cumsum(lengths)))
    _fill(flat, lengths, at_tags - 1, total[tails] - total[at_tags])
    total = np.concatenate(([0], np.cumsum(lengths)))
    _fill(flat, lengths, starts + 1, total[ends] - total[starts + 2])
    total = np.cumsum(lengths)
    return Encoded(varints.encode(flat, lengths), total[ends - 1])


def _fill(flat: Integers, lengths: Integers, places: Integers, values: Integers) -> None:
    flat[places] = values
    lengths[places] = varints.sizes(values)


def between(starts: Integers, counts: Integers) -> Integers:
    """The places `starts[i] … starts[i] + counts[i] - 1` of every i."""
    shift: Integers = np.repeat(starts - (np.cumsum(counts) - counts), counts)
    return shift + np.arange(len(shift))


class Pool:
    """Messages by number, to be picked many at a time."""

    def __init__(self, messages: Sequence[bytes]) -> None:
        self._data = np.frombuffer(b"".join(messages), np.uint8)
        self._lengths = np.fromiter(map(len, messages), np.int64, len(messages))
        self._starts = np.cumsum(self._lengths) - self._lengths

    def __len__(self) -> int:
        return len(self._lengths)

    def picked(self, numbers: Integers) -> Encoded:
        """The messages of these numbers."""
        lengths = self._lengths[numbers]
        return Encoded(self._data[between(self._starts[numbers], lengths)], np.cumsum(lengths))


@dataclass(frozen=True, slots=True)
class Table:
    """The distinct numbers that each tile uses: `numbers` by tile, then ascending; tile t's end at `ends[t]`.

    Of each use, `entries` says where its number stands in `numbers`, `places` where in its tile's table.
    """

    numbers: Integers
    ends: Integers
    entries: Integers
    places: Integers


_DENSE = 4


def tables(tile: Integers, numbers: Integers, tiles: int, pool: int) -> Table:
    """The table of each of `tiles` tiles for uses of numbers below `pool`; `tile` says in which tile each use is."""
    combined = tile * pool + numbers
    if tiles * pool <= _DENSE * len(combined) + 1024:
        present = np.zeros(tiles * pool, bool)
        present[combined] = True
        used = np.flatnonzero(present)
        rank = np.cumsum(present) - 1
        placed = rank[combined]
    else:
        used, placed = np.unique(combined, return_inverse=True)
    owner = used // pool
    ends = np.searchsorted(owner, np.arange(tiles), side="right")
    starts = np.concatenate(([0], ends[:-1]))
    return Table(used - owner * pool, ends, placed, placed - starts[tile])
