"""Canonical bodies by RFC 8785's published vectors, and what cannot be an entry."""

from __future__ import annotations

import enum
import json
import math
import struct
from collections import OrderedDict
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
import rfc8785
from hypothesis import assume, given
from hypothesis import strategies as st

from stemma.errors import InvalidInput, TooLarge
from stemma.ledger.entries import (
    MAX_BODY_BYTES,
    NewEntry,
    canonical,
    draft,
    entry_hash,
    genesis,
    recanonicalized,
)

# RFC 8785, Appendix B: the bits of a double and its form.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}

# RFC 8785 §3.2.2 and §3.2.3, and the files of its author's test data.
DOCUMENTS = {
    r'{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],'
    r' "string": "\u20ac$\u000F\u000aA' + r"'" + r'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}': (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    ),
    r'{"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh", "1": "One",'
    r' "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control", "\u00f6": "Latin Small Letter O With Diaeresis"}': (
        '{"\\r":"Carriage Return","1":"One","\x80":"Control","ö":"Latin Small Letter O With Diaeresis",'
        '"€":"Euro Sign","😀":"Emoji: Grinning Face","\ufb33":"Hebrew Letter Dalet With Dagesh"}'
    ),
    r'{"\u20ac": "Euro Sign", "1": "One", "\u0080": "Control\u007f", "\ud83d\ude02": "Smiley",'
    r' "\u00f6": "Latin Small Letter O With Diaeresis", "\ufb33": "Hebrew Letter Dalet With Dagesh",'
    r' "</script>": "Browser Challenge"}': (
        '{"1":"One","</script>":"Browser Challenge","\x80":"Control\x7f","ö":"Latin Small Letter O With Diaeresis",'
        '"€":"Euro Sign","😂":"Smiley","\ufb33":"Hebrew Letter Dalet With Dagesh"}'
    ),
    '[56, {"d": true, "10": null, "1": []}]': '[56,{"1":[],"10":null,"d":true}]',
    '{"peach": "p1", "péché": "p2", "pêche": "p3", "sin": "p4"}': (
        '{"peach":"p1","péché":"p2","pêche":"p3","sin":"p4"}'
    ),
    '{"1": {"f": {"f": "hi", "F": 5}, "\\n": 56.0}, "10": {}, "": "empty", "a": {}, "111": [{"e": "yes",'
    ' "E": "no"}], "A": {}}': (
        '{"":"empty","1":{"\\n":56,"f":{"F":5,"f":"hi"}},"10":{},"111":[{"E":"no","e":"yes"}],"A":{},"a":{}}'
    ),
    '{"Unnormalized Unicode": "A\\u030a"}': '{"Unnormalized Unicode":"A\u030a"}',
}


@pytest.mark.parametrize(("bits", "text"), NUMBERS.items())
def test_numbers_have_the_form_of_the_published_vectors(bits: str, text: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical(number).decode() == text


@pytest.mark.parametrize(("document", "text"), DOCUMENTS.items())
def test_documents_have_the_form_of_the_published_vectors(document: str, text: str) -> None:
    assert canonical(json.loads(document)) == text.encode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(json_values)
def test_reading_canonical_bytes_and_writing_them_again_changes_nothing(value: Any) -> None:
    body = canonical(value)
    assert recanonicalized(body) == body


class Word(str):
    """A string that says of itself that it is another."""

    def __str__(self) -> str:
        return "something else"


class Count(enum.IntEnum):
    ONE = 1


EDGES = [
    *(-0.0, 0.0, 1.0, -7.0, 1e-4, 9.999999999999999e-05, 1e-6, 1e-7, 5e-324, 4503599627370495.5, 0.1 + 0.2),
    *(1e15, 1e16, 123456789012345680.0, 1e20, 1e21, 1.7976931348623157e308, math.nan, math.inf, -math.inf),
    *(2**53 - 1, 2**53, -(2**53) + 1, -(2**53), 10**400, True, False, None, Count.ONE, Count),
    *("", "\x00\x07\x1f\b\f\n\r\t", '"\\/', "\x7f\x80\u2028\u2029", "\ud800", "\udfff", "\ud83d\ude00", "😀\ufb33"),
    *(Word("a"), b"a", bytearray(b"a"), object, {"a"}, (), (1, ("x",)), [], {}, OrderedDict(b=1, a=2)),
    *({1: "x"}, {None: 1}, {True: 1}, {1.5: 1}, {"a": 1, 2: 3}, {Word("b"): 1, "a": 2}, {"\ud800": 1}, {b"a": 1}),
    *(
        {"\ufb33": 1, "😀": 2},
        {"é": 1, "e": 2, "z": 3},
        {"\r": 1, "\x80": 2, "1": 3},
        {"a": {"c": 1, "b": [{"e": 1, "d": 2}]}},
    ),
]


def agree(value: Any) -> None:
    """Both write the same, or neither writes anything."""
    try:
        expected = rfc8785.dumps(value)
    except Exception:
        with pytest.raises(InvalidInput):
            canonical(value)
    else:
        assert canonical(value) == expected


@pytest.mark.parametrize("value", EDGES, ids=ascii)
def test_the_quick_way_writes_and_refuses_what_the_library_does(value: Any) -> None:
    for whole in (value, [value], (0.5, value), {"k": value}, ["x", {"b": 1, "a": {"c": [value]}}]):
        agree(whole)


some_text = st.text() | st.text('\x00\x1f"\\/\x7f\u0080\u2028\u2029\ufb33\uffff\U00010000😀aé')
some_value = st.recursive(
    json_values
    | some_text
    | some_text.map(Word)
    | st.sampled_from([Count.ONE, 2**53 - 1])
    | st.floats(-1e-3, 1e-3)
    | st.integers(-(2**60), 2**60).map(float),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.dictionaries(some_text, inner, max_size=5),
    max_leaves=8,
)


@given(some_value)
def test_the_quick_way_writes_what_the_library_does(value: Any) -> None:
    agree(value)


printable = st.text().filter(str.isprintable) | st.sampled_from([Word("user:ada"), '"\\', "é😀"])


@given(printable, printable, st.dictionaries(some_text, some_value, max_size=3), st.uuids())
def test_a_body_is_the_canonical_form_of_the_whole_document(actor: str, subject: str, data: Any, name: UUID) -> None:
    fixed = new(actor=actor, subject=subject, data=data, id=name)
    try:
        drafted = draft(fixed)
    except InvalidInput:
        assume(False)
    document = {
        "actor": actor,
        "at": f"{drafted.at:%Y-%m-%dT%H:%M:%S.%fZ}",
        "chain": "audit",
        "data": data,
        "id": str(name),
        "kind": "key.created",
        "subject": subject,
    }
    assert drafted.body == rfc8785.dumps(document)


def new(**changes: Any) -> NewEntry:
    return NewEntry(**{
        "chain": "audit", "kind": "key.created", "actor": "user:ada", "subject": "key/1", "data": {}, **changes
    })  # fmt: skip


def test_the_hash_is_over_the_hash_before_the_number_and_the_bytes() -> None:
    fixed = new(id=UUID(int=7), data={"b": 1, "a": "ż"})
    entry = draft(fixed).seal(1, genesis("audit"))
    said = json.loads(entry.body)
    assert said == {
        "actor": "user:ada",
        "at": said["at"],
        "chain": "audit",
        "data": {"a": "ż", "b": 1},
        "id": "00000000-0000-0000-0000-000000000007",
        "kind": "key.created",
        "subject": "key/1",
    }
    assert entry.data == {"a": "ż", "b": 1}
    assert entry.entry_hash == entry_hash(genesis("audit"), 1, entry.body)
    assert entry_hash(bytes(32), 1, b"{}") == sha256(bytes(32) + b"\0\0\0\0\0\0\0\x01{}").digest()
    assert genesis("audit") != genesis("receipts")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"chain": ""}, "chain_invalid"),
        ({"chain": "Audit"}, "chain_invalid"),
        ({"chain": "a:b:c"}, "chain_invalid"),
        ({"chain": "audit\n"}, "chain_invalid"),
        ({"kind": "key created"}, "kind_invalid"),
        ({"actor": "a\0b"}, "actor_invalid"),
        ({"subject": "s" * 501}, "subject_invalid"),
        ({"subject": "\ud800"}, "subject_invalid"),
        ({"data": {"x": float("nan")}}, "not_canonical"),
        ({"data": {"x": float("inf")}}, "not_canonical"),
        ({"data": {"x": 2**53}}, "not_canonical"),
        ({"data": {"x": "\ud800"}}, "not_canonical"),
        ({"data": {"x": object()}}, "not_canonical"),
        ({"data": {1: "x"}}, "not_canonical"),
    ],
)
def test_what_cannot_be_an_entry_is_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        draft(new(**changes))
    assert caught.value.code == code and caught.value.field is not None


def test_deep_and_large_data_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidInput) as caught:
        draft(new(data={"x": deep}))
    assert caught.value.code == "not_canonical" and "deep" in caught.value.message
    with pytest.raises(TooLarge):
        draft(new(data={"x": "x" * MAX_BODY_BYTES}))
