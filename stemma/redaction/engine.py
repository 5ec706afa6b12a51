"""Redaction itself: run the detectors, settle overlaps, replace, and look again at what a replacement laid bare.

A replacement can make its neighbour readable: the boundary was a digit, or a word such as "phone" now stands nearer.
So the surroundings of each replacement are looked at again, as long as that finds something; only then the whole is.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from stemma.errors import InvalidInput
from stemma.redaction import addresses, credentials
from stemma.redaction.model import PRIORITY, Finding, Kind, Redacted, Source, Span, find_placeholders, placeholder
from stemma.redaction.names import is_secret_name
from stemma.redaction.numbers import find_numbers

_LOOKS = 6
# How far a detector reads around what it finds, to the left and to the right; a finding in what lies beyond the first
# of each pair would be one of the cut.
_LEFT, _RIGHT = (96, 256), (64, 320)
# Whoever writes a chain of findings, each laid bare by the one before, is not followed for ever.
_LONGEST_CHAIN = 1000
_DEEPEST = 64
_MASK = placeholder(Kind.SECRET, "")
_IDENTIFIERS = frozenset({Kind.CARD, Kind.IBAN, Kind.NATIONAL_ID})


def redact(text: str, *, kinds: Iterable[Kind | str] | None = None) -> Redacted:
    """Replace personal data and secrets by what they are: "mail bob@example.org" becomes "mail [email]".

    `kinds` limits what is looked for; None: everything. Findings have offsets in `text`; redacting the result again
    finds nothing. The work grows linearly with the text.

    Raises:
        InvalidInput: a kind is unknown.
    """
    return _redact(text, _wanted(kinds), "")


def redact_value(value: Any, *, kinds: Iterable[Kind | str] | None = None) -> Any:
    """The same JSON-like value with every string redacted, in new containers.

    The value under a key whose name says secret is replaced whole, unless it is None or a boolean. Keys stay as they
    are. Numbers that read as a card are replaced; an object that is not JSON stays unless its text has findings.

    Raises:
        InvalidInput: a kind is unknown.
    """
    return _value(value, _wanted(kinds), "", _DEEPEST)


def _wanted(kinds: Iterable[Kind | str] | None) -> frozenset[Kind]:
    if kinds is None:
        return frozenset(Kind)
    try:
        return frozenset(Kind(kind) for kind in kinds)
    except ValueError as error:
        raise InvalidInput(
            "unknown_kind", f"{error}.", field="kinds", hint=f"Known kinds are {', '.join(Kind)}."
        ) from error


def _value(value: Any, kinds: frozenset[Kind], name: str, depth: int) -> Any:
    if value is None or isinstance(value, bool | float):
        return value
    if depth == 0:
        return _MASK
    if isinstance(value, str):
        return _redact(value, kinds, name).text
    if isinstance(value, int):
        return value if abs(value) < 10**8 else _as_text(value, kinds, name)
    if isinstance(value, Mapping):
        return {key: _member(key, item, kinds, depth) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [_value(item, kinds, name, depth - 1) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return _as_text(value, kinds, name)


def _member(key: Any, value: Any, kinds: frozenset[Kind], depth: int) -> Any:
    name = str(key)
    if Kind.SECRET in kinds and is_secret_name(name):
        return value if value is None or isinstance(value, bool) else _MASK
    return _value(value, kinds, name, depth - 1)


def _as_text(value: Any, kinds: frozenset[Kind], name: str) -> Any:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else str(value)
    redacted = _redact(text, kinds, name)
    return redacted.text if redacted.findings else value


def _redact(text: str, kinds: frozenset[Kind], name: str) -> Redacted:
    """As `redact`; the name of the key that holds the text is read before it, as its context."""
    context = f"{name[:40]}: " if name else ""
    spans: list[Span] = []
    shown = text
    for _ in range(_LOOKS):
        found = _scan(context + shown, kinds, len(context))
        if not found:
            break
        new = [*_in_original(found, spans)]
        spans = sorted([*spans, *new])
        rested = _look_around(text, context, kinds, spans, new)
        shown = _replace(text, spans)
        if rested:
            break
    return Redacted(shown, tuple(Finding(span.kind, span.start, span.end) for span in spans))


def _look_around(text: str, context: str, kinds: frozenset[Kind], spans: list[Span], new: list[Span]) -> bool:
    """Look at the surroundings of the new spans, and of those that this adds to `spans`; True when there were none.

    Each look costs what its window costs, so that a chain of findings, each laid bare by the last, takes linear time.
    """
    rested, looked = True, 0
    while new and looked <= _LONGEST_CHAIN:
        more: list[Span] = []
        for start, end in _windows(text, spans, new):
            looked += 0 if rested else 1
            inside = spans[bisect_left(spans, (start,)) : bisect_left(spans, (end,))]
            local = [Span(span.start - start, span.end - start, span.kind) for span in inside]
            before = "" if start else context
            shown = _replace(text[start:end], local)
            found = _scan(before + shown, kinds, len(before))
            rested = rested and not found
            first, last = _LEFT[0] if start else 0, len(shown) - (_RIGHT[0] if end < len(text) else 0)
            whole = [span for span in found if span.start >= first and span.end <= last]
            more += [Span(a + start, b + start, kind) for a, b, kind in _in_original(whole, local)]
        for span in more:
            insort(spans, span)
        new = more
    return rested


def _windows(text: str, spans: list[Span], new: list[Span]) -> Iterator[tuple[int, int]]:
    """The surroundings of the new spans, none of which cuts a span and no two of which overlap, in order."""
    open_start, open_end = 0, -1
    for span in new:
        start, end = max(0, span.start - _LEFT[1]), min(len(text), span.end + _RIGHT[1])
        at = bisect_left(spans, (start,))
        if at and spans[at - 1].end > start:
            start = spans[at - 1].start
        at = bisect_left(spans, (end,))
        if at and spans[at - 1].end > end:
            end = spans[at - 1].end
        if start > open_end:
            if open_end >= 0:
                yield open_start, open_end
            open_start = start
        open_end = max(open_end, end)
    if open_end >= 0:
        yield open_start, open_end


def _scan(text: str, kinds: frozenset[Kind], offset: int) -> list[Span]:
    """What is found behind `offset`, without overlaps and outside of placeholders, in order; offsets count from it."""
    found = {span for span in _detect(Source(text), kinds) if span.kind in kinds and span.end > offset}
    if not found:
        return []
    taken = [(start - offset, end - offset) for start, end in find_placeholders(text)]
    return _settle(
        [Span(max(0, span.start - offset), span.end - offset, span.kind) for span in found], taken, text[offset:]
    )


def _detect(source: Source, kinds: frozenset[Kind]) -> Iterator[Span]:
    text = source.text
    if Kind.EMAIL in kinds and ("@" in text or "%40" in text):
        yield from addresses.find_emails(source)
    if Kind.IP in kinds:
        yield from addresses.find_ips(source)
    phones, identifiers = Kind.PHONE in kinds, not kinds.isdisjoint(_IDENTIFIERS)
    if phones or identifiers:
        yield from find_numbers(source, phones=phones, identifiers=identifiers)
    if Kind.URL_TOKEN in kinds:
        yield from credentials.find_url_tokens(source)
    if Kind.SECRET in kinds or Kind.PROVIDER_ID in kinds:
        yield from credentials.find_tokens(source)
    if Kind.SECRET in kinds:
        yield from credentials.find_private_keys(source)
        yield from credentials.find_url_passwords(source)
        yield from credentials.find_authorizations(source)
        yield from credentials.find_assigned(source)


def _settle(found: list[Span], taken: list[tuple[int, int]], text: str) -> list[Span]:
    """The longest wins, then the kind's priority, then the first; what of a loser sticks out is replaced as well."""
    # One sweep over the borders: between two of them the same spans are open, and the best of those owns the piece.
    ranked = sorted(found, key=lambda span: (span.start - span.end, PRIORITY[span.kind], span.start))
    owner = _owners(ranked, taken)
    settled: list[Span] = []
    for start, end, span in owner:
        if any(letter.isalnum() for letter in text[start:end]):
            # The beginning of an identifier may be shown, that of what is left of one would say nothing.
            whole = (start, end) == (span.start, span.end) or span.kind != Kind.PROVIDER_ID
            settled.append(Span(start, end, span.kind if whole else Kind.SECRET))
    return settled


def _owners(ranked: list[Span], taken: list[tuple[int, int]]) -> Iterator[tuple[int, int, Span]]:
    """Pieces of the text with the span that they belong to, in order; a span's neighbouring pieces are one."""
    closed = [(start, end, -1) for start, end in taken]
    events = sorted([*((span.start, span.end, rank) for rank, span in enumerate(ranked)), *closed])
    borders = sorted({border for start, end, _ in events for border in (start, end)})
    open_: list[tuple[int, int]] = []
    following = 0
    current: tuple[int, int, int] | None = None
    for left, right in pairwise(borders):
        while following < len(events) and events[following][0] <= left:
            heapq.heappush(open_, (events[following][2], events[following][1]))
            following += 1
        while open_ and open_[0][1] <= left:
            heapq.heappop(open_)
        rank = open_[0][0] if open_ else -1
        if current is not None and (rank != current[2] or current[1] != left):
            yield current[0], current[1], ranked[current[2]]
            current = None
        if rank >= 0:
            current = (current[0], right, rank) if current else (left, right, rank)
    if current is not None:
        yield current[0], current[1], ranked[current[2]]


def _replace(text: str, spans: list[Span]) -> str:
    pieces, done = [], 0
    for start, end, kind in spans:
        pieces += [text[done:start], placeholder(kind, text[start:end])]
        done = end
    return "".join([*pieces, text[done:]])


def _in_original(found: list[Span], spans: list[Span]) -> Iterator[Span]:
    """The same findings with their offsets in the original; each lies between two replacements."""
    behind = iter([*spans])
    following = next(behind, None)
    shift = 0
    for start, end, kind in found:
        while following is not None and following.start <= start + shift:
            shown = len(placeholder(following.kind, "x" * (following.end - following.start)))
            shift += (following.end - following.start) - shown
            following = next(behind, None)
        yield Span(start + shift, end + shift, kind)
