"""Sealed fields: what was sealed is what is opened, and nothing opens that was touched or moved."""

from __future__ import annotations

import json
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.errors import InvalidInput
from stemma.ledger.entries import canonical
from stemma.personal.fields import MARKER, in_body, parsed, sealed
from stemma.personal.keys import SubjectKey
from stemma.personal.subjects import Subject, subject_of

ADA, BOB = Subject("a" * 32), Subject("b" * 32)
KEY = SubjectKey(UUID(int=1), bytes(range(32)))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.text())
def test_what_was_sealed_is_opened(value: object, name: str) -> None:
    field = parsed(json.loads(canonical(sealed(value, ADA, KEY, f"/{name}").to_json())))
    assert field is not None and field.opened(KEY, f"/{name}") == value


@given(VALUES, st.data())
def test_nothing_opens_that_was_touched_or_moved(value: object, data: st.DataObject) -> None:
    field = sealed(value, ADA, KEY, "/email")
    place = data.draw(st.integers(0, len(field.ciphertext) * 8 - 1))
    flipped = bytearray(field.ciphertext)
    flipped[place // 8] ^= 1 << place % 8
    cut = data.draw(st.integers(0, len(field.ciphertext) - 1))
    touched = [
        (replace(field, ciphertext=bytes(flipped)), KEY, "/email"),
        (replace(field, ciphertext=field.ciphertext[:cut]), KEY, "/email"),
        (replace(field, nonce=bytes(12)), KEY, "/email"),
        (replace(field, subject=BOB), KEY, "/email"),
        (replace(field, key_id=uuid4()), KEY, "/email"),
        (field, KEY, "/phone"),
        (field, SubjectKey(KEY.key_id, bytes(32)), "/email"),
    ]
    for altered, key, path in touched:
        with pytest.raises(ValueError, match="does not open"):
            altered.opened(key, path)


@given(st.dictionaries(st.text(), VALUES))
def test_a_body_is_read_without_parsing_and_text_is_never_taken_for_a_field(data: dict[str, object]) -> None:
    field = sealed("x", ADA, KEY, "/f").to_json()
    looks_like_one = canonical(field).decode()
    body = canonical({"data": {**data, "said": looks_like_one, "f": field, "list": [field]}})
    assert list(in_body(body)) == [(ADA, KEY.key_id)] * 2
    assert MARKER not in canonical({"said": looks_like_one, "key\\": looks_like_one})


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"personal": "erased"},
        {"personal": {"subject": "a" * 32}},
        {**sealed(1, ADA, KEY, "/f").to_json(), "more": 1},
        {"personal": {**sealed(1, ADA, KEY, "/f").to_json()["personal"], "nonce": "!"}},
        {"personal": {**sealed(1, ADA, KEY, "/f").to_json()["personal"], "nonce": "AAAA"}},
        {"personal": {**sealed(1, ADA, KEY, "/f").to_json()["personal"], "key": "1"}},
        {"personal": {**sealed(1, ADA, KEY, "/f").to_json()["personal"], "subject": "Ada"}},
        {"personal": {**sealed(1, ADA, KEY, "/f").to_json()["personal"], "ciphertext": 1}},
    ],
)
def test_what_is_no_sealed_field(value: object) -> None:
    assert parsed(value) is None


def test_a_value_that_json_cannot_say_is_refused_and_not_repeated() -> None:
    for value in (float("nan"), 2**60 + 77, "Ada\ud800", {1: "Ada"}, object()):
        with pytest.raises(InvalidInput) as caught:
            sealed(value, ADA, KEY, "/email")
        assert caught.value.code == "personal_not_canonical" and caught.value.__suppress_context__
        assert "Ada" not in str(caught.value) and "77" not in str(caught.value)


def test_a_secret_is_not_shown() -> None:
    assert repr(KEY.secret) not in repr(KEY)


@given(st.text(min_size=1))
def test_a_name_has_one_pseudonym_however_it_is_written(name: str) -> None:
    key = b"k" * 32
    try:
        subject = subject_of(name, key)
    except InvalidInput as error:
        assert error.code == "subject_invalid"
        return
    assert subject_of(f"  {name}\n", key) == subject
    assert len(subject.pseudonym) == 32 and subject_of(name, b"l" * 32) != subject


def test_names_of_one_person_and_of_two() -> None:
    key = b"k" * 32
    same = {subject_of(name, key) for name in ("Zoë  Straße", "ZOË STRASSE", "zoe\u0308 strasse", "Zoë Straße")}
    assert len(same) == 1 and subject_of("Zoe Strasse", key) not in same


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "\x1b[2J", "x" * 501, "\ud800"])
def test_what_is_no_name_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        subject_of(name, b"k" * 32)
    assert caught.value.code == "subject_invalid" and caught.value.field == "subject"
    assert not name.strip() or name not in str(caught.value)
