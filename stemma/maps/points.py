"""Points in memory as the tile encoder wants them: positions along the Hilbert curve, attributes as numbered values.

Eight bytes of position, eight of key, eight of id and four for each attribute make a point, whatever the attributes
hold. Where points come from, and which may be shown, is decided before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stemma.errors import InvalidInput
from stemma.maps import grid
from stemma.maps.grid import Floats, Positions
from stemma.maps.mvt import Value
from stemma.maps.pmtiles import Bounds
from stemma.maps.varints import Integers

Codes = NDArray[np.int32]
MAX_ID = 1 << 53
BATCH_BITS = 32
"""Ids that share all but their last bits came together, in one month."""


@dataclass(frozen=True, slots=True)
class Column:
    """One attribute: `codes` number `values`, which are distinct and ascending; −1 is for points without."""

    name: str
    codes: Codes
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if len(self.codes) and not -1 <= self.codes.min() <= self.codes.max() < len(self.values):
            raise ValueError(f"A code of {self.name} has no value.")

    @classmethod
    def of(cls, name: str, values: Sequence[Value | None]) -> Column:
        """A column of these values."""
        known = tuple(sorted({value for value in values if value is not None}))
        numbers: dict[Value | None, int] = {value: number for number, value in enumerate(known)}
        codes = np.fromiter((numbers.get(value, -1) for value in values), np.int32, len(values))
        return cls(name, codes, known)

    def taken(self, places: Integers | slice) -> Column:
        """The same attribute of some points."""
        return Column(self.name, self.codes[places], self.values)


@dataclass(frozen=True)
class Points:
    """Points in the order of their keys, then of their ids."""

    ids: Integers
    x: Positions
    y: Positions
    keys: Integers
    columns: tuple[Column, ...]

    @classmethod
    def of(cls, ids: Integers, longitude: Floats, latitude: Floats, columns: Sequence[Column] = ()) -> Points:
        """Points at WGS 84 degrees.

        Raises InvalidInput: coordinate_invalid for one that is not finite or outside Web Mercator, id_invalid for an id
        that is negative or not below 2^53, where JavaScript stops counting.
        """
        # Written so that NaN is refused too.
        within = (np.abs(longitude) <= 180) & (np.abs(latitude) <= grid.MAX_LATITUDE)
        if not within.all():
            place = int(np.flatnonzero(~within)[0])
            raise InvalidInput(
                "coordinate_invalid",
                f"Point {place} lies outside the map, at {longitude[place]}, {latitude[place]}.",
                hint="Clean the features first; they name what they reject.",
            )
        if len(ids) and not 0 <= ids.min() <= ids.max() < MAX_ID:
            raise InvalidInput("id_invalid", "An id is negative or not below 2^53.")
        x, y = grid.positions(longitude, latitude)
        keys = grid.keys(x, y)
        order = np.lexsort((ids, keys))
        return cls(
            np.asarray(ids, np.int64)[order],
            x[order],
            y[order],
            keys[order],
            tuple(column.taken(order) for column in columns),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def taken(self, places: Integers | slice) -> Points:
        """Some of the points; ascending places keep the order."""
        return Points(
            self.ids[places],
            self.x[places],
            self.y[places],
            self.keys[places],
            tuple(column.taken(places) for column in self.columns),
        )

    def column(self, name: str) -> Column:
        """The attribute of that name; raises InvalidInput(attribute_unknown)."""
        for column in self.columns:
            if column.name == name:
                return column
        raise InvalidInput("attribute_unknown", f"The points have no attribute {name}.", field=name)

    @cached_property
    def bounds(self) -> Bounds:
        """The rectangle around all points; the empty one at 0, 0 where there are none."""
        if not len(self):
            return Bounds(0, 0, 0, 0)
        longitude, latitude = grid.degrees(
            np.array([self.x.min(), self.x.max()]), np.array([self.y.max(), self.y.min()])
        )
        return Bounds(float(longitude[0]), float(latitude[0]), float(longitude[1]), float(latitude[1]))
