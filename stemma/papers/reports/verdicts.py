"""Whether a claim is reproduced: what was observed beside what the page prints, to the precision that it prints.

A pure function of figures; which claim and which run they are of is the business of `building`.

A page that prints `5.9037` says so many digits and no more. What was observed is rounded to as many before it is
compared, and may then lie as far off as the plan lets it, by default one unit of the last place: papers round and cut
off, and did so along the way when numbers were worked out by hand.

A method that depends on a seed gives an interval: that in which, with 95 % probability, the value of one more seed lies
(the prediction interval of Student's t for one further observation, e.g. Hahn & Meeker, Statistical Intervals, 1991,
section 4.7), since a paper's value is that of one more seed too.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from enum import StrEnum
from typing import Final

# EDIT HERE: how much is allowed.
LEAST_SEEDS: Final = 5
"""Values of a method that depends on a seed, below which nothing is said."""
WIDEST: Final = 0.02
"""The widest interval over seeds that still tells something, as a share of the claimed value."""

_ZERO: Final = 1e-9
_LARGEST: Final = 1e150
# As many digits as any number has that a float can hold, and those of the fraction.
_EXACT: Final = Context(prec=400)
# Student's t, 97.5 %, by degrees of freedom; from there on it is that of the normal distribution, a little too small.
_T: Final = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)


class Verdict(StrEnum):
    """What is said of a claim."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not_reproduced"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Claimed:
    """A value as a page has it; `decimals` are the digits that it prints after the decimal point.

    `tolerance` is how far off another value may lie, in the same unit.
    """

    value: float
    decimals: int
    tolerance: float

    @property
    def unit(self) -> Decimal:
        """One in the last printed place."""
        return Decimal(1).scaleb(-self.decimals)

    def printed_like(self, observed: float) -> str:
        """Another value, as the page would print it."""
        return f"{self._rounded(observed):.{self.decimals}f}"

    def units_off(self, observed: float) -> int:
        """By how many units of the last place another value differs, printed likewise."""
        return int(self._off(observed) / self.unit)

    def covers(self, observed: float) -> bool:
        """Whether another value, printed likewise, is near enough."""
        return self._off(observed) <= Decimal(repr(self.tolerance))

    def _off(self, observed: float) -> Decimal:
        return abs(self._rounded(observed) - self._rounded(self.value))

    def _rounded(self, value: float) -> Decimal:
        return Decimal(repr(value)).quantize(self.unit, ROUND_HALF_UP, _EXACT)


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the value of one more seed lies, 95 % of the time."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Assessment:
    """What is said of a claim and why. `observed` is the mean over seeds, None where there is no value."""

    verdict: Verdict
    reason: str
    observed: float | None
    gap_percent: float | None
    interval: Interval | None
    gap_interval: Interval | None


def gap_percent(claimed: float, observed: float) -> float:
    """How far what was observed is from what was claimed, in percent of the claimed value."""
    return (observed - claimed) / max(abs(claimed), _ZERO) * 100


def judge(
    claimed: Claimed,
    values: Sequence[float],
    *,
    seeded: bool = False,
    repeatable: bool = True,
    substituted: str | None = None,
) -> Assessment:
    """What is to be said of a claim.

    `values` are what was observed, one for each seed of a method that depends on one (`seeded`), else one. `repeatable`
    says whether two executions gave the same, and `substituted` what stood in where the paper's own method was not run.
    """
    usable = [value for value in values if abs(value) <= _LARGEST]
    if not usable or len(usable) < len(values):
        what = (
            "The run did not measure what is claimed."
            if not values
            else "What was measured is no number that could be compared."
        )
        return Assessment(Verdict.INCONCLUSIVE, what, None, None, None, None)
    # The mean of equal values is that value, which a sum of them divided is not always.
    observed = usable[0] if len(set(usable)) == 1 else statistics.fmean(usable)
    interval = _interval(usable) if seeded and len(usable) > 1 else None
    verdict, reason = _verdict(claimed, observed, len(usable), interval, seeded=seeded)
    if not repeatable:
        verdict, reason = Verdict.INCONCLUSIVE, "Two executions of the same notebook gave different results."
    elif substituted is not None and verdict is Verdict.NOT_REPRODUCED:
        verdict = Verdict.INCONCLUSIVE
        reason = f"{reason} But the method is not the paper's own, which may be what makes the gap: {substituted}"
    return Assessment(
        verdict,
        reason,
        observed,
        gap_percent(claimed.value, observed),
        interval,
        interval and Interval(gap_percent(claimed.value, interval.low), gap_percent(claimed.value, interval.high)),
    )


def _verdict(
    claimed: Claimed, observed: float, seeds: int, interval: Interval | None, *, seeded: bool
) -> tuple[Verdict, str]:
    if not seeded:
        return _of_one(claimed, observed)
    if seeds < LEAST_SEEDS or interval is None:
        return Verdict.INCONCLUSIVE, f"It depends on a seed: {seeds} of them tell too little, {LEAST_SEEDS} are needed."
    return _of_seeds(claimed, interval, seeds)


def _of_one(claimed: Claimed, observed: float) -> tuple[Verdict, str]:
    said = f"To {_places(claimed.decimals)}, as the paper prints it, we get {claimed.printed_like(observed)}"
    off = claimed.units_off(observed)
    if off == 0:
        return Verdict.REPRODUCED, f"{said}: the same."
    apart = "one unit of the last place off" if off == 1 else f"{off:,} units of the last place off"
    if claimed.covers(observed):
        return Verdict.REPRODUCED, f"{said}: {apart}, as far as it may be."
    return Verdict.NOT_REPRODUCED, f"{said}: {apart}."


def _of_seeds(claimed: Claimed, interval: Interval, seeds: int) -> tuple[Verdict, str]:
    low, high = claimed.printed_like(interval.low), claimed.printed_like(interval.high)
    span = f"By {seeds} seeds, one more would give {low} to {high}"
    if not claimed.covers(min(max(claimed.value, interval.low), interval.high)):
        return Verdict.NOT_REPRODUCED, f"{span}, which leaves the paper's value out."
    widest = max(max(abs(claimed.value), _ZERO) * WIDEST, 2 * claimed.tolerance)
    if interval.high - interval.low > widest:
        return Verdict.INCONCLUSIVE, f"{span}: the paper's value is among them, but they are too far apart to tell."
    return Verdict.REPRODUCED, f"{span}: the paper's value is among them."


def _interval(values: Sequence[float]) -> Interval:
    count = len(values)
    freedom = count - 1
    t = _T[freedom - 1] if freedom <= len(_T) else 1.96
    mean = statistics.fmean(values)
    half = t * statistics.stdev(values) * math.sqrt(1 + 1 / count)
    return Interval(mean - half, mean + half)


def _places(decimals: int) -> str:
    return {0: "the whole number", 1: "one decimal"}.get(decimals, f"{decimals} decimals")
