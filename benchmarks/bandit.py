"""Learning: Thompson sampling against MABWiser's, and how often a promotion is proposed that should be, or should not.

The regret is of 100 runs of 1,000 decisions among four variants, without floor and cap, on the same tables of rewards:
whether a decision succeeds is fixed for each variant before either of them draws. "Within noise" is a mean difference
of at most two standard errors, over the pairs.

The error rates are of the guardrails that a node has when it says nothing, over runs of 10,000 decisions that are
looked at after every hundred. A variant is planted that succeeds five points more often than
the baseline, equally often, or ten points less. Beside them, what a posterior alone would propose that is looked at as
often. All seeds are fixed.
"""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from benchmarks.studio import Measure, publish
from stemma.governance.learning.assessment import Standing, assess
from stemma.governance.learning.drawing import draw, propensities
from stemma.governance.learning.stats import VariantStats
from stemma.governance.nodes import Learning
from stemma.governance.policy import BASELINE

_RUNS: Final = 100
_ROUNDS: Final = 1_000
_RATES: Final = {BASELINE: 0.60, "cautious": 0.55, "flexible": 0.65, "generous": 0.50}
_DECISIONS: Final = 10_000
_LOOK: Final = 100
_BASE: Final = 0.70
_BETTER: Final = 0.05
_WORSE: Final = -0.10
_VARIANT: Final = "variant"
_ERRORS: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a run with a planted variant ended: after how many decisions it was proposed or stopped, if it was."""

    proposed: int | None
    stopped: int | None
    naive: bool


def main() -> bool:
    """Run the benchmark; True when the bars are met."""
    ours, theirs = [], []
    for run in range(_RUNS):
        rewards = _rewards(run)
        ours.append(_regret(_drawn(rewards, run)))
        theirs.append(_regret(_mabwiser(rewards, run)))
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(_RUNS)
    better, equal, worse = ([_promoted(delta, run) for run in range(_RUNS)] for delta in (_BETTER, 0.0, _WORSE))
    found = sorted(one.proposed for one in better if one.proposed is not None)
    lost = sorted(one.stopped for one in worse if one.stopped is not None)
    measures = [
        Measure(f"regret after {_ROUNDS:,} decisions", statistics.mean(ours)),
        Measure("MABWiser's", statistics.mean(theirs)),
        Measure(
            "difference in standard errors", abs(statistics.mean(differences)) / error, "", bar=2.0, at_least=False
        ),
        Measure("better by 5 points, not proposed", _percent(one.proposed is None for one in better), "%", bar=_ERRORS,
                at_least=False),
        Measure("no difference, proposed", _percent(one.proposed is not None for one in equal), "%", bar=_ERRORS,
                at_least=False),
        Measure("worse by 10 points, proposed", _percent(one.proposed is not None for one in worse), "%", bar=_ERRORS,
                at_least=False),
        Measure("decisions until it is proposed, median", statistics.median(found) if found else math.nan),
        Measure("no difference, proposed by a posterior alone", _percent(one.naive for one in equal), "%"),
        Measure("worse by 10 points, stopped", _percent(one.stopped is not None for one in worse), "%"),
        Measure("decisions until it is stopped, median", statistics.median(lost) if lost else math.nan),
        Measure("no difference, stopped", _percent(one.stopped is not None for one in equal), "%", bar=_ERRORS,
                at_least=False),
        Measure("better by 5 points, stopped", _percent(one.stopped is not None for one in better), "%", bar=_ERRORS,
                at_least=False),
    ]  # fmt: skip
    return publish("bandit", measures, runs=_RUNS, rounds=_ROUNDS, decisions=_DECISIONS, look_every=_LOOK)


def _rewards(run: int) -> Any:
    """Whether each decision succeeds, by round and variant."""
    chances = np.random.default_rng([run, 1]).random((_ROUNDS, len(_RATES)))
    return (chances < np.array(list(_RATES.values()))).astype(int)


def _drawn(rewards: Any, run: int) -> list[str]:
    names = list(_RATES)
    guardrails = Learning(floor=0.0, cap=1.0)
    stats = {name: VariantStats(name) for name in names}
    taken = []
    for at, row in enumerate(rewards):
        name = draw(tuple(stats.values()), guardrails, run * _ROUNDS + at).variant
        one, success = stats[name], int(row[names.index(name)])
        stats[name] = replace(one, successes=one.successes + success, failures=one.failures + 1 - success)
        taken.append(name)
    return taken


def _mabwiser(rewards: Any, run: int) -> list[str]:
    from mabwiser.mab import MAB, LearningPolicy

    names = list(_RATES)
    bandit = MAB(names, LearningPolicy.ThompsonSampling(), seed=run)
    bandit.fit([], [])
    taken = []
    for row in rewards:
        name = str(bandit.predict())
        bandit.partial_fit([name], [int(row[names.index(name)])])
        taken.append(name)
    return taken


def _regret(taken: list[str]) -> float:
    """Successes that the best variant is expected to have more."""
    return sum(max(_RATES.values()) - _RATES[name] for name in taken)


def _promoted(delta: float, run: int) -> _Ended:
    guardrails = Learning()
    rates = {BASELINE: _BASE, _VARIANT: _BASE + delta}
    stats = [VariantStats(name) for name in rates]
    chance = np.random.default_rng([run, 2])
    proposed = stopped = None
    naive = False
    for decided in range(_LOOK, _DECISIONS + 1, _LOOK):
        share = propensities(stats, guardrails)[_VARIANT]
        drawn = int(chance.binomial(_LOOK, share))
        stats = [_after(one, count, rates, chance) for one, count in zip(stats, (_LOOK - drawn, drawn), strict=True)]
        (found,) = assess(stats, guardrails).variants
        if found.standing is Standing.HARMFUL:
            stopped = decided
            break
        enough = min(one.samples for one in stats) >= guardrails.minimum_samples
        naive = naive or (enough and found.p_better >= guardrails.probability)
        if proposed is None and found.standing is Standing.BETTER:
            proposed = decided
    return _Ended(proposed, stopped, naive)


def _after(one: VariantStats, count: int, rates: dict[str, float], chance: Any) -> VariantStats:
    successes = int(chance.binomial(count, rates[one.variant]))
    return replace(one, successes=one.successes + successes, failures=one.failures + count - successes)


def _percent(flags: Any) -> float:
    held = list(flags)
    return 100.0 * sum(held) / len(held)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
