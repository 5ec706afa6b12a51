"""Conditions hold when they are true, and never because something failed; hostile ones are refused or bounded.

How long the worst of them takes is measured in benchmarks/policy_rules.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.errors import InvalidInput, StemmaError
from stemma.rules.conditions import Answer, Language, language
from stemma.rules.language import MAX_COST, MAX_ITEMS, MAX_TEXT, Type

HOSTILE = json.loads((Path(__file__).parent / "hostile.json").read_text("utf-8"))
VARIABLES = {
    "amount": Type.NUMBER,
    "ok": Type.BOOLEAN,
    "segment": Type.TEXT,
    "sizes": Type.NUMBERS,
    "tags": Type.TEXTS,
}
VALUES: dict[str, Any] = {"amount": 12, "ok": True, "segment": "Home", "sizes": [1.5, 2], "tags": ["new", "vip"]}
LARGEST: dict[str, Any] = {
    "amount": 1e15,
    "ok": True,
    "segment": "a" * MAX_TEXT,
    "sizes": [1.0] * MAX_ITEMS,
    "tags": ["a" * (MAX_TEXT - 1) + "b"] * MAX_ITEMS,
}


@pytest.fixture(scope="module")
def spoken() -> Language:
    return language(tuple(VARIABLES.items()))


def ask(spoken: Language, text: str, values: dict[str, Any] = VALUES) -> Answer:
    return spoken.compile(text).ask(spoken.bind(values))


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("amount > 10.0 && segment == 'Home'", True),
        ("amount * 2.0 - 4.0 >= 20.0", True),
        ("amount / 4.0 < 3.0", False),
        ("segment in ['Corporate', 'Home']", True),
        ("segment.startsWith('Ho') && !segment.endsWith('x') && segment.contains('om')", True),
        ("tags.exists(tag, tag == 'vip') && tags.all(tag, size(tag) == 3)", True),
        ("tags.exists_one(tag, tag == 'none')", False),
        ("sizes[0] < sizes[1] && size(sizes) == 2 && 2.0 in sizes", True),
        ("ok ? amount < 0.0 : true", False),
        ("true || sizes[9] > 0.0", True),
        ("sizes[9] > 0.0 && false", False),
    ],
)
def test_a_condition_holds_or_does_not(spoken: Language, text: str, holds: bool) -> None:
    assert ask(spoken, text) == Answer(holds)


@pytest.mark.parametrize(
    "text", ["sizes[9] > 0.0", "false || sizes[9] > 0.0", "sizes[9] > 0.0 || !ok", "!(sizes[-1] > 0.0)"]
)
def test_a_condition_that_fails_does_not_hold(spoken: Language, text: str) -> None:
    answer = ask(spoken, text)
    assert not answer.holds and answer.error


@pytest.mark.parametrize(("code", "text"), [(case["code"], case["unit"] * case["times"]) for case in HOSTILE])
def test_hostile_conditions_are_refused(spoken: Language, code: str, text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        spoken.compile(text)
    assert refused.value.code == code and len(str(refused.value)) < 500


_TOKENS = (
    "amount ok segment sizes tags ( ) [ ] { } . , ? : ! - + * / % < > == != <= >= && || in 1 2.0 'x' true false null"
    " all exists exists_one map filter has size contains x r'a' b'c' ''' \\ ` # @ $ 1u é 😀 \0 dyn type matches"
)
tokens = st.sampled_from(_TOKENS.split(" "))


@given(st.lists(tokens, max_size=40).map(" ".join))
def test_any_text_is_refused_or_bounded_and_answers(spoken: Language, text: str) -> None:
    try:
        condition = spoken.compile(text)
    except InvalidInput as refused:
        assert refused.field == "when"
    else:
        assert condition.cost <= MAX_COST
        answer = condition.ask(spoken.bind(LARGEST))
        assert answer.error is None or not answer.holds


@given(st.text())
def test_text_at_random_never_breaks_the_compiler(spoken: Language, text: str) -> None:
    try:
        spoken.compile(text)
    except StemmaError as refused:
        assert str(refused).isprintable() or "\n" not in str(refused)


@pytest.mark.parametrize(
    ("name", "value"),
    [("amount", value) for value in ("12", True, None, float("nan"), float("inf"), 2**53, -1e300, [1])]
    + [("segment", value) for value in ("a\0b", "\ud800", 1, None, "x" * (MAX_TEXT + 1), ["x"])]
    + [("tags", value) for value in ("vip", ["vip", 1], ["a\0"], ["x"] * (MAX_ITEMS + 1), {"vip": 1}, None)]
    + [("sizes", value) for value in ([True], ["1"], [[1.0]], [float("nan")])]
    + [("ok", value) for value in (1, "true", None)],
)
def test_a_value_of_another_type_is_refused(spoken: Language, name: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        spoken.bind({**VALUES, name: value})
    assert refused.value.field == name


def test_a_value_that_is_missing_is_refused(spoken: Language) -> None:
    with pytest.raises(InvalidInput, match="amount"):
        spoken.bind({})


@pytest.mark.parametrize("name", ["in", "size", "true", "Amount", "a-b", "", "a" * 64, "9a"])
def test_names_that_conditions_cannot_use_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        Language({name: Type.TEXT})


def test_a_condition_is_compiled_once() -> None:
    same = tuple(VARIABLES.items())
    assert language(same) is language(same)
    assert language(same).compile("ok") is language(same).compile("ok")


def test_the_compiler_s_words_reach_the_author(spoken: Language) -> None:
    with pytest.raises(InvalidInput, match=r"character 8 of line 1.*3\.0"):
        spoken.compile("amount > 3")
    with pytest.raises(InvalidInput, match=r"undeclared reference to 'nothing'"):
        spoken.compile("nothing > 3.0")
