"""What another policy or variant would have been worth on the same decisions, from what was drawn and observed.

The value of a decision is its metric where the policy gives alone, and nothing where it does not. Three estimates of
the mean value, with normal 95 % intervals: inverse propensity scoring (Horvitz & Thompson 1952), which needs nothing
but the recorded chances; its self-normalized form (Swaminathan & Joachims 2015), which is a little biased and varies
less; and the doubly robust one (Dudík, Langford & Li 2011), which corrects a regression by what was observed, fitted on
the other half of the cases.

All three rest on overlap: what the policy gives and the logging policy never did cannot be weighed. Those decisions are
counted apart, and their value is a guess by the regression alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from stemma.errors import Conflict, InvalidInput
from stemma.governance import nodes
from stemma.governance.evaluation import Applicable
from stemma.governance.learning.modelling import Space, regression
from stemma.governance.learning.valued import SUCCESS, Case, cases, gives_alone
from stemma.governance.policy import BASELINE
from stemma.store.database import Connection

NORMAL: Final = 1.959963984540054
"""How many standard errors a 95 % interval reaches to each side."""
_SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a policy is worth by decision. `observed` is what was given alone in fact; `ips`, `snips` and
    `doubly_robust` are of the policy where there is overlap, and None where there is none.

    `decisions` were looked at, `pending` of them left out, as what was given has no outcome yet. The policy would give
    `given`, of which `beyond` were never given alone: `modelled` is their mean value by the regression, not observed.
    `effective` is how many plain observations the weights are worth.
    """

    policy: str
    variant: str
    metric: str
    decisions: int
    pending: int
    observed: Interval | None
    given: int
    beyond: int
    effective: float
    ips: Interval | None
    snips: Interval | None
    doubly_robust: Interval | None
    modelled: float | None


def evaluate_policy(
    connection: Connection, policy: Applicable, *, last: int, variant: str = BASELINE, metric: str = SUCCESS
) -> Evaluation:
    """What a policy would have been worth on the last decisions of its node.

    Raises InvalidInput for an unknown variant or metric, NotFound for its node, Conflict where nothing was observed.
    """
    if variant not in policy.parameters:
        raise InvalidInput("variant_unknown", f"{policy.reference} has no variant {variant[:63]!r}.", field="variant")
    node = nodes.load(connection, policy.policy.node)
    found = cases(connection, node, policy, metric=metric, last=last)
    usable = [case for case in found if not case.alone or case.value is not None]
    if not any(case.alone for case in usable):
        hint = "Record outcomes of what was approved, then evaluate."
        raise Conflict("nothing_observed", f"No outcome says {metric} of a decision of {node.name}.", hint=hint)
    gives = np.array([gives_alone(policy, case.logged, variant) for case in usable])
    return _evaluation(policy, variant, metric, usable, gives, pending=len(found) - len(usable))


def _evaluation(
    policy: Applicable, variant: str, metric: str, usable: Sequence[Case], gives: Any, *, pending: int
) -> Evaluation:
    alone = np.array([case.alone for case in usable])
    chance = np.array([case.chance for case in usable])
    value = np.array([case.value if case.alone and case.value is not None else 0.0 for case in usable])
    guess = _cross_fitted(usable, alone, value)
    reached, beyond = gives & (chance > 0.0), gives & (chance == 0.0)
    weight = np.where(reached & alone, 1.0 / np.where(chance > 0.0, chance, 1.0), 0.0)
    overlap = bool((reached & alone).any())
    return Evaluation(
        policy=policy.reference,
        variant=variant,
        metric=metric,
        decisions=len(usable),
        pending=pending,
        observed=_mean(value),
        given=int(gives.sum()),
        beyond=int(beyond.sum()),
        effective=float(weight.sum() ** 2 / (weight**2).sum()) if overlap else 0.0,
        ips=_mean(weight * value) if overlap else None,
        snips=_self_normalized(weight, value, reached) if overlap else None,
        doubly_robust=_mean(np.where(reached, guess, 0.0) + weight * (value - guess)) if overlap else None,
        modelled=float(guess[beyond].mean()) if beyond.any() else None,
    )


def _self_normalized(weight: Any, value: Any, reached: Any) -> Interval:
    """The weighted mean of what the policy gives, times how often it gives; the interval by linearization."""
    share, mean = reached.mean(), float((weight * value).sum() / weight.sum())
    influence = share * weight * (value - mean) / weight.mean() + mean * (reached - share)
    return _interval(share * mean, influence)


def _mean(terms: Any) -> Interval:
    return _interval(float(terms.mean()), terms - terms.mean())


def _interval(estimate: float, influence: Any) -> Interval:
    half = NORMAL * math.sqrt(float((influence**2).mean()) / len(influence))
    return Interval(float(estimate), float(estimate - half), float(estimate + half))


def _cross_fitted(usable: Sequence[Case], alone: Any, value: Any) -> Any:
    """What the regression guesses of each case, fitted on those of the other half."""
    space = Space.of([case.inputs for case in usable])
    # By chance, since what comes by turns would put each sort of case into one half.
    half = np.random.default_rng(_SEED).permutation(len(usable)) % 2
    guess = np.zeros(len(usable))
    for part in (0, 1):
        learned, asked = _places(alone & (half != part)), _places(half == part)
        if len(learned) and len(asked):
            known = [usable[at].inputs for at in learned]
            wanted = [usable[at].inputs for at in asked]
            guess[asked] = regression(space, known, value[learned], wanted, np.ones((1, len(learned))))[0]
    return guess


def _places(flags: Any) -> list[int]:
    return [int(at) for at in np.flatnonzero(flags)]
