"""What refusing saved, against giving everything that was asked for: what was observed and what was not, kept apart.

- *Observed* is the value of what was given. It is no estimate.
- *Weighted*: of what was not given alone although another variant would have given it, the value follows from those
  like it that were, by the recorded chances: the sum of (1 - chance) / chance · value over what was given alone
  (inverse propensity scoring). It assumes nothing of how values come about. Its interval is normal.
- *Modelled*: what no variant would have given has no like among the given, so that nothing but a model can say what it
  would have been worth (`modelling`). Its interval, by 200 bootstrap samples of the given, says how far the guess
  varies with them, not whether the model is right; two models that disagree show that.

Saved is minus the value. A customer who is refused may order at a lower discount, or not at all: their order counts as
nothing, which is what nobody observed, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from stemma.errors import Conflict
from stemma.governance import policies
from stemma.governance.learning.modelling import Inputs, Space, nearest, regression
from stemma.governance.learning.offpolicy import NORMAL, Interval
from stemma.governance.learning.standing import reference
from stemma.governance.learning.valued import Case, Done, cases
from stemma.governance.nodes import Node
from stemma.store.database import Connection

_SAMPLES: Final = 200
_SEED: Final = 0
_FEWEST: Final = 30
_MODELS: Final = {"nearest": nearest, "regression": regression}


@dataclass(frozen=True, slots=True)
class Observed:
    """What was given, and its value; `unknown` were given and have no outcome yet."""

    count: int
    total: float
    unknown: int


@dataclass(frozen=True, slots=True)
class Modelled:
    """The total value that a model gives to what nobody would have given, with a bootstrap interval. Not observed."""

    model: str
    total: Interval


@dataclass(frozen=True, slots=True)
class NotGiven:
    """What was refused, or left open: `beyond` of them no variant would have given, and `models` say their value."""

    done: Done
    count: int
    beyond: int
    models: tuple[Modelled, ...]


@dataclass(frozen=True, slots=True)
class Savings:
    """What was given and what was not at a node, valued by `metric`. `weighted` is the total value of what was not
    given alone although a variant would have, `overlap` decisions; None where there is none, or nothing like it was
    given.
    """

    node: str
    metric: str
    decisions: int
    observed: Observed
    overlap: int
    weighted: Interval | None
    not_given: tuple[NotGiven, ...]


def savings(connection: Connection, node: Node, *, metric: str, last: int) -> Savings:
    """What the last decisions of a node gave and saved.

    Raises InvalidInput(field="metric"), NotFound for its policy; Conflict with fewer than 30 outcomes, of which no
    model can be made.
    """
    policy = policies.load(connection, reference(connection, node))
    return savings_of(cases(connection, node, policy, metric=metric, last=last), node=node.name, metric=metric)


def savings_of(found: Sequence[Case], *, node: str, metric: str) -> Savings:
    """What these decisions of a node gave and saved; raises Conflict as `savings` does."""
    known = [case for case in found if case.value is not None]
    if len(known) < _FEWEST:
        what = f"{len(known)} outcomes say {metric} of what {node} gave; it takes {_FEWEST}."
        raise Conflict("too_few_outcomes", what, field="metric")
    given = sum(case.done is Done.GIVEN for case in found)
    overlap = sum(not case.alone and case.chance > 0.0 for case in found)
    return Savings(
        node=node,
        metric=metric,
        decisions=len(found),
        observed=Observed(given, float(sum(_value(case) for case in known)), given - len(known)),
        overlap=overlap,
        weighted=_weighted(known) if overlap else None,
        not_given=tuple(_not_given(done, found, known) for done in (Done.REFUSED, Done.OPEN)),
    )


def modelled(known: Sequence[Inputs], values: Sequence[float], asked: Sequence[Inputs]) -> tuple[Modelled, ...]:
    """What each model says of the total value of what is asked, and the middle 95 % of what it says with samples of
    what is known.
    """
    space, count = Space.of([*known, *asked]), len(known)
    samples = np.random.default_rng(_SEED).multinomial(count, np.full(count, 1 / count), size=_SAMPLES)
    weights = np.vstack([np.ones((1, count)), samples])
    return tuple(
        Modelled(name, _middle(model(space, known, np.array(values), asked, weights)))
        for name, model in _MODELS.items()
    )


def _weighted(known: Sequence[Case]) -> Interval | None:
    """The value of what was not given, by those that were given with a chance below one."""
    known = [case for case in known if case.alone and 0.0 < case.chance < 1.0]
    if not known:
        return None
    values, chances = np.array([_value(case) for case in known]), np.array([case.chance for case in known])
    total = float(((1 - chances) / chances * values).sum())
    # What was given and what was not are drawn together: the variance is of their difference.
    half = NORMAL * float(np.sqrt(((1 - chances) / chances**2 * values**2).sum()))
    return Interval(total, total - half, total + half)


def _not_given(done: Done, found: Sequence[Case], known: Sequence[Case]) -> NotGiven:
    these = [case for case in found if case.done is done]
    beyond = [case.inputs for case in these if case.chance == 0.0]
    models = modelled([case.inputs for case in known], [_value(case) for case in known], beyond) if beyond else ()
    return NotGiven(done, len(these), len(beyond), models)


def _middle(guesses: Any) -> Interval:
    totals = guesses.sum(axis=1)
    low, high = np.quantile(totals[1:], [0.025, 0.975])
    return Interval(float(totals[0]), float(low), float(high))


def _value(case: Case) -> float:
    assert case.value is not None
    return case.value
