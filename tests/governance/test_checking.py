"""What is wrong with a policy is told all at once, with line and column; nothing in a text breaks the reader."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.errors import CheckFailed, InvalidInput, StemmaError, TooLarge
from stemma.governance import golden, yaml_text
from stemma.governance.checking import check
from stemma.governance.policies import texts as texts_of
from stemma.governance.policy import Policy
from stemma.registry.model import Published

WRONG = [
    ("version: 1.0.0", "version: 1.0", "2:10", "version"),
    ("version: 1.0.0", "version: v1.0.0", "2:10", "version"),
    ("name: finance.small", "name: Finance", "1:7", "name"),
    ("changelog: First version.", "changelog: ''", "3:12", "changelog"),
    ("node: finance", "nodes: finance", "5:8", "nodes"),
    ("type: number,", "type: integer,", "8:18", "inputs.amount.type"),
    ("/event/data/amount", "event.amount", "8:32", "inputs.amount.from"),
    ("default: []", "default: [a]", "9:60", "inputs.items.default"),
    ("parameters: {least: 10}", "parameters: {least: {a: 1}}", "11:21", "parameters.least"),
    ("parameters: {least: 10}", "parameters: {least: 10, amount: 1}", "11:33", "parameters.amount"),
    ("{least: 20}", "{most: 20}", "13:31", "variants.strict.parameters.most"),
    ("{least: 20}", "{least: many}", "13:32", "variants.strict.parameters.least"),
    ("strict:", "baseline:", "13:13", "variants.baseline"),
    ("input: amount, at_most: 1000", "input: items, at_most: 1", "15:13", "limits[0].input"),
    ("amount, at_most: 1000", "amount", "15:5", "limits[0]"),
    ("amount < least", "amount < 10", "20:27", "bundles[0].rules[1].when"),
    ("id: large", "id: small", "21:14", "bundles[0].rules[2].id"),
    ("id: who", "id: size", "22:9", "bundles[1].id"),
    ("then: escalate", "then: allow", "21:49", "bundles[0].rules[2].then"),
    ("level: AL1", "level: AL3", "27:3", "autonomy"),
    ("level: AL3", "level: AL0", "27:3", "autonomy"),
    ("within_hours: 24", "within_hours: 0", "29:41", "escalation.within_hours"),
    ("24, then: deny", "24, then: approve", "29:51", "escalation.then"),
]


def test_the_small_policy_is_right(small: str, cases: str) -> None:
    checked = check(small, cases)
    assert checked.findings == () and checked.valid


@pytest.mark.parametrize(("right", "wrong", "place", "path"), WRONG)
def test_a_mistake_is_told_with_its_place(
    small: str, cases: str, right: str, wrong: str, place: str, path: str
) -> None:
    assert right in small
    checked = check(small.replace(right, wrong), cases)
    assert checked.draft is None and not checked.valid
    assert (place, path) in {(f"{found.line}:{found.column}", found.path) for found in checked.findings}
    with pytest.raises(InvalidInput, match="line"):
        checked.publishable()


def test_everything_wrong_is_told_at_once(small: str) -> None:
    checked = check(small.replace("deny", "maybe").replace("1.0.0", "1"), "cases: [{name: a}]")
    assert {found.text for found in checked.findings} == {"policy", "tests"} and len(checked.findings) > 5
    assert "more" in str(_refusal(checked))


def _refusal(checked: Any) -> StemmaError:
    with pytest.raises(StemmaError) as refused:
        checked.publishable()
    return refused.value


def test_a_golden_case_that_fails_keeps_a_policy_from_being_published(small: str, cases: str) -> None:
    checked = check(small, cases.replace("AL3", "AL2").replace("size/small", "who/foreign"))
    assert checked.findings == () and not checked.valid
    assert checked.results[0].failure == "level is AL3, not AL2; rules is size/small, not who/foreign"
    assert isinstance(_refusal(checked), CheckFailed)
    assert check(small, cases + "    variant: none\n").results[0].failure is not None


def test_a_policy_without_golden_cases_is_not_published(small: str) -> None:
    for nothing in ("", "cases: []", "{}"):
        assert {found.text for found in check(small, nothing).findings} == {"tests"}


def test_the_samples_do_what_their_cases_say_and_each_rule_answers_in_one(sample: Path) -> None:
    checked = check(sample.read_text("utf-8"), sample.with_suffix(".tests.yaml").read_text("utf-8"))
    assert checked.valid, (checked.findings, [result for result in checked.results if not result.passed])
    assert checked.policy is not None and golden.unused(checked.policy, checked.results) == ()


def test_what_is_published_is_read_as_it_was_written(sample: Path) -> None:
    checked = check(sample.read_text("utf-8"), sample.with_suffix(".tests.yaml").read_text("utf-8"))
    assert checked.draft is not None and checked.policy is not None
    content = json.loads(checked.draft.canonical())
    draft = checked.draft
    again = Policy.of_content(content["policy"], name=draft.name, version=str(draft.version), changelog=draft.changelog)
    assert again == checked.policy.policy


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: &x 1\nb: *x", "Anchors"),
        ("a: !!python/object/apply:os.system [true]", "Tags"),
        ("a: 1\na: 2", "twice (line 2, column 1)"),
        ("a: 1\n---\nb: 2", "several documents"),
        ("[" * 5_000, "deeper"),
        ("{a: " * 5_000, "deeper"),
        ("? [a]\n: 1", "plain text"),
        ("a: [1", "no YAML"),
        ('a: "\\0"', "U+0000"),
        ("a: \0", "no YAML"),
        ("a: 1e999", "beyond"),
        ("a: 99999999999999999999", "beyond"),
        ("", "empty"),
        ("# nothing", "empty"),
    ],
)
def test_yaml_that_is_not_taken_is_refused(text: str, what: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        yaml_text.read(text, field="policy")
    assert what in refused.value.message or "character that YAML does not take" in refused.value.message


def test_large_texts_are_refused() -> None:
    with pytest.raises(TooLarge):
        yaml_text.read("a" * 70_000, field="policy")
    assert check("a" * 70_000, "").findings[0].text == "policy"


def test_plain_scalars_mean_what_they_mean_in_json() -> None:
    said = "a: no\nb: 0x1F\nc: 2026-01-31\nd: 1_000\ne: 12:30\nf: true\ng: null\nh: -1.5e3\ni: '1'\nj: 007\nk: .5"
    assert yaml_text.read(said, field="x").value == {
        "a": "no", "b": "0x1F", "c": "2026-01-31", "d": "1_000", "e": "12:30", "f": True, "g": None, "h": -1500.0,
        "i": "1", "j": 7, "k": ".5",
    }  # fmt: skip


values = st.recursive(
    st.booleans() | st.none() | st.integers(-(10**15), 10**15) | st.text("aé漢😀 1:-#"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_json_is_yaml_and_means_the_same(value: Any) -> None:
    assert yaml_text.read(json.dumps(value, ensure_ascii=False), field="x").value == value


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
scalars = texts | st.sampled_from(["1e5", "007", "no", "~", "- a", "2026-01-31", "a: b", "#", " ", "+1", "null"])


@given(
    st.recursive(
        st.booleans() | st.none() | st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False)
        | scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3),
        max_leaves=8,
    )
)  # fmt: skip
def test_what_is_written_is_read_as_the_same(value: Any) -> None:
    assert yaml_text.read(yaml_text.write(value), field="x").value == value


def test_a_published_policy_is_written_as_the_same_policy(sample: Path) -> None:
    draft = check(sample.read_text("utf-8"), sample.with_suffix(".tests.yaml").read_text("utf-8")).publishable()
    content = json.loads(draft.canonical())
    named = (draft.name, str(draft.version), "", draft.changelog, "key:x", datetime.now(UTC))
    written = texts_of(Published(*named, content))
    assert check(written.policy, written.tests).publishable().canonical() == draft.canonical()


@given(
    st.text()
    | st.lists(st.sampled_from(["a", ":", " ", "\n", "- ", "[", "]", "{", "}", "&a", "*a", "!", "|", "'"])).map("".join)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    checked = check(text, text)
    assert checked.draft is None and checked.findings
    try:
        yaml_text.read(text, field="x")
    except InvalidInput:
        return
    assert checked.findings[0].line is not None
