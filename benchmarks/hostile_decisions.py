"""Hostile policies: how long a decision takes that somebody made as hard as is allowed, from the event to its commit.

Each node's policy would approve by one hostile condition (those of the tests, which fail for events that do not fit),
or asks the costliest conditions that a policy may have. Events bring values of other types, nothing at all, or the
largest values that an event may have. What is refused counts as what is escalated does; an approval ends the benchmark.
The worst of the medians of three counts: what is measured is the work, not what else runs.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from benchmarks.policy_rules import COSTLY, FILLERS, largest
from benchmarks.studio import Measure, Studio, publish, scratch_studio
from stemma.access.principal import local_principal
from stemma.errors import InvalidInput
from stemma.governance import nodes, policies
from stemma.governance.decisions.deciding import Decider
from stemma.governance.events import types
from stemma.governance.events.model import NewEvent
from stemma.governance.events.recording import MAX_EVENT_BYTES
from stemma.governance.policy import MAX_CONDITIONS, MAX_COST, MAX_RULES
from stemma.ledger.service import Ledger
from stemma.rules.conditions import Condition, language
from stemma.rules.language import MAX_ITEMS, MAX_TEXT, Type
from stemma.store.settings import REPOSITORY

_BAR: Final = 100.0
_HOSTILE: Final = REPOSITORY / "tests" / "governance" / "hostile.json"
_EVENT_TYPE: Final = {
    "name": "Anything",
    "version": "1.0.0",
    "changelog": "Measured.",
    "description": "Whatever somebody sends.",
    "schema": {"type": "object"},
}
_FAILING: Final = {"items": Type.NUMBERS, "note": Type.TEXT, "discount": Type.NUMBER}
_WIDE: Final = {"n": Type.NUMBER, "s": Type.TEXT, "ns": Type.NUMBERS, "ss": Type.TEXTS}
_LARGEST: Final[dict[str, Any]] = {
    "n": 1.0,
    "s": "a" * (MAX_TEXT // 2) + "b",
    "ns": [1.0] * MAX_ITEMS,
    "ss": ["a" * (MAX_EVENT_BYTES // MAX_ITEMS - 20)] * MAX_ITEMS,
}


def main() -> bool:
    """Run the benchmark; True when the bar is met."""
    hostile = json.loads(_HOSTILE.read_text("utf-8"))
    answers: Counter[str] = Counter()
    with scratch_studio("hostile_decisions") as studio, Ledger(studio.database.urls, studio.settings) as ledger:
        ledger.commit(
            studio.database.read(lambda c: types.publish(c, local_principal(), json.dumps(_EVENT_TYPE)))
        ).result()
        decider = Decider(studio.database, studio.settings)
        odd = [{"discount": 0.05, **given} for given in hostile["data"]]
        failing, costly = [], []
        for at, condition in enumerate(hostile["conditions"]):
            node = _node(studio, ledger, f"failing{at}", _FAILING, [(condition, "approve")])
            failing.append(_worst(decider, ledger, node, odd, answers))
        for at, conditions in enumerate(_costliest()):
            # These may hold, as they are meant to; another bundle sees to it that nothing is approved.
            rules = [*((condition, "approve") for condition in conditions), ("true", "escalate")]
            node = _node(studio, ledger, f"costly{at}", _WIDE, rules)
            costly.append(_worst(decider, ledger, node, [_LARGEST, {}], answers))
    return publish(
        "hostile_decisions",
        [
            Measure("conditions that fail, worst decision", max(failing), "ms", bar=_BAR, at_least=False),
            Measure("the costliest conditions, worst decision", max(costly), "ms", bar=_BAR, at_least=False),
        ],
        answers=dict(answers),
    )


def _costliest() -> Iterator[list[str]]:
    """Of each form and filler the costliest condition, as often as a policy may have it."""
    spoken = language(tuple(sorted(_WIDE.items())))
    for form in COSTLY:
        found: list[tuple[str, Condition]] = [
            (filler, made) for filler in FILLERS if (made := largest(spoken.compile, form, filler)) is not None
        ]
        if found:
            _, condition = max(found, key=lambda one: one[1].cost)
            times = min(MAX_COST // max(condition.cost, 1), (MAX_CONDITIONS - 4) // len(condition.text), MAX_RULES - 1)
            yield [condition.text] * times


def _node(
    studio: Studio, ledger: Ledger, name: str, inputs: Mapping[str, Type], rules: Sequence[tuple[str, str]]
) -> str:
    """Publish a node and its policy, of which each condition is a bundle of its own, so that all are asked."""
    policy = {
        "name": f"{name}.policy",
        "version": "1.0.0",
        "changelog": "Measured.",
        "description": "Hostile.",
        "node": name,
        "events": ["Anything"],
        "inputs": {key: {"type": kind.value, "from": f"/event/data/{key}"} for key, kind in inputs.items()},
        "bundles": [
            {"id": f"b{at}", "rules": [{"id": "r", "when": condition, "then": then, "reason": "Why."}]}
            for at, (condition, then) in enumerate(rules)
        ],
        "default": {"then": "escalate", "reason": "None."},
        "autonomy": [{"level": "AL3", "when": "true"}],
        "escalation": {"to": name, "within_hours": 24, "then": "deny"},
    }
    case = {"type": "Other", "data": {}}
    expected = {"verdict": "escalate", "level": "AL0", "rules": ["events"]}
    tests = {"cases": [{"name": "another", "event": case, "expect": expected}]}
    node = {
        "name": name,
        "version": "1.0.0",
        "changelog": "Measured.",
        "description": "Hostile.",
        "policy": f"{name}.policy@1",
        "entity": "Nobody",
        "events": {"Anything": {"text": []}},
        "reward": {"metrics": {"profit": "number"}, "success": "profit > 0.0", "failure": "profit <= 0.0"},
    }
    who = local_principal()
    for make in (
        lambda c: policies.publish(c, who, json.dumps(policy), json.dumps(tests)),
        lambda c: nodes.publish(c, who, json.dumps(node)),
    ):
        ledger.commit(studio.database.read(make)).result()
    return name


def _worst(decider: Decider, ledger: Ledger, node: str, data: list[dict[str, Any]], answers: Counter[str]) -> float:
    """Milliseconds of the slowest event, each the median of three; the node's first decision is not counted."""
    _answer(decider, ledger, node, data[0])
    slowest = 0.0
    for given in data:
        taken = []
        for _ in range(3):
            started = time.perf_counter()
            answer = _answer(decider, ledger, node, given)
            taken.append((time.perf_counter() - started) * 1000)
            answers[answer] += 1
            if answer == "approve":
                sys.exit(f"{node} approved {json.dumps(given)[:200]}.")
        slowest = max(slowest, statistics.median(taken))
    return slowest


def _answer(decider: Decider, ledger: Ledger, node: str, data: dict[str, Any]) -> str:
    try:
        change = decider.decide(local_principal(), node, NewEvent("Anything", data))
    except InvalidInput:
        return "refused"
    return ledger.commit(change).result().verdict.value


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
