"""Decisions as evaluation needs them: the inputs, the chance with which it was given, what was done, and its value.

Given alone is what the policy approved without a person. Its chance is the sum of the propensities of all variants that
would have approved alone in this context, by what the draw recorded; without a draw it is one or nothing. What a person
approved has a value, too, but no known chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from stemma.errors import InvalidInput
from stemma.governance import policies
from stemma.governance.decisions.judging import judge, takes_effect
from stemma.governance.evaluation import Applicable
from stemma.governance.learning.logged import Logged, read
from stemma.governance.nodes import Node
from stemma.governance.policy import Ruling
from stemma.rules.language import Type
from stemma.store.database import Connection

SUCCESS = "success"


class Done(StrEnum):
    """What was done: given or refused, or left open where a person has not decided."""

    GIVEN = "given"
    REFUSED = "refused"
    OPEN = "open"


_DONE: Final = {Ruling.APPROVE: Done.GIVEN, Ruling.DENY: Done.REFUSED}


@dataclass(frozen=True, slots=True)
class Case:
    """One decision. `alone` says whether it was given by the policy alone, `chance` with which probability it would
    have been; `value` is what came of it, None where that is unknown.
    """

    logged: Logged
    inputs: Mapping[str, Any]
    done: Done
    alone: bool
    chance: float
    value: float | None


def cases(connection: Connection, node: Node, policy: Applicable, *, metric: str, last: int) -> tuple[Case, ...]:
    """The last decisions of a node, with the inputs that `policy` reads; `metric` is one of its reward's that is a
    number or true or false, or `success`.

    Raises InvalidInput(field="metric").
    """
    usable = (SUCCESS, *(name for name, kind in node.reward.metrics.items() if kind in (Type.NUMBER, Type.BOOLEAN)))
    if metric not in usable:
        hint = f"It has {', '.join(usable)}."
        raise InvalidInput("metric_unknown", f"{node.name} has no metric {metric[:63]!r}.", field="metric", hint=hint)
    loaded: dict[str, Applicable] = {}
    found = []
    for logged in read(connection, last=last, node=node.name):
        if logged.policy not in loaded:
            loaded[logged.policy] = policies.load(connection, logged.policy)
        found.append(_case(logged, loaded[logged.policy], policy, metric))
    return tuple(found)


def gives_alone(policy: Applicable, case: Logged, variant: str) -> bool:
    """Whether a variant of a policy would have approved without a person."""
    verdict = judge(policy, case.event, case.context, variant)
    return verdict.verdict is Ruling.APPROVE and takes_effect(verdict)


def _case(logged: Logged, made_by: Applicable, policy: Applicable, metric: str) -> Case:
    chances = logged.draw["propensities"] if logged.draw else {logged.variant: 1.0}
    chance = sum(share for variant, share in chances.items() if gives_alone(made_by, logged, variant))
    alone = logged.state == "final" and logged.effect is Ruling.APPROVE
    done = Done.OPEN if logged.effect is None else _DONE[logged.effect]
    value = logged.success if metric == SUCCESS else (logged.metrics or {}).get(metric)
    known = None if value is None or done is not Done.GIVEN else float(value)
    return Case(logged, dict(_inputs(policy, logged)), done, alone, min(chance, 1.0), known)


def _inputs(policy: Applicable, logged: Logged) -> Iterable[tuple[str, Any]]:
    document = {"event": logged.event, "context": logged.context}
    for name, steps in policy.sources.items():
        value: Any = document
        for step in steps:
            value = value.get(step) if isinstance(value, Mapping) else None
        if value is None:
            value = policy.policy.inputs[name].default
        if value is not None:
            yield name, value
