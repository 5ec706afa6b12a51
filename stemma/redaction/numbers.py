"""The walk over a text's words with digits in them, which is where numbers of every kind begin."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stemma.redaction.identifiers import find_identifiers, shape_of
from stemma.redaction.model import Kind, Source, Span
from stemma.redaction.phones import find_phone

_DIGITS = re.compile(r"[0-9]+")
_WORD = re.compile(r"[0-9A-Za-z]*")
# Longer words are hashes and encoded data; an IBAN has at most 34 characters.
_LONGEST = 40
_LEFT = re.compile(r"[0-9A-Za-z]{1,40}")


def find_numbers(source: Source, *, phones: bool, identifiers: bool) -> Iterator[Span]:
    """Cards, IBANs, national ids and phone numbers: each word is looked at once, each look is bounded."""
    text = source.text
    seen = covered = 0
    for digits in _DIGITS.finditer(text):
        if digits.start() < seen:
            continue
        start = _word_start(text, digits.start())
        end = seen = _word_end(text, digits.end())
        if end - start > _LONGEST:
            continue
        if identifiers:
            for span in find_identifiers(source, start, shape_of(text[start:end])):
                covered = max(covered, span.end)
                yield span
        if phones and start == digits.start() and start >= covered:
            found = find_phone(source, start)
            if found is not None:
                covered = found[1]
                yield Span(*found, Kind.PHONE)


def _word_start(text: str, digit: int) -> int:
    if digit == 0 or not text[digit - 1].isalnum():
        return digit
    left = _LEFT.match(text[max(0, digit - _LONGEST) : digit][::-1])
    start = digit - (left.end() if left else 0)
    # In a text that shows its line breaks as \n, the n is no part of the word.
    return start + 1 if start and text[start - 1] == "\\" and text[start] in "nrt" else start


def _word_end(text: str, digit: int) -> int:
    word = _WORD.match(text, digit)
    return word.end() if word else digit
