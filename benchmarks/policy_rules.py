"""Policies: what evaluating five rules costs, and how long the worst condition that anybody can write holds a process.

The policy is one bundle of five rules, of which the last holds, with two bands; an evaluation reads its inputs, checks
their types, asks the conditions and makes the verdict. Beside it, the same five conditions asked bare, and as Python's
own expressions: what the typed inputs, reasons and bands cost over that.

Hostile conditions are those of the tests, which are refused, and the costliest of each form that is allowed, asked with
the largest values that inputs may have. The median of three counts: what is measured is the work, not what else runs.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from benchmarks.studio import Measure, publish
from stemma.errors import StemmaError
from stemma.governance.checking import check
from stemma.governance.evaluation import Applicable, evaluate
from stemma.governance.policy import MAX_CONDITIONS
from stemma.governance.policy import MAX_COST as MAX_POLICY_COST
from stemma.rules.conditions import Condition, language
from stemma.rules.language import MAX_COST, MAX_EXPRESSION, MAX_ITEMS, MAX_TEXT, Type
from stemma.store.settings import REPOSITORY

_ROUNDS: Final = 20_000
_BAR: Final = 150.0
_HOSTILE_BAR: Final = 100.0
_HOSTILE: Final = REPOSITORY / "tests" / "rules" / "hostile.json"
_CONDITIONS: Final = (
    "amount > 5000.0 && segment == 'Consumer'",
    "discount > highest",
    "category in ['Furniture', 'Tables', 'Bookcases'] && discount > 0.2",
    "amount * discount > 900.0",
    "tags.exists(tag, tag == 'vip') || discount <= 0.1",
)
_PYTHON: Final = (
    "amount > 5000.0 and segment == 'Consumer'",
    "discount > highest",
    "category in ['Furniture', 'Tables', 'Bookcases'] and discount > 0.2",
    "amount * discount > 900.0",
    "any(tag == 'vip' for tag in tags) or discount <= 0.1",
)
_EVENT: Final[dict[str, Any]] = {
    "type": "Asked",
    "data": {"amount": 1200.5, "discount": 0.15, "segment": "Corporate", "category": "Paper", "tags": ["new", "vip"]},
}
_LARGEST: Final[dict[str, Any]] = {
    "n": 1.0,
    "s": "a" * (MAX_TEXT // 2) + "b",
    "ns": [1.0] * MAX_ITEMS,
    "ss": ["a" * MAX_TEXT] * MAX_ITEMS,
}
COSTLY: Final = (
    "ss.all(x, !x.contains(s){})",
    "ss.all(x, size(x) > 1{})",
    "ss.exists_one(x, x == s{})",
    "ns.exists(x, x > 2.0{})",
    "ss == ss{}",
    "s in ss{}",
    "n in [{}]",
)
FILLERS: Final = (
    " || x == s",
    " && x != s",
    " && !x.contains(s)",
    " && x > 0.0",
    " || ss != ss",
    " || s in ss",
    "2.0,",
)


def main() -> bool:
    """Run the benchmark; True when the bars are met."""
    policy = _policy()
    scope = {**_EVENT["data"], "highest": 0.3}
    whole = _microseconds(lambda: evaluate(policy, _EVENT, {"confidence": 0.8}))
    spoken = policy.language
    bound = spoken.bind({**scope, "confidence": 0.8})
    conditions = [spoken.compile(text) for text in _CONDITIONS]
    bare = _microseconds(lambda: [condition.ask(bound).holds for condition in conditions])
    compiled = [compile(text, "<rule>", "eval") for text in _PYTHON]
    python = _microseconds(lambda: [eval(code, {"any": any}, scope) for code in compiled])
    refused, asked, unit = _hostile()
    measures = [
        Measure("a policy of five rules and two bands, p50", statistics.median(whole), "µs"),
        Measure("a policy of five rules and two bands, p95", _p95(whole), "µs", bar=_BAR, at_least=False),
        Measure("its five conditions alone, p95", _p95(bare), "µs"),
        Measure("the same in Python's eval, p95", _p95(python), "µs"),
        Measure("hostile conditions, refused, worst", refused, "ms", bar=_HOSTILE_BAR, at_least=False),
        Measure("costliest conditions that are allowed, worst", asked, "ms", bar=_HOSTILE_BAR, at_least=False),
        Measure("a policy of such conditions, checked", _worst_policy(), "ms", bar=_HOSTILE_BAR, at_least=False),
        Measure("a unit of cost, worst", unit, "µs", bar=_HOSTILE_BAR * 1000 / MAX_POLICY_COST, at_least=False),
    ]
    return publish("policy_rules", measures, rounds=_ROUNDS, max_cost=MAX_COST, max_policy_cost=MAX_POLICY_COST)


def _policy() -> Applicable:
    expected = {"verdict": "approve", "level": "AL2", "rules": ["all/r4"]}
    case = {"name": "one", "event": _EVENT, "context": {"confidence": 0.8}, "expect": expected}
    checked = check(json.dumps(_said()), json.dumps({"cases": [case]}))
    assert checked.valid and checked.policy is not None, checked
    return checked.policy


def _worst_policy() -> float:
    """Milliseconds that checking a policy of conditions takes that are as long as they may be, and too costly."""
    texts = [("tags.exists(a, a == 'x') || " * 34 + "true").ljust(960 + at) for at in range(MAX_CONDITIONS // 1000)]
    rules = [{"id": "r", "when": text, "then": "approve", "reason": "Why."} for text in texts]
    said = json.dumps(_said() | {"bundles": [{"id": f"b{at}", "rules": [rule]} for at, rule in enumerate(rules)]})
    started = time.thread_time()
    assert check(said, "cases: []").findings
    return (time.thread_time() - started) * 1000


def _said() -> dict[str, Any]:
    rules = [
        {"id": f"r{at}", "when": text, "then": "approve" if at == 4 else "deny", "reason": "Why."}
        for at, text in enumerate(_CONDITIONS)
    ]
    inputs = {
        name: {"type": kind, "from": f"/event/data/{name}"}
        for name, kind in (("amount", "number"), ("discount", "number"), ("segment", "text"), ("category", "text"))
    }
    return {
        "name": "bench",
        "version": "1.0.0",
        "changelog": "Measured.",
        "description": "Five rules.",
        "node": "finance",
        "events": ["Asked"],
        "inputs": {
            **inputs,
            "tags": {"type": "texts", "from": "/event/data/tags"},
            "confidence": {"type": "number", "from": "/context/confidence"},
        },
        "parameters": {"highest": 0.3},
        "bundles": [{"id": "all", "rules": rules}],
        "default": {"then": "escalate", "reason": "None."},
        "autonomy": [
            {"level": "AL3", "when": "confidence > 0.9 && amount < 100.0"},
            {"level": "AL2", "when": "confidence > 0.7"},
        ],
        "escalation": {"to": "finance", "within_hours": 24, "then": "deny"},
    }


def _hostile() -> tuple[float, float, float]:
    """Milliseconds of the worst refusal and the worst answer, and microseconds of a unit of cost at worst."""
    spoken = language((("n", Type.NUMBER), ("s", Type.TEXT), ("ns", Type.NUMBERS), ("ss", Type.TEXTS)))
    values = spoken.bind(_LARGEST)
    cases = json.loads(_HOSTILE.read_text("utf-8"))
    refused = max(_milliseconds(lambda c=case: _try(spoken.compile, c["unit"] * c["times"])) for case in cases)
    worst, unit = 0.0, 0.0
    for form in COSTLY:
        for filler in FILLERS:
            condition = largest(spoken.compile, form, filler)
            if condition is None:
                continue
            condition.ask(values)
            taken = _milliseconds(lambda c=condition: c.ask(values))
            worst = max(worst, taken)
            unit = max(unit, taken * 1000 / max(condition.cost, MAX_COST // 100))
    return refused, worst, unit


def largest(compiled: Callable[[str], Condition], form: str, filler: str) -> Condition | None:
    """The form with the filler as often as is allowed."""
    found = None
    for times in range(MAX_EXPRESSION // len(filler)):
        made = _try(compiled, form.format((filler * times).rstrip(",")))
        if made is None and times > 1:
            break
        found = made or found
    return found


def _try(compiled: Callable[[str], Condition], text: str) -> Condition | None:
    try:
        return compiled(text)
    except StemmaError:
        return None


def _microseconds(work: Callable[[], object]) -> list[float]:
    for _ in range(200):
        work()
    taken = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        work()
        taken.append((time.perf_counter() - started) * 1e6)
    return taken


def _milliseconds(work: Callable[[], object]) -> float:
    """The median of three, of the processor's time."""
    taken = []
    for _ in range(3):
        started = time.thread_time()
        work()
        taken.append((time.thread_time() - started) * 1000)
    return statistics.median(taken)


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
