"""Markdown (CommonMark with tables): the text is the source itself, its headings found by markdown-it-py.

YAML front matter is metadata, not text: it gives the title and is taken off.
"""

from __future__ import annotations

import itertools
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from stemma.knowledge.conversion.titles import document_title
from stemma.knowledge.models import Heading

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

VERSION = "markdown-1"

_FRONT_MATTER = re.compile(r"---[ \t]*\n(.{0,65536}?\n)(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_REFERENCE = re.compile(r"\[([^\[\]]+)\](?:\[[^\[\]]*\])?")
_SKIPPED_INLINE = frozenset({"image", "html_inline"})


def read_markdown(text: str, *, fallback_title: str) -> tuple[str, str, tuple[Heading, ...]]:
    """Split Markdown into (text without front matter, title, headings with offsets of that text)."""
    front_title, body = _front_matter(text)
    headings = markdown_headings(body)
    return body, front_title or document_title(body, headings, fallback_title), headings


def markdown_headings(text: str) -> tuple[Heading, ...]:
    """ATX and setext headings outside code, inline markup stripped from their titles; no empty ones."""
    parser = _parser()
    starts = _line_starts(text)
    tokens = parser.parse(text)
    found = []
    for opening, inline in itertools.pairwise(tokens):
        if opening.type != "heading_open" or opening.map is None or opening.level > 0:
            continue
        title = _plain(_inline_parser().parseInline(inline.content))
        if title:
            start = starts[opening.map[0]]
            found.append(Heading(start=start, level=int(opening.tag[1:]), title=title))
    return tuple(found)


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable("table")
    parser.core.ruler.disable(["inline", "text_join"])
    return parser


@lru_cache(maxsize=1)
def _inline_parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark")


def _line_starts(text: str) -> list[int]:
    starts = [0]
    starts.extend(match.end() for match in re.finditer("\n", text))
    return starts


def _plain(tokens: list[Token]) -> str:
    parts = []
    for token in tokens:
        for child in token.children or []:
            if child.type in ("softbreak", "hardbreak"):
                parts.append(" ")
            elif child.type not in _SKIPPED_INLINE:
                parts.append(child.content)
    return " ".join(_REFERENCE.sub(r"\1", "".join(parts)).split())


def _front_matter(text: str) -> tuple[str | None, str]:
    match = _FRONT_MATTER.match(text)
    if match is None:
        return None, text
    import yaml

    try:
        fields = yaml.safe_load(match.group(1))
    except (yaml.YAMLError, RecursionError, ValueError):
        return None, text
    if not isinstance(fields, dict):
        return None, text
    title = fields.get("title")
    return (" ".join(title.split()) or None) if isinstance(title, str) else None, text[match.end() :]
