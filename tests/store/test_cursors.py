from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.errors import InvalidInput
from stemma.store.cursors import decode_cursor, encode_cursor

_INT = st.integers(-(2**63), 2**63 - 1)
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200)


@given(_INT, _TEXT)
def test_a_cursor_gives_its_key_back(number: int, text: str) -> None:
    cursor = encode_cursor("papers", number, text)
    assert cursor.isascii()
    assert decode_cursor("papers", cursor, int, str) == (number, text)


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.hex()))
def test_anything_else_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode_cursor("papers", cursor, int)
    assert (caught.value.code, caught.value.field) == ("cursor_invalid", "cursor")


@pytest.mark.parametrize(
    "cursor",
    [
        encode_cursor("claims", 1),
        encode_cursor("papers", "1"),
        encode_cursor("papers"),
        encode_cursor("papers", 1, 2),
        encode_cursor("papers", 2**63),
        "x" * 5000,
    ],
)
def test_a_cursor_of_another_list_or_shape_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput):
        decode_cursor("papers", cursor, int)


def test_text_that_the_database_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidInput):
        decode_cursor("papers", encode_cursor("papers", "a\0b"), str)
