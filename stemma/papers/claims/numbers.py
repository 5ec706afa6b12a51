"""Numbers as they are printed: value, printed precision and unit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_MINUS: Final = str.maketrans({"−": "-", "–": "-", "\u2010": "-", "\u2011": "-"})
_NUMBER: Final = re.compile(
    r"(?P<digits>[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][-+]?\d{1,3})?)(?P<unit>\s?%)?"
)
_AROUND: Final = "()[]{},;:"


@dataclass(frozen=True, slots=True)
class Number:
    """A printed number: `printed` as the page has it, without its unit; `decimals` are digits after the point."""

    value: float
    printed: str
    decimals: int
    unit: str | None


def parse_number(text: str) -> Number | None:
    """The number that a word is, brackets and punctuation aside; None for a word that is none, such as `3rd`."""
    bare = text.strip(_AROUND)
    # A sentence may end behind a number, a number never with its point.
    bare = bare.removesuffix(".")
    match = _NUMBER.fullmatch(bare.translate(_MINUS))
    if match is None or not any(map(str.isdigit, match["digits"])):
        return None
    digits = match["digits"].replace(",", "")
    value = float(digits)
    if not abs(value) < float("inf"):
        return None
    mantissa, _, exponent = digits.lower().partition("e")
    decimals = len(mantissa.partition(".")[2]) - int(exponent or 0)
    printed = bare[: len(match["digits"])]
    return Number(value, printed, min(max(decimals, 0), 20), "%" if match["unit"] else None)
