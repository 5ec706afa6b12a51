"""Comparing the variants of a policy with its baseline by their outcomes: a pure function of the counts.

A variant is *better* when both hold: its rate of success exceeds the baseline's by `margin` with `probability`, by the
posteriors; and the lower limit of the difference is above zero. The limits are those of a confidence sequence (Howard,
Ramdas, McAuliffe & Sekhon, Annals of Statistics 2021, the one-sided normal mixture): they hold at all times at once,
so that whoever looks after every outcome proposes a variant that is no better with a chance of at most
1 - `probability`. A posterior alone, looked at daily, does so far more often. Likewise *harmful*, by `harm`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stemma.governance.learning.posteriors import exceeds
from stemma.governance.learning.stats import VariantStats
from stemma.governance.nodes import Learning
from stemma.governance.policy import BASELINE


class Standing(StrEnum):
    """How a variant stands beside the baseline."""

    BETTER = "better"
    HARMFUL = "harmful"
    STOPPED = "stopped"
    TOO_FEW = "too_few"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Rate:
    """A variant's counts and what they teach of its rate of success: its mean and central 95 % interval."""

    variant: str
    draws: int
    successes: int
    failures: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """A variant beside the baseline. `difference` is of their means, `low` and `high` its limits at all times;
    `p_better` that its rate exceeds the baseline's by the margin, `p_harmful` that it falls short by the harm's.
    """

    rate: Rate
    difference: float
    low: float
    high: float
    p_better: float
    p_harmful: float
    standing: Standing
    why: str


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the outcomes say of every variant; `candidate` is the best of those that are better, where there is one."""

    baseline: Rate
    variants: tuple[Comparison, ...]
    candidate: str | None

    @property
    def harmful(self) -> tuple[Comparison, ...]:
        """Those that the stop rule takes the traffic from."""
        return tuple(one for one in self.variants if one.standing is Standing.HARMFUL)

    def content(self) -> dict[str, Any]:
        """The same as JSON, for evidence and scorecards."""
        return {
            "baseline": _rate_content(self.baseline),
            "variants": [
                {
                    **_rate_content(one.rate),
                    "difference": one.difference,
                    "difference_low": one.low,
                    "difference_high": one.high,
                    "p_better": one.p_better,
                    "p_harmful": one.p_harmful,
                    "standing": one.standing.value,
                    "why": one.why,
                }
                for one in self.variants
            ],
            "candidate": self.candidate,
        }


def assess(stats: Sequence[VariantStats], guardrails: Learning) -> Assessment:
    """Compare each variant with the baseline, which is among `stats`."""
    baseline = next(one for one in stats if one.variant == BASELINE)
    compared = tuple(_compare(one, baseline, guardrails) for one in stats if one.variant != BASELINE)
    better = [one for one in compared if one.standing is Standing.BETTER]
    candidate = max(better, key=lambda one: (one.low, one.rate.variant)).rate.variant if better else None
    return Assessment(_rate(baseline), compared, candidate)


def _compare(one: VariantStats, baseline: VariantStats, guardrails: Learning) -> Comparison:
    harm = guardrails.harm
    difference = one.posterior.mean - baseline.posterior.mean
    p_better = exceeds(one.posterior, baseline.posterior, guardrails.margin)
    p_harmful = exceeds(baseline.posterior, one.posterior, harm.margin)
    low = max(difference - _width(one, baseline, guardrails.probability, guardrails), -1.0)
    high = min(difference + _width(one, baseline, harm.probability, guardrails), 1.0)
    fewest = min(one.samples, baseline.samples)
    if one.stopped_at is not None:
        standing, why = Standing.STOPPED, one.stopped_why or "It was stopped."
    elif p_harmful >= harm.probability and high < 0.0:
        standing = Standing.HARMFUL
        why = (
            f"It succeeds in {one.posterior.mean:.1%} of {one.samples}, the baseline in {baseline.posterior.mean:.1%}"
            f" of {baseline.samples}: worse by {harm.margin:.1%} with a probability of {p_harmful:.1%}."
        )
    elif fewest < guardrails.minimum_samples:
        standing, why = Standing.TOO_FEW, f"There are {fewest} of the {guardrails.minimum_samples} outcomes of each."
    elif p_better >= guardrails.probability and low > 0.0:
        standing = Standing.BETTER
        why = (
            f"It succeeds in {one.posterior.mean:.1%} of {one.samples}, the baseline in {baseline.posterior.mean:.1%}"
            f" of {baseline.samples}: better by {guardrails.margin:.1%} with a probability of {p_better:.1%}."
        )
    else:
        standing = Standing.UNDECIDED
        why = (
            f"It is better by {guardrails.margin:.1%} with a probability of {p_better:.1%}; the difference so far is"
            f" {100 * difference:+.1f} points."
        )
    return Comparison(_rate(one), difference, low, high, p_better, p_harmful, standing, why)


def _width(one: VariantStats, baseline: VariantStats, probability: float, guardrails: Learning) -> float:
    """How far a limit is from the difference: narrowest a few times beyond the minimum of outcomes."""
    variance = sum(side.posterior.mean * (1 - side.posterior.mean) / max(side.samples, 1) for side in (one, baseline))
    information, tuned = 1 / variance, 2.0 * guardrails.minimum_samples
    ratio = math.sqrt((information + tuned) / tuned)
    return math.sqrt(2 * (information + tuned) * math.log(ratio / (2 * (1 - probability)) + 1)) / information


def _rate(one: VariantStats) -> Rate:
    low, high = one.posterior.interval()
    return Rate(one.variant, one.draws, one.successes, one.failures, one.posterior.mean, low, high)


def _rate_content(rate: Rate) -> dict[str, Any]:
    return {name: getattr(rate, name) for name in Rate.__slots__}
