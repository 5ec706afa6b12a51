"""The nouns of the knowledge capability, as immutable values that the other modules pass around.

Only shapes live here: no SQL, no file access, no rules.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

SourceKind = Literal["folder", "files", "installed"]
SearchMode = Literal["hybrid", "dense", "lexical"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where documents come from; `locations` are the folder, the files, or extra folders beside installed docs."""

    name: str
    kind: SourceKind
    locations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading at a character offset of the document's text; level 1 is the outermost."""

    start: int
    level: int
    title: str


@dataclass(frozen=True, slots=True)
class ConvertedDocument:
    """The text of one document with its structure. Offsets count characters (code points) of `text`."""

    text: str
    title: str
    media_type: str
    converter: str
    headings: tuple[Heading, ...] = ()
    page_starts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span of one document: `text == document.text[start:end]`, at most `chunk_tokens` word pieces with `context`."""

    ordinal: int
    start: int
    end: int
    text: str
    context: str
    heading_path: tuple[str, ...]
    page_first: int | None
    page_last: int | None
    token_count: int

    @property
    def embed_text(self) -> str:
        """What the model reads: the context line (title and headings), then the quotable text."""
        return f"{self.context}\n{self.text}" if self.context else self.text


@dataclass(frozen=True, slots=True)
class Citation:
    """Where a hit stands. `start` and `end` are character offsets of the text whose SHA-256 is `document_sha256`."""

    document_id: int
    source: str
    uri: str
    title: str
    heading_path: tuple[str, ...]
    page_first: int | None
    page_last: int | None
    start: int
    end: int
    document_sha256: str


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result. Scores: `score` ranks; `dense` is cosine similarity, `lexical` BM25, None where unused."""

    chunk_id: int
    score: float
    dense: float | None
    lexical: float | None
    text: str
    highlights: tuple[tuple[int, int], ...]
    citation: Citation


@dataclass(frozen=True, slots=True)
class SearchPage:
    """One page of hits from one index generation; `next_cursor` is None on the last."""

    hits: tuple[Hit, ...]
    facets: dict[str, int]
    next_cursor: str | None
    generation: int
    mode: SearchMode
    took_ms: float = field(compare=False, default=0.0)
