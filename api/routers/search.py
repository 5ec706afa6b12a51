"""Search over HTTP; how hits are found and ranked is `stemma.knowledge.search`'s business."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from api.access import allow
from api.deps import MetricsDep, SearcherDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.knowledge.models import SearchMode, SearchPage
from stemma.knowledge.search import LARGEST_PAGE, LONGEST_QUERY

router = APIRouter(prefix=API, tags=["search"], route_class=limited("search"), dependencies=[allow("search:read")])


class CitationBody(BaseModel):
    """Where a hit stands: `text[start:end]` of the document whose text has this SHA-256 is the quoted
    passage.
    """

    document_id: int = Field(description="For GET /api/v1/documents/{id}", examples=[42])
    source: str = Field(examples=["installed-docs"])
    uri: str = Field(examples=["pypi:pgvector"])
    title: str = Field(examples=["pgvector-python"])
    heading_path: list[str] = Field(examples=[["pgvector-python", "Psycopg 3"]])
    page_first: int | None = Field(description="First page, counted from 1; null where there are no pages")
    page_last: int | None
    start: int = Field(description="Offset in characters (code points)", examples=[5120])
    end: int = Field(examples=[5630])
    document_sha256: str = Field(description="SHA-256 of the document's text, hexadecimal")


class HitBody(BaseModel):
    """One result. `score` ranks; `dense` is cosine similarity, `lexical` BM25, null where the mode has
    none.
    """

    chunk_id: int
    score: float = Field(examples=[0.93])
    dense: float | None = Field(examples=[0.71])
    lexical: float | None = Field(examples=[14.2])
    text: str = Field(description="The quoted passage")
    highlights: list[tuple[int, int]] = Field(description="Spans of `text` that match words of the query")
    citation: CitationBody


class SearchBody(BaseModel):
    """One page of hits, all from one generation of the index."""

    data: list[HitBody]
    next_cursor: str | None
    facets: dict[str, int] = Field(description="Candidates by source", examples=[{"installed-docs": 87}])
    generation: int = Field(description="The index generation that answered", examples=[7])
    mode: SearchMode
    took_ms: float = Field(examples=[9.4])


@router.get(
    "/search",
    response_model=SearchBody,
    responses=problems(429, 503),
    summary="Search in everything that was read",
)
def search(
    searcher: SearcherDep,
    metrics: MetricsDep,
    q: Annotated[
        str,
        Query(
            min_length=1,
            max_length=LONGEST_QUERY,
            description="What to look for",
            examples=["add an HNSW index to a vector column"],
        ),
    ],
    k: Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="Hits per page")] = 10,
    source: Annotated[list[str] | None, Query(max_length=64, description="Only these sources; repeatable")] = None,
    mode: Annotated[SearchMode, Query(description="Both legs, meaning alone, or words alone")] = "hybrid",
    cursor: Annotated[str | None, Query(max_length=4096, description="`next_cursor` of the previous page")] = None,
) -> dict[str, object]:
    """The best passages with scores, highlights and citations.

    Pages of one search come from one generation: when the index has been renewed since, the cursor is
    refused with `cursor_invalid` and the search starts anew.
    """
    page = searcher.search(q, k=k, sources=source, mode=mode, cursor=cursor)
    metrics.searched(mode, page.took_ms / 1000)
    return _body(page)


def _body(page: SearchPage) -> dict[str, object]:
    return {
        "data": page.hits,
        "next_cursor": page.next_cursor,
        "facets": page.facets,
        "generation": page.generation,
        "mode": page.mode,
        "took_ms": round(page.took_ms, 2),
    }
