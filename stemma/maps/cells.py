"""What the cells of a tile say: how many points, the most frequent category, counts by category and by period.

Counts are sparse: a cell says nothing of a category that it does not have, so that time and memory follow the points
and not the number of attributes. How cells become tiles is decided in `point_tiles`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stemma.errors import InvalidInput
from stemma.maps.mvt import key_message, value_message
from stemma.maps.points import Codes, Column
from stemma.maps.varints import Integers

COUNT, TOP = "count", "top"
MAX_COUNTED = 512

_DENSE = 4


def counted_as(column: str, value: object) -> str:
    """The attribute of a cell that counts its points with this value, for example `type=Burglary`."""
    return f"{column}={value}"


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of one column: `numbers[i]` points of cell `cells[i]` have value `codes[i]`; by cell, then by code."""

    cells: Integers
    codes: Integers
    numbers: Integers

    @classmethod
    def of(cls, cell: Integers, codes: Codes, cells: int, values: int) -> Counts:
        """Count points by the cell of each, ascending from 0, and by the code of each; −1 counts for none."""
        some = codes >= 0
        combined = cell[some] * values + codes[some]
        if cells * values <= _DENSE * len(codes):
            dense = np.bincount(combined, minlength=cells * values)
            used = np.flatnonzero(dense)
            numbers = dense[used]
        else:
            used, numbers = np.unique(combined, return_counts=True)
        owner = used // max(values, 1)
        return cls(owner, used - owner * values, numbers)

    def top(self) -> Counts:
        """Of each cell the value with the highest count; of equals, the first."""
        starts = np.flatnonzero(np.diff(self.cells, prepend=-1))
        if not len(starts):
            return self
        owner = np.cumsum(np.diff(self.cells, prepend=-1) != 0) - 1
        highest = np.flatnonzero(self.numbers == np.maximum.reduceat(self.numbers, starts)[owner])
        first = highest[np.diff(owner[highest], prepend=-1) != 0]
        return Counts(self.cells[first], self.codes[first], self.numbers[first])


@dataclass(frozen=True, slots=True)
class Uses:
    """Which key and value each cell uses, by cell. Values are numbered: those of the category, then `integers`."""

    cells: Integers
    keys: Integers
    values: Integers
    integers: Integers


class CellTags:
    """The tags of cells for points with a category and a period, where there are such.

    Raises InvalidInput(too_many_categories) for a column with more than 512 values: nobody reads such a legend, and no
    tile holds it.
    """

    def __init__(self, category: Column | None, period: Column | None) -> None:
        self._category = category
        self._counted = [column for column in (category, period) if column is not None]
        for column in self._counted:
            if len(column.values) > MAX_COUNTED:
                raise InvalidInput(
                    "too_many_categories",
                    f"{column.name} has {len(column.values):,} values; cells count by at most {MAX_COUNTED}.",
                    field=column.name,
                    hint="Count by a coarser attribute.",
                )
        self.names = [COUNT, TOP, *(counted_as(c.name, value) for c in self._counted for value in c.values)]
        self.keys = [key_message(name) for name in self.names]
        self.categories = [value_message(value) for value in (category.values if category else ())]

    def uses(self, cell: Integers, cells: int, places: Integers) -> Uses:
        """The tags of `cells` cells; `cell` says in which each of the points at `places` is."""
        totals = np.bincount(cell, minlength=cells)
        owners, keys = [np.arange(cells)], [np.zeros(cells, np.int64)]
        numbers = [totals]
        tops = Counts(*(np.zeros(0, np.int64),) * 3)
        first = 2
        for column in self._counted:
            counts = Counts.of(cell, column.codes[places], cells, len(column.values))
            if column is self._category:
                tops = counts.top()
            owners.append(counts.cells)
            keys.append(first + counts.codes)
            numbers.append(counts.numbers)
            first += len(column.values)
        integers, ranks = _ranked(np.concatenate(numbers))
        owners.insert(1, tops.cells)
        keys.insert(1, np.ones(len(tops.cells), np.int64))
        values = np.concatenate(
            (len(self.categories) + ranks[:cells], tops.codes, len(self.categories) + ranks[cells:])
        )
        together = np.concatenate(owners)
        order = np.argsort(together, kind="stable")
        return Uses(together[order], np.concatenate(keys)[order], values[order], integers)


def _ranked(numbers: Integers) -> tuple[Integers, Integers]:
    """The distinct numbers, ascending, and the place of each number among them."""
    distinct = np.unique(numbers)
    return distinct, np.searchsorted(distinct, numbers)
