"""The row ledger: where every row of a source went.

Each row has one reason, the first of this list that fits:

1. `no_coordinate`: missing, no number, not finite, or a geometry of another kind than the layer's
2. `out_of_bounds`: outside the world, Web Mercator or the layer's bounds, at 0, 0, or with latitude and longitude
   swapped
3. `duplicate`: the same non-empty id as a row before it that passed 1 and 2; rows without an id are never duplicates
4. `suppressed`: withheld by the privacy rule
5. `repaired`: kept after its geometry was mended
6. `kept`: as it was
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from stemma.errors import CheckFailed


class Reason(IntEnum):
    """Where a row went; lower numbers take precedence."""

    NO_COORDINATE = 1
    OUT_OF_BOUNDS = 2
    DUPLICATE = 3
    SUPPRESSED = 4
    REPAIRED = 5
    KEPT = 6

    @property
    def label(self) -> str:
        """The reason as the ledger names it."""
        return self.name.lower()


_LABELS = tuple(reason.label for reason in Reason)
REJECTED = (Reason.NO_COORDINATE, Reason.OUT_OF_BOUNDS, Reason.DUPLICATE, Reason.SUPPRESSED)


def released(reasons: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Which rows are on the map, or will be if nothing else speaks against them."""
    return reasons >= Reason.REPAIRED


@dataclass(frozen=True, slots=True)
class RowLedger:
    """How many rows there were, and how many of them went where; `partition` is a month, or empty for all."""

    partition: str
    rows: int
    kept: int
    repaired: int
    duplicate: int
    no_coordinate: int
    out_of_bounds: int
    suppressed: int

    def __post_init__(self) -> None:
        accounted = self.kept + self.repaired + self.duplicate + self.no_coordinate
        if accounted + self.out_of_bounds + self.suppressed != self.rows:
            raise CheckFailed("rows_unaccounted", f"The row ledger does not account for all {self.rows:,} rows.")

    @classmethod
    def of(cls, reasons: NDArray[np.int8], rows: int, partition: str = "") -> RowLedger:
        """Count reasons; raises CheckFailed(rows_unaccounted) where a row has none."""
        counts = np.bincount(reasons, minlength=len(Reason) + 1)
        return cls(partition, rows, **dict(zip(_LABELS, counts[1:].tolist(), strict=True)))

    @property
    def released(self) -> int:
        """How many rows are on the map."""
        return self.kept + self.repaired
