"""Keyset-paged lists: their pages, and their cursors, opaque to the client and the sort key of the last row to us.

What the key is belongs to the list; a cursor carries its list's name, so that it is refused by any other.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from stemma.errors import InvalidInput

T = TypeVar("T")

_MAX_LENGTH = 4096
_INT8 = 2**63


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list; `next_cursor` is None on the last."""

    data: tuple[T, ...]
    next_cursor: str | None


def cut_page(found: Sequence[T], limit: int, cursor_after: Callable[[T], str]) -> Page[T]:
    """Cut a list that was read one row too far, so that the last page is known to be the last."""
    kept = tuple(found[:limit])
    return Page(kept, cursor_after(kept[-1]) if len(found) > limit else None)


def encode_cursor(listing: str, *key: int | str) -> str:
    """A cursor that continues `listing` after the row with this sort key."""
    text = json.dumps([listing, *key], separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def decode_cursor(listing: str, cursor: str, *kinds: type[int] | type[str]) -> tuple[int | str, ...]:
    """The sort key in a cursor of `listing`, whose parts are of `kinds`.

    Raises InvalidInput(field="cursor") for one that `encode_cursor` did not make for this list. Integers fit
    Postgres' bigint, text holds no U+0000.
    """
    try:
        if len(cursor) > _MAX_LENGTH:
            raise ValueError("too long")
        text = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        values = json.loads(text)
        if not isinstance(values, list) or len(values) != len(kinds) + 1 or values[0] != listing:
            raise ValueError("of another list")
        for value, kind in zip(values[1:], kinds, strict=True):
            _check(value, kind)
    except (ValueError, binascii.Error, RecursionError) as error:
        raise InvalidInput(
            "cursor_invalid",
            "This cursor does not belong to this list.",
            field="cursor",
            hint="Pass `next_cursor` of the previous page unchanged, or leave it out to start anew.",
        ) from error
    return tuple(values[1:])


def _check(value: object, kind: type[int] | type[str]) -> None:
    if type(value) is not kind:
        raise ValueError("of another shape")
    if isinstance(value, int) and not -_INT8 <= value < _INT8:
        raise ValueError("out of range")
    if isinstance(value, str):
        value.encode()
        if "\0" in value:
            raise ValueError("holds U+0000")
