"""reStructuredText: the text is the source itself, its section titles found by their adornment lines.

Rules: docutils' reStructuredText specification, "Sections". Levels follow the order in which styles appear.
"""

from __future__ import annotations

import re

from stemma.knowledge.conversion.titles import document_title
from stemma.knowledge.models import Heading

VERSION = "rst-1"

_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1+[ \t]*")
_ROLE = re.compile(r":[a-zA-Z][\w:.+-]*:(?=`)")
_LINK = re.compile(r"`([^`<]*?)\s*<[^`>]*>`__?")
_MARKUP = re.compile(r"``|`__?|`|\*\*|(?<!\w)\*|\*(?!\w)|(?<=\w)_(?!\w)")
_SUBSTITUTION = re.compile(r"\|[^|\s][^|]*\|_{0,2}")


def read_restructured(text: str, *, fallback_title: str) -> tuple[str, str, tuple[Heading, ...]]:
    """Split reStructuredText into (text, title, headings with offsets of that text)."""
    headings = restructured_headings(text)
    return text, document_title(text, headings, fallback_title), headings


def restructured_headings(text: str) -> tuple[Heading, ...]:
    """Section titles with inline markup stripped; a heading starts at its overline where it has one."""
    lines = text.split("\n")
    starts = _starts(lines)
    styles: list[tuple[str, bool]] = []
    found: list[Heading] = []
    index = 1
    while index < len(lines):
        overlined = _overlined(lines, index)
        if overlined or _underlined(lines, index):
            style = (lines[index][0] if not overlined else lines[index - 2][0], overlined)
            if style not in styles:
                styles.append(style)
            title = _plain(lines[index - 1])
            if title:
                first = index - 2 if overlined else index - 1
                found.append(Heading(starts[first], min(styles.index(style) + 1, 6), title))
            index += 2
        else:
            index += 1
    return tuple(found)


def _starts(lines: list[str]) -> list[int]:
    starts, offset = [], 0
    for line in lines:
        starts.append(offset)
        offset += len(line) + 1
    return starts


def _is_adornment(line: str) -> bool:
    return _ADORNMENT.fullmatch(line) is not None


def _underlined(lines: list[str], index: int) -> bool:
    title, underline = lines[index - 1], lines[index]
    if not title.strip() or title[0].isspace() or not _is_adornment(underline) or _is_adornment(title):
        return False
    if index >= 2 and lines[index - 2].strip():
        return False
    length = len(underline.rstrip())
    return length >= len(title.rstrip()) or length >= 4


def _overlined(lines: list[str], index: int) -> bool:
    if index < 2:
        return False
    over, title, under = lines[index - 2], lines[index - 1], lines[index]
    if not title.strip() or not _is_adornment(over) or over.rstrip() != under.rstrip() or _is_adornment(title):
        return False
    return (index < 3 or not lines[index - 3].strip()) and len(over.rstrip()) >= len(title.rstrip())


def _plain(title: str) -> str:
    title = _LINK.sub(r"\1", _ROLE.sub("", _SUBSTITUTION.sub("", title)))
    return " ".join(_MARKUP.sub("", title).split())
