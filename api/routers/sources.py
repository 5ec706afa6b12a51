"""Where documents come from, and what could not be read there."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from api.access import allow
from api.deps import DatabaseDep, PageDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.knowledge import catalog
from stemma.knowledge.models import SourceKind
from stemma.store.cursors import Page

router = APIRouter(prefix=API, tags=["sources"], route_class=limited("documents"), dependencies=[allow("ingest:read")])


class SourceBody(BaseModel):
    """A source with what it holds now."""

    name: str = Field(examples=["installed-docs"])
    kind: SourceKind
    locations: list[str] = Field(description="Its folder or files; extra folders beside installed documentation")
    documents: int = Field(examples=[180])
    chunks: int = Field(examples=[4210])
    quarantined: int = Field(description="Items that could not be read", examples=[0])


class SourcesBody(BaseModel):
    """All sources; they are few, so there is one page."""

    data: list[SourceBody]
    next_cursor: None = None


class QuarantinedBody(BaseModel):
    """An item that could not be read, with the reason."""

    source: str = Field(examples=["inbox"])
    uri: str = Field(examples=["scan.pdf"])
    code: str = Field(examples=["pdf_encrypted"])
    reason: str = Field(examples=["The PDF is encrypted."])
    size: int | None = Field(description="Bytes, where known")
    first_seen_at: datetime
    last_seen_at: datetime


class QuarantineBody(BaseModel):
    """One page of the quarantine."""

    data: list[QuarantinedBody]
    next_cursor: str | None


@router.get("/sources", response_model=SourcesBody, responses=problems(429, 503), summary="List the sources")
def list_sources(database: DatabaseDep) -> Page[catalog.SourceSummary]:
    """Every source that is read, with counts."""
    return Page(database.read(catalog.list_sources), None)


@router.get(
    "/quarantine",
    response_model=QuarantineBody,
    responses=problems(404, 429, 503),
    summary="List what could not be read",
)
def list_quarantine(
    database: DatabaseDep,
    page: PageDep,
    source: Annotated[str | None, Query(max_length=63, description="Only this source")] = None,
) -> Page[catalog.QuarantinedItem]:
    """Files that could not be read, with the reason; they are tried again when they change."""
    return database.read(
        lambda connection: catalog.list_quarantine(connection, source=source, cursor=page.cursor, limit=page.limit)
    )
