"""What statistical programs print in a paper: tables of coefficients, and coefficients below their names.

The call that made them is printed, too; it says method and data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from stemma.papers.claims.found import Found
from stemma.papers.claims.numbers import Number, parse_number
from stemma.papers.pages import Line, Page, Word

_FIRST_COLUMN: Final = r"(Estimate|Value|Coef\.?|coef|coefficients?)"
_HEADER: Final = re.compile(rf"{_FIRST_COLUMN} (Std\. ?Error|std err|S\.E\.|SE\b|lower bd)")
_SECTION: Final = re.compile(r"(\w+ )?coefficients\b.*:?$", re.IGNORECASE)
_NAMES_FOLLOW: Final = re.compile(r"Coefficients:$|^(R?> ?)?coef\(")
_PROMPT: Final = re.compile(r"^(R?>|\+|>>>)\s*")
_FITTED: Final = re.compile(r"\b(?:\w+ ?<- ?)?(\w+)\(\s*(?:formula ?= ?)?[^=~()]*(?:\([^()]*\))?[^=~()]*~")
_ASSIGNED: Final = re.compile(r"^([\w.]+) ?(?:<-|=) ?(.+)$", re.DOTALL)
_SHOWN: Final = re.compile(r"(?:summary|print|coef|coefficients)\(([\w.]+)\s*[,)]|^([\w.]+)$")
_DATA: Final = re.compile(r"\bdata ?= ?\"?([\w.]+)")
_REFERS: Final = re.compile(r"update\(([\w.]+)")
_TERM: Final = re.compile(r"\(?[A-Za-z][\w.:^*()-]*\)?")
_CALL_LINES: Final = 6
_REACH: Final = 60
_GAP_ROWS: Final = 3.0


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that fitted a model, the data that it names, and what the model is called from then on."""

    text: str
    data: str | None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    page: Page
    index: int

    @property
    def line(self) -> Line:
        return self.page.lines[self.index]


def find_in_listings(pages: Sequence[Page]) -> Iterator[Found]:
    """What the listings of a paper claim."""
    places = [_Place(page, index) for page in pages for index in range(len(page.lines))]
    calls = _calls(places)
    for at, place in enumerate(places):
        if _HEADER.match(place.line.text):
            call = _call_before(places, at, calls)
            section = _section_before(places, at)
            yield from _table(places[at + 1 :], place, call, section)
        elif at and parse_number(place.line.words[0].text) is not None:
            names = _names(places, at)
            if names is not None:
                call = _call_before(places, at, calls)
                yield from _beneath(place, names, call)


def _table(below: Sequence[_Place], header: _Place, call: _Call | None, section: str) -> Iterator[Found]:
    page, bottom = header.page, max(word.box[3] for word in header.line.words)
    for index, place in enumerate(below):
        line = place.line
        if place.page is not page and index == 0:
            # The page ends below the headings; the next one begins with its running head.
            page, bottom = place.page, 0.0
            continue
        row = _row(line)
        if place.page is not page or row is None:
            return
        if bottom and line.words[0].box[1] - bottom > _GAP_ROWS * line.size:
            return
        bottom = max(word.box[3] for word in line.words)
        term, word, number = row
        yield _claim(place, word, number, term, call, section)


def _row(line: Line) -> tuple[str, Word, Number] | None:
    """The term of a row and its first number; None for a line that is no such row."""
    for index, word in enumerate(line.words):
        number = parse_number(word.text)
        if number is not None:
            term = " ".join(before.text for before in line.words[:index])
            return (term, word, number) if index and _TERM.match(term) else None
    return None


def _names(places: Sequence[_Place], at: int) -> tuple[str, ...] | None:
    """The names above a line of numbers, where there is one for each, below what says that they are coefficients."""
    line = places[at].line
    if any(parse_number(word.text) is None for word in line.words):
        return None
    names = tuple(word.text for word in places[at - 1].line.words)
    if len(names) != len(line.words) or not all(map(_TERM.fullmatch, names)):
        return None
    before = places[max(0, at - 3) : at - 1]
    return names if any(_NAMES_FOLLOW.search(place.line.text) for place in before) else None


def _beneath(place: _Place, names: Sequence[str], call: _Call | None) -> Iterator[Found]:
    for name, word in zip(names, place.line.words, strict=True):
        number = parse_number(word.text)
        if number is not None:
            yield _claim(place, word, number, name, call, "")


def _claim(place: _Place, word: Word, number: Number, term: str, call: _Call | None, section: str) -> Found:
    what = f"{section} coefficient".strip().capitalize() if section else "Coefficient"
    known = 0.03 * (call is not None) + 0.05 * (call is not None and call.data is not None)
    return Found(
        metric=f"{what[0].lower()}{what[1:]} {term}",
        value=number.value,
        printed=number.printed,
        decimals=number.decimals,
        unit=number.unit,
        dataset=call.data if call else None,
        method=call.text if call else None,
        split=None,
        page=place.page.number,
        box=word.box,
        quote=place.line.text,
        confidence=round(0.87 + known, 2),
    )


def _section_before(places: Sequence[_Place], at: int) -> str:
    """Which coefficients a table is of where a model has several: `precision` for those of its precision."""
    for place in reversed(places[max(0, at - 2) : at]):
        if _SECTION.match(place.line.text):
            return "precision" if re.search(r"\b(phi|precision)\b", place.line.text, re.IGNORECASE) else ""
    return ""


def _calls(places: Sequence[_Place]) -> dict[int, _Call]:
    """The calls that fit a model, by the place where they begin."""
    found: dict[int, _Call] = {}
    named: dict[str, _Call] = {}
    for at, place in enumerate(places):
        start = _PROMPT.sub("", place.line.text.removeprefix("Call: "))
        refers = _REFERS.search(start)
        if not _FITTED.search(start) and not refers:
            continue
        text = _balanced(places, at, start)
        assigned = _ASSIGNED.match(text) if "<-" in text.partition("(")[0] else None
        name, body = (assigned[1], assigned[2]) if assigned else (None, text)
        data = _DATA.search(body)
        known = named.get(refers[1]) if refers else None
        call = _Call(body, data[1] if data else known.data if known else None, name)
        found[at] = call
        if name:
            named[name] = call
    return found


def _balanced(places: Sequence[_Place], at: int, start: str) -> str:
    """A call to its closing bracket, over as many lines as it takes."""
    text = start
    for place in places[at + 1 : at + _CALL_LINES]:
        if text.count("(") <= text.count(")"):
            break
        text += " " + _PROMPT.sub("", place.line.text)
    return text


def _call_before(places: Sequence[_Place], at: int, calls: dict[int, _Call]) -> _Call | None:
    """The call whose result is shown: the one that is printed last before it, or that of the model named last."""
    for place in range(at, max(-1, at - _REACH), -1):
        if place in calls:
            return calls[place]
        shown = _SHOWN.search(_PROMPT.sub("", places[place].line.text)) if place < at else None
        if shown and (name := shown[1] or shown[2]):
            named = [call for where, call in calls.items() if where < place and call.name == name]
            if named:
                return named[-1]
    return None
