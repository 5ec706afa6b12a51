"""Mapbox Vector Tiles 2.1, read: tiles of any origin, by Protocol Buffers' own parser.

Shares nothing with the encoder in `mvt`, so that a check of our tiles does not repeat the encoder's mistakes. Whether
what a tile says is right is decided in `check`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray

from stemma.maps.mvt import Value
from stemma.maps.varints import Integers

POINT, LINE, POLYGON = 1, 2, 3
_MOVE_TO, _LINE_TO, _CLOSE = 1, 2, 7
_MOVE_TO_ONE = 9
_MOST_DISTINCT = 1 << 31

_Field = descriptor_pb2.FieldDescriptorProto
_VALUES = ("string_value", "float_value", "double_value", "int_value", "uint_value", "sint_value", "bool_value")
_KINDS = (
    _Field.TYPE_STRING,
    _Field.TYPE_FLOAT,
    _Field.TYPE_DOUBLE,
    _Field.TYPE_INT64,
    _Field.TYPE_UINT64,
    _Field.TYPE_SINT64,
    _Field.TYPE_BOOL,
)


class Damaged(ValueError):
    """A tile, or a geometry in it, that does not follow the specification."""


@dataclass(frozen=True, slots=True)
class PointFeatures:
    """Features that are all single points with ids: `places` are (x, y) in tile units.

    `tags` are the distinct pairs of key and value that any of them has, as numbers in the tables of the layer.
    """

    ids: NDArray[np.uint64]
    places: Integers
    tags: Integers

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a tile; `features` are the parser's messages (id, tags, type, geometry), `points` further ones."""

    name: str
    version: int
    extent: int
    keys: tuple[str, ...]
    values: tuple[Value, ...]
    features: Sequence[Any]
    points: Sequence[PointFeatures] = ()

    def __len__(self) -> int:
        return len(self.features) + sum(map(len, self.points))

    def attributes(self, feature: Any) -> dict[str, Value]:
        """What a feature says; raises Damaged where its tags do not fit the tables."""
        tags = feature.tags
        if len(tags) % 2:
            raise Damaged("A feature has a key without a value.")
        try:
            return {self.keys[tags[i]]: self.values[tags[i + 1]] for i in range(0, len(tags), 2)}
        except IndexError as error:
            raise Damaged("A feature points outside the tables of its layer.") from error

    def tags(self) -> Integers:
        """The pairs of key and value of all features, as numbers in the tables; raises as `attributes` does."""
        pairs = np.concatenate([_tags(self.features), *(of_points.tags for of_points in self.points)])
        if len(pairs) and (pairs[:, 0].max() >= len(self.keys) or pairs[:, 1].max() >= len(self.values)):
            raise Damaged("A feature points outside the tables of its layer.")
        return pairs


def decode(content: bytes) -> list[Layer]:
    """The layers of a tile; raises Damaged for what is no vector tile."""
    tile: Any = _message_type("Tile")()
    try:
        tile.ParseFromString(content)
    except message.DecodeError as error:
        raise Damaged("It is not a vector tile.") from error
    return [
        Layer(
            layer.name,
            layer.version,
            layer.extent,
            tuple(layer.keys),
            tuple(_value(value) for value in layer.values),
            layer.features,
        )
        for layer in tile.layers
    ]


def decode_points(content: bytes) -> PointFeatures | None:
    """Features of a layer that stand one after the other; None where something else is there, or is no such point."""
    found: Any = _message_type("Features")()
    try:
        found.ParseFromString(content)
    except message.DecodeError:
        return None
    features = found.features
    places = single_points(features)
    if places is None or len(UnknownFieldSet(found)) or not all(feature.HasField("id") for feature in features):
        return None
    ids = np.fromiter((feature.id for feature in features), np.uint64, len(features))
    try:
        tags = _tags(features)
    except Damaged:
        return None
    return PointFeatures(ids, places, distinct(tags)) if tags.max(initial=0) < _MOST_DISTINCT else None


def distinct(pairs: Integers) -> Integers:
    """The distinct pairs of numbers below 2^31."""
    joined = np.unique(pairs[:, 0] << 32 | pairs[:, 1])
    return np.stack((joined >> 32, joined & 0xFFFFFFFF), axis=1)


def single_points(features: Sequence[Any]) -> Integers | None:
    """Where features lie that are all single points, without looking at each in turn; None for others."""
    geometries = [feature.geometry for feature in features]
    if any(len(geometry) != 3 for geometry in geometries) or any(feature.type != POINT for feature in features):
        return None
    commands, x, y = np.fromiter(chain.from_iterable(geometries), np.int64).reshape(-1, 3).T
    if (commands != _MOVE_TO_ONE).any():
        return None
    return np.stack((x >> 1 ^ -(x & 1), y >> 1 ^ -(y & 1)), axis=1)


def _tags(features: Sequence[Any]) -> Integers:
    tags = [feature.tags for feature in features]
    if any(len(of_feature) % 2 for of_feature in tags):
        raise Damaged("A feature has a key without a value.")
    return np.fromiter(chain.from_iterable(tags), np.int64).reshape(-1, 2)


def _value(value: Any) -> Value:
    fields = value.ListFields()
    if len(fields) != 1:
        raise Damaged("An entry of a value table holds not exactly one value.")
    found: Value = fields[0][1]
    return found


def parts(feature: Any) -> list[Integers]:
    """The points, lines or rings of a feature as arrays of (x, y) in tile units; rings are not closed.

    Raises Damaged for commands that do not fit the type of geometry (§4.3.4).
    """
    commands: list[int] = list(feature.geometry)
    kind = feature.type
    if kind not in (POINT, LINE, POLYGON) or not commands:
        raise Damaged("A feature has no geometry of a known type.")
    steps, lengths = _steps(commands, kind)
    path = np.cumsum(steps, axis=0)
    if kind == POINT:
        return [path]
    ends = np.cumsum(lengths)[:-1]
    return np.split(path, ends)


def _steps(commands: list[int], kind: int) -> tuple[Integers, list[int]]:
    """Every step of the cursor, and how many steps each part has."""
    steps: list[int] = []
    lengths: list[int] = []
    place, open_part = 0, False
    while place < len(commands):
        command, count = commands[place] & 7, commands[place] >> 3
        place += 1
        if command == _CLOSE:
            if kind != POLYGON or not open_part or count != 1 or lengths[-1] < 3:
                raise Damaged("A geometry closes what is no ring.")
            open_part = False
            continue
        if command not in (_MOVE_TO, _LINE_TO) or not count or place + 2 * count > len(commands):
            raise Damaged("A geometry holds a command that is unknown or cut off.")
        steps += commands[place : place + 2 * count]
        place += 2 * count
        if command == _LINE_TO:
            if not lengths or kind == POINT or (kind == POLYGON and not open_part):
                raise Damaged("A geometry draws a line from nowhere.")
            lengths[-1] += count
        elif kind == POINT:
            if lengths:
                raise Damaged("A point moves twice.")
            lengths.append(count)
        else:
            if count != 1 or (kind == POLYGON and open_part) or (kind == LINE and lengths and lengths[-1] < 2):
                raise Damaged("A line or ring is not begun by one move.")
            lengths.append(1)
            open_part = True
    if (kind == POLYGON and open_part) or (kind == LINE and lengths[-1] < 2):
        raise Damaged("A line has one point, or a ring is not closed.")
    numbers = np.array(steps, np.int64).reshape(-1, 2)
    return (numbers >> 1) ^ -(numbers & 1), lengths


@cache
def _message_type(name: str) -> type[message.Message]:
    """A message type: `Tile` of the specification, or `Features`, which is a layer that has nothing else."""
    return message_factory.GetMessageClass(_types().FindMessageTypeByName(f"stemma.vector_tile.{name}"))


@cache
def _types() -> descriptor_pool.DescriptorPool:
    """The specification's types, made here: no generated code is kept."""
    file = descriptor_pb2.FileDescriptorProto(name="stemma/vector_tile.proto", package="stemma.vector_tile")
    value = file.message_type.add(name="Value")
    for number, (name, kind) in enumerate(zip(_VALUES, _KINDS, strict=True), start=1):
        value.field.add(name=name, number=number, type=kind, label=_Field.LABEL_OPTIONAL)
    feature = file.message_type.add(name="Feature")
    feature.field.add(name="id", number=1, type=_Field.TYPE_UINT64, label=_Field.LABEL_OPTIONAL)
    feature.field.add(name="tags", number=2, type=_Field.TYPE_UINT32, label=_Field.LABEL_REPEATED)
    feature.field.add(name="type", number=3, type=_Field.TYPE_UINT32, label=_Field.LABEL_OPTIONAL)
    feature.field.add(name="geometry", number=4, type=_Field.TYPE_UINT32, label=_Field.LABEL_REPEATED)
    layer = file.message_type.add(name="Layer")
    layer.field.add(name="name", number=1, type=_Field.TYPE_STRING, label=_Field.LABEL_REQUIRED)
    for name, number, of in (("features", 2, "Feature"), ("values", 4, "Value")):
        layer.field.add(
            name=name,
            number=number,
            type=_Field.TYPE_MESSAGE,
            type_name=f".stemma.vector_tile.{of}",
            label=_Field.LABEL_REPEATED,
        )
    layer.field.add(name="keys", number=3, type=_Field.TYPE_STRING, label=_Field.LABEL_REPEATED)
    layer.field.add(name="extent", number=5, type=_Field.TYPE_UINT32, label=_Field.LABEL_OPTIONAL, default_value="4096")
    layer.field.add(name="version", number=15, type=_Field.TYPE_UINT32, label=_Field.LABEL_REQUIRED)
    features = file.message_type.add(name="Features")
    features.field.append(layer.field[1])
    tile = file.message_type.add(name="Tile")
    tile.field.add(
        name="layers",
        number=3,
        type=_Field.TYPE_MESSAGE,
        type_name=".stemma.vector_tile.Layer",
        label=_Field.LABEL_REPEATED,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool
