"""A policy gives every event a verdict, the same each time, and approves nothing that failed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.errors import InvalidInput
from stemma.governance.checking import check
from stemma.governance.evaluation import Applicable, Verdict, applicable, evaluate
from stemma.governance.policy import Level, Policy, Ruling

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["Asked", "Foreign", "\0"])
)
documents = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "data", "amount", "items", "segment", "0"]), inner, max_size=4)
    ),
    max_leaves=8,
)
plausible = st.fixed_dictionaries(
    {"type": st.just("Asked"), "data": st.fixed_dictionaries({"amount": leaves, "items": st.lists(leaves, max_size=3)})}
)
contexts = documents | st.fixed_dictionaries({"segment": leaves})


@pytest.fixture(scope="module")
def policy(small: str, cases: str) -> Applicable:
    compiled = check(small, cases).policy
    assert compiled is not None
    return compiled


def asked(policy: Applicable, context: Any = None, variant: str = "baseline", **data: Any) -> Verdict:
    return evaluate(policy, {"type": "Asked", "data": data}, context or {}, variant=variant)


def told(verdict: Verdict) -> tuple[str, str, list[str]]:
    return verdict.verdict.value, verdict.level.value, [reason.rule for reason in verdict.reasons]


def test_the_first_rule_of_a_bundle_answers_and_the_strictest_bundle_counts(policy: Applicable) -> None:
    assert told(asked(policy, amount=1)) == ("approve", "AL3", ["size/small"])
    assert told(asked(policy, amount=9, items=[1, 2])) == ("approve", "AL1", ["size/small"])
    assert told(asked(policy, amount=9, items=[1, 9])) == ("deny", "AL1", ["size/first"])
    assert told(asked(policy, {"segment": "Foreign"}, amount=9)) == ("deny", "AL1", ["size/small", "who/foreign"])
    assert told(asked(policy, {"segment": "Foreign"}, amount=600)) == ("deny", "AL1", ["size/large", "who/foreign"])
    assert told(asked(policy, amount=600)) == ("escalate", "AL0", ["size/large"])
    assert told(asked(policy, amount=50)) == ("deny", "AL1", ["default"])
    assert told(asked(policy, amount=9, items=[-1, 2])) == ("approve", "AL0", ["size/small"])


def test_a_variant_has_its_own_parameters(policy: Applicable) -> None:
    assert told(asked(policy, amount=15)) == ("deny", "AL1", ["default"])
    assert told(asked(policy, amount=15, variant="strict")) == ("approve", "AL1", ["size/small"])
    with pytest.raises(InvalidInput, match="variant"):
        asked(policy, amount=15, variant="none")


def test_what_fails_is_escalated_whatever_else_is_said(policy: Applicable) -> None:
    failed = asked(policy, {"segment": "Foreign"}, amount=1, items=[9])
    assert told(failed) == ("escalate", "AL0", ["size/first", "who/foreign"])
    assert "could not be evaluated" in failed.reasons[0].text


def test_a_band_that_fails_escalates(small: str, cases: str) -> None:
    compiled = check(small.replace("items.all(item, item > 0.0)", "items[7] > 0.0"), cases).policy
    assert compiled is not None
    assert told(asked(compiled, amount=9)) == ("escalate", "AL0", ["size/small", "autonomy/AL1"])


def test_beyond_a_limit_nothing_is_decided_alone(small: str, cases: str) -> None:
    compiled = check(small.replace("at_most: 1000", "at_least: 2, at_most: 8"), cases).policy
    assert compiled is not None
    assert told(asked(compiled, amount=1)) == ("escalate", "AL0", ["size/small", "limit/amount"])
    assert told(asked(compiled, amount=9, items=[1, 9])) == ("deny", "AL0", ["size/first", "limit/amount"])
    assert told(asked(compiled, amount=8)) == ("approve", "AL1", ["size/small"])


@pytest.mark.parametrize(
    ("event", "rules"),
    [
        (None, ["events"]),
        ([], ["events"]),
        ({"type": ["Asked"]}, ["events"]),
        ({"type": "Other", "data": {"amount": 1}}, ["events"]),
        ({"type": "Asked"}, ["input/amount"]),
        ({"type": "Asked", "data": {"amount": "1"}}, ["input/amount"]),
        ({"type": "Asked", "data": {"amount": True, "items": 1}}, ["input/amount", "input/items"]),
        ({"type": "Asked", "data": {"amount": 10**400}}, ["input/amount"]),
    ],
)
def test_what_the_policy_is_not_made_for_is_escalated(policy: Applicable, event: Any, rules: list[str]) -> None:
    assert told(evaluate(policy, event, {})) == ("escalate", "AL0", rules)


@given(st.one_of(documents, plausible), contexts)
def test_any_event_has_a_verdict_the_same_each_time(policy: Applicable, event: Any, context: Any) -> None:
    verdict, again = evaluate(policy, event, context), evaluate(policy, event, context)
    assert verdict == again and verdict.sha256 == again.sha256 and verdict.reasons
    failed = [
        reason for reason in verdict.reasons if reason.rule.startswith(("events", "input/", "limit/", "autonomy/"))
    ]
    failed += [reason for reason in verdict.reasons if "could not be evaluated" in reason.text]
    assert not failed or verdict.verdict is not Ruling.APPROVE
    assert verdict.verdict is not Ruling.ESCALATE or verdict.level is Level.AL0


def test_the_hash_is_of_what_is_said_and_not_of_who_said_it(policy: Applicable, small: str, cases: str) -> None:
    later = check(small.replace("1.0.0", "1.0.1"), cases).policy
    assert later is not None
    assert asked(policy, amount=1).sha256 == asked(later, amount=1).sha256
    assert asked(policy, amount=1).policy != asked(later, amount=1).policy
    assert asked(policy, amount=1).sha256 != asked(policy, amount=9).sha256


@pytest.mark.parametrize(
    ("when", "bundles", "path", "what"),
    [
        ("items.all(a, a in items)", 1, ("bundles", 0, "rules", 0, "when"), "units of work"),
        (" || ".join(["items == items"] * 20), 6, ("bundles",), "units of work"),
        ("true" + " " * 900, 18, ("bundles",), "characters"),
    ],
)
def test_the_work_of_a_policy_has_a_bound(
    policy: Applicable, when: str, bundles: int, path: tuple[str | int, ...], what: str
) -> None:
    said = policy.policy.model_dump(by_alias=True)
    rule = {"id": "r", "when": when, "then": "deny", "reason": "Why."}
    said["bundles"] = [{"id": f"b{at}", "rules": [rule]} for at in range(bundles)]
    compiled, (flaw,) = applicable(Policy.model_validate(said), "")
    assert compiled is None and flaw.path == path and what in flaw.message
