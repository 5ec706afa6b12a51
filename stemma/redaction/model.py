"""What redaction finds and what stands in its place. How things are found is in the detectors' modules."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """The kinds of findings, in the order in which equally long ones win."""

    URL_TOKEN = "url_token"  # noqa: S105 - a kind's name
    SECRET = "secret"  # noqa: S105 - a kind's name
    PROVIDER_ID = "provider_id"
    CARD = "card"
    IBAN = "iban"
    NATIONAL_ID = "national_id"
    PHONE = "phone"
    EMAIL = "email"
    IP = "ip"


PRIORITY = {kind: rank for rank, kind in enumerate(Kind)}

PROVIDER_PREFIXES = ("vs", "vsfb", "file", "asst", "thread", "msg", "resp", "batch", "proj", "org", "ftjob", "chatcmpl")
_KEPT_OF_PROVIDER_ID = 8

_PLACEHOLDERS = {kind: f"[{kind}]" for kind in Kind} | {Kind.URL_TOKEN: "[token]"}
_BRACKETED = re.compile(rf"\[(?:{'|'.join(text[1:-1] for text in sorted(set(_PLACEHOLDERS.values())))})\]")
_SHORTENED = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(PROVIDER_PREFIXES)})[_-][A-Za-z0-9]{{0,6}}\*\*\*")


class Span(NamedTuple):
    """Characters `start` to `end` of a text and what they are."""

    start: int
    end: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class Finding:
    """Where something was found in the text that was given; the value itself is never kept."""

    kind: Kind
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Redacted:
    """The text with its findings replaced, and the findings in order of their place in the original."""

    text: str
    findings: tuple[Finding, ...]


class Source:
    """A text with its lower-cased form, of equal length, so that offsets hold in both."""

    __slots__ = ("lower", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        lower = text.lower()
        # A few capitals grow when lower-cased (U+0130); those texts are lowered letter by letter.
        if len(lower) != len(text):
            lower = "".join(letter.lower() if letter.isascii() else letter for letter in text)
        self.lower = lower

    def before(self, position: int, length: int) -> str:
        """Up to `length` lower-cased characters before `position`."""
        return self.lower[max(0, position - length) : position]


def placeholder(kind: Kind, value: str) -> str:
    """What replaces `value`: the kind in brackets; of a provider's id the first eight characters stay."""
    return f"{value[:_KEPT_OF_PROVIDER_ID]}***" if kind is Kind.PROVIDER_ID else _PLACEHOLDERS[kind]


def find_placeholders(text: str) -> list[tuple[int, int]]:
    """The places of replacements that are in the text already, in order."""
    found = [match.span() for match in _BRACKETED.finditer(text)] if "]" in text else []
    return sorted([*found, *(match.span() for match in _SHORTENED.finditer(text))]) if "***" in text else found
