"""What holds for every text: offsets, overlaps, idempotence; and for values, their shape."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stemma.errors import InvalidInput
from stemma.redaction import Kind, is_secret_name, redact, redact_value

FRAGMENTS = [
    "bob@example.org", "+49 30 123456", "030 12345678", "4111 1111 1111 1111", "4111111111111111",
    "DE89 3704 0044 0532 0130 00", "8.8.8.8", "2001:db8::1", "password=", "token: ", "secret",
    "Authorization: Bearer ", "Cookie: a=", "eyJhbGciOiJIUzI1NiJ9.e30.c2ln", "?sig=", "&token=", "postgresql://u:",
    "@h/x", "vs_abcdef0123456789abcdef", "vs_abcde***", "[secret]", "[email]", "[", "]", "***", "://", "12345678Z",
    "078-05-1120", "131052-308T", "ssn ", "tel ", "stm_abcdefgh12345678", "-----BEGIN PRIVATE KEY-----",
    "-----END PRIVATE KEY-----", "\\n", "\n", " ", ",", ".", "-", "'", "\"", "abc", "1", "é", "İ", "api_key: '",
    "--token ", "390.533.447-05",
]  # fmt: skip
TEXTS = st.one_of(st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join), st.text(max_size=60))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=600, deadline=None)
@given(TEXTS)
def test_redacting_twice_changes_nothing(text: str) -> None:
    once = redact(text)
    again = redact(once.text)
    assert again.text == once.text
    assert again.findings == ()


@settings(max_examples=400, deadline=None)
@given(TEXTS)
def test_findings_do_not_overlap_and_the_rest_of_the_text_stays(text: str) -> None:
    redacted = redact(text)
    rest, done = [], 0
    for finding in redacted.findings:
        assert done <= finding.start < finding.end <= len(text)
        rest.append(text[done : finding.start])
        done = finding.end
    rest.append(text[done:])
    place = 0
    for piece in rest:
        place = redacted.text.index(piece, place) + len(piece)
    assert redacted == redact(text)


def test_findings_say_where_and_never_what() -> None:
    text = "ask bob@example.org or +49 30 123456"
    redacted = redact(text)
    assert [(found.kind, text[found.start : found.end]) for found in redacted.findings] == [
        (Kind.EMAIL, "bob@example.org"),
        (Kind.PHONE, "+49 30 123456"),
    ]
    assert "bob" not in repr(redacted)


def test_the_longest_of_overlapping_findings_wins_and_the_rest_of_the_other_goes_too() -> None:
    # The secret of the assignment runs over the address, and the address over nothing else.
    assert redact("password=x9-bob@example.org!7").text == "password=[secret]"
    # A key inside a signed URL's parameter: equally long, the place says more than the form.
    assert redact("/f?token=" + "ghp_" + "a1" * 18).text == "/f?token=[token]"


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(InvalidInput, match="emial"):
        redact("x", kinds=["emial"])
    with pytest.raises(InvalidInput):
        redact_value({}, kinds=["emial"])


@settings(max_examples=150, deadline=None)
@given(JSON)
def test_values_keep_their_shape(value: Any) -> None:
    redacted = redact_value(value)
    _same_shape(value, redacted)
    assert redact_value(redacted) == redacted


def _same_shape(value: Any, redacted: Any) -> None:
    if isinstance(value, dict) and isinstance(redacted, dict):
        assert list(value) == list(redacted)
        for key in value:
            _same_shape(value[key], redacted[key])
    elif isinstance(value, list) and isinstance(redacted, list):
        assert len(value) == len(redacted)
        for before, after in zip(value, redacted, strict=True):
            _same_shape(before, after)
    else:
        assert redacted == value or isinstance(redacted, str)


def test_values_under_secret_names_are_replaced_whole() -> None:
    value = {
        "password": "a b c",
        "X-Api-Key": ["k1", {"k": 2}],
        "clientSecret": 12,
        "Authorization": "Bearer abc",
        "set-cookie": "a=b",
        "signature": "MEUCIQ",
        "token": None,
        "secret": True,
        "token_count": 512,
        "max_tokens": 4096,
        "nested": [{"refresh_token": "x", "note": "mail bob@example.org"}],
    }
    assert redact_value(value) == {
        "password": "[secret]",
        "X-Api-Key": "[secret]",
        "clientSecret": "[secret]",
        "Authorization": "[secret]",
        "set-cookie": "[secret]",
        "signature": "[secret]",
        "token": None,
        "secret": True,
        "token_count": 512,
        "max_tokens": 4096,
        "nested": [{"refresh_token": "[secret]", "note": "mail [email]"}],
    }
    assert value["nested"][0]["refresh_token"] == "x"


def test_a_keys_name_is_the_context_of_its_value() -> None:
    value = {
        "ssn": "123456782",
        "phone": "0301234567",
        "bsn": "111222333",
        "order": "111222333",
        "pan": 4111111111111111,
    }
    assert redact_value(value) == {
        "ssn": "[national_id]",
        "phone": "[phone]",
        "bsn": "[national_id]",
        "order": "111222333",
        "pan": "[card]",
    }


def test_other_objects_are_replaced_only_when_their_text_has_findings() -> None:
    at = datetime(2026, 11, 20, tzinfo=UTC)
    error = ValueError("no route to bob@example.org")
    assert redact_value({"at": at, "error": error, "raw": b"password=hunter2", "plain": b"x"}) == {
        "at": at,
        "error": "no route to [email]",
        "raw": "password=[secret]",
        "plain": b"x",
    }
    assert redact_value(("bob@example.org", 1)) == ("[email]", 1)


def test_values_nested_beyond_reason_are_cut_off() -> None:
    value: Any = "bob@example.org"
    for _ in range(5000):
        value = [value]
    assert "bob" not in str(redact_value(value))


@pytest.mark.parametrize(
    "name",
    ["password", "DB_PASSWORD", "apiKey", "x-api-key", "access_token", "Cookie", "client_secret", "hmac-signature"],
)
def test_secret_names(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["tokens", "token_count", "next_token", "secret_name", "key", "author", "partition_key"]
)
def test_names_that_are_none(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("remote:2001:db8::17", "remote:[ip]"),
        ("2001:" * 20, "2001:" * 20),
        ("?sig=-----BEGIN PRIVATE KEY-----vs_0123456789abcdef", "?sig=[secret][secret]"),
    ],
)
def test_what_is_part_of_something_longer_is_settled_at_once(text: str, expected: str) -> None:
    assert redact(text).text == redact(expected).text == expected
