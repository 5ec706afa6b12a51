"""Searching what the studio has read."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from stemma.agents.tools.model import Arguments, Found, Tool, Use
from stemma.knowledge.models import Citation, Hit

_MAX_PASSAGE: Final = 1_500

SourceName = Annotated[str, Field(min_length=1, max_length=63)]


class Query(Arguments):
    """What to look for."""

    query: str = Field(min_length=1, max_length=500, description="A question or a few words")
    count: int = Field(default=5, ge=1, le=10, description="How many passages")
    sources: list[SourceName] = Field(default=[], max_length=20, description="Only these sources; empty: all")


def _search(use: Use, wanted: Query) -> Found:
    page = use.studio.searcher.search(wanted.query, k=wanted.count, sources=wanted.sources or None)
    passages = [_passage(number, hit) for number, hit in enumerate(page.hits, 1)]
    return Found(passages or "Nothing was found.", page.hits, {"passages": len(passages)})


def _passage(number: int, hit: Hit) -> dict[str, object]:
    return {"number": number, "where": where(hit.citation), "text": hit.text[:_MAX_PASSAGE]}


def where(citation: Citation) -> str:
    """Where a passage stands, in words."""
    place = [citation.title, *citation.heading_path]
    if citation.page_first is not None:
        place.append(f"page {citation.page_first}")
    return f"{' › '.join(dict.fromkeys(place))} ({citation.source}: {citation.uri})"


SEARCH: Final = Tool(
    "search_index",
    "Searches everything that the studio has read and gives the passages that fit best, with where they stand.",
    Query,
    ("search:read",),
    _search,
)
