"""Holding a claim to its page: the digits that it names have to be printed there, and are where its box is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stemma.errors import InvalidInput
from stemma.papers.claims.numbers import Number, parse_number
from stemma.papers.model import Box
from stemma.papers.pages import Line, Page, Word, page_not_found


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a value is printed: the number as the page has it, its box, and the line that it stands in."""

    number: Number
    box: Box
    quote: str


def find_ground(pages: Sequence[Page], page: int, printed: str, quote: str | None = None) -> Ground:
    """Where a value is printed on a page; of several places the one whose line is most like the quote.

    Raises InvalidInput: `claim_without_number` for what is no number, `claim_not_on_page` where the page does not have
    these digits; NotFound(page_not_found).
    """
    wanted = parse_number(printed)
    if wanted is None:
        hint = "Give the value as the page prints it."
        raise InvalidInput("claim_without_number", f"{printed!r} is no number.", field="printed", hint=hint)
    held = next((candidate for candidate in pages if candidate.number == page), None)
    if held is None:
        raise page_not_found(page)
    places = [(line, word, number) for line in held.lines for word, number in _numbers(line) if _same(number, wanted)]
    if not places:
        raise InvalidInput(
            "claim_not_on_page",
            f"Page {page} does not print {printed}.",
            field="printed",
            hint="Name the page that prints it, and the value with all of its digits.",
        )
    told = set((quote or "").split())
    line, word, number = max(places, key=lambda place: len(told.intersection(place[0].text.split())))
    return Ground(number, word.box, line.text)


def _numbers(line: Line) -> list[tuple[Word, Number]]:
    return [(word, number) for word in line.words if (number := parse_number(word.text)) is not None]


def _same(one: Number, other: Number) -> bool:
    return one.value == other.value and one.decimals == other.decimals
