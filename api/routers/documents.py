"""Documents over HTTP: upload one into the inbox, list them, and open the passage that a citation names."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, File, Path, Query, Response, UploadFile
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.deps import DatabaseDep, LedgerDep, PageDep, SettingsDep
from api.idempotency import OnceDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.access.principal import Principal
from stemma.knowledge import catalog
from stemma.knowledge.convert import SUPPORTED
from stemma.knowledge.uploads import UploadStatus, record_upload, store_upload
from stemma.store.cursors import Page

UPLOAD_PATH: Final = "/documents"

router = APIRouter(
    prefix=API, tags=["documents"], route_class=limited("documents"), dependencies=[allow("ingest:read")]
)
uploads = APIRouter(prefix=API, tags=["documents"], route_class=limited("uploads"))


class UploadBody(BaseModel):
    """A file that lies whole and durable in the inbox; a sensor reads it within a minute."""

    name: str = Field(examples=["minutes.md"])
    source: str = Field(examples=["inbox"])
    uri: str = Field(description="Its `uri` once it is listed", examples=["minutes.md"])
    sha256: str = Field(description="SHA-256 of the bytes, hexadecimal")
    size: int = Field(description="Bytes", examples=[18324])
    status: UploadStatus


class DocumentBody(BaseModel):
    """A document as listed."""

    id: int = Field(examples=[42])
    source: str = Field(examples=["installed-docs"])
    uri: str = Field(examples=["pypi:pgvector"])
    title: str = Field(examples=["pgvector-python"])
    media_type: str = Field(examples=["text/markdown"])
    size: int = Field(description="Bytes as read", examples=[18324])
    read_at: datetime
    chunks: int = Field(description="Into how many chunks it is split now", examples=[31])


class PassageBody(DocumentBody):
    """A document with one passage: `excerpt` is exactly `text[start:end]`, counted in characters (code
    points).
    """

    removed: bool = Field(description="Gone from its source; kept while the index still cites it")
    content_sha256: str = Field(description="SHA-256 of the bytes as read, hexadecimal")
    text_sha256: str = Field(description="Equal to a citation's `document_sha256` if the text is still the same")
    characters: int = Field(description="Length of the whole text")
    start: int
    end: int
    excerpt: str


class DocumentsBody(BaseModel):
    """One page of documents."""

    data: list[DocumentBody]
    next_cursor: str | None


@uploads.post(
    UPLOAD_PATH,
    status_code=201,
    response_model=UploadBody,
    responses={
        200: {"model": UploadBody, "description": "The same bytes were there already, or were replaced"},
        **problems(400, 403, 409, 415, 429, 503),
    },
    summary="Upload a document",
    description=(
        "Stores the file in the inbox and answers when it is durable and on the ledger; it becomes searchable by "
        "itself. "
        f"Supported are {SUPPORTED}. The same name with the same bytes changes nothing (200); with other "
        "bytes it is refused (409) unless `replace=true`."
    ),
)
async def upload(
    principal: Annotated[Principal, allow("ingest:write")],
    once: OnceDep,
    ledger: LedgerDep,
    settings: SettingsDep,
    file: Annotated[UploadFile, File(description="The document, with its file name")],
    replace: Annotated[bool, Query(description="Replace a different file of the same name")] = False,
) -> Response:
    stored = await run_in_threadpool(store_upload, file.filename or "", file.file, settings, replace=replace)
    return await once.commit(
        ledger,
        record_upload(principal, stored),
        status=201 if stored.status == "created" else 200,
        body=lambda upload: UploadBody.model_validate(upload, from_attributes=True),
    )


@router.get(
    "/documents",
    response_model=DocumentsBody,
    responses=problems(404, 429, 503),
    summary="List the documents",
)
def list_documents(
    database: DatabaseDep,
    page: PageDep,
    source: Annotated[str | None, Query(max_length=63, description="Only this source")] = None,
) -> Page[catalog.DocumentSummary]:
    """The documents that are present, in the order in which they were first read."""
    return database.read(
        lambda connection: catalog.list_documents(connection, source=source, cursor=page.cursor, limit=page.limit)
    )


@router.get(
    "/documents/{id}",
    response_model=PassageBody,
    responses=problems(404, 429, 503),
    summary="Open a document at a passage",
)
def read_document(
    database: DatabaseDep,
    document_id: Annotated[int, Path(alias="id", ge=1, lt=2**63, examples=[42])],
    start: Annotated[int, Query(ge=0, le=catalog.MAX_OFFSET, description="A citation's `start`")] = 0,
    end: Annotated[
        int | None,
        Query(ge=0, le=catalog.MAX_OFFSET, description="A citation's `end`; default: 2,000 characters on"),
    ] = None,
) -> catalog.DocumentView:
    """Metadata and exactly `text[start:end]`, at most 100,000 characters.

    A citation holds if `text_sha256` equals its `document_sha256`; otherwise the document has changed since.
    """
    return database.read(lambda connection: catalog.read_document(connection, document_id, start=start, end=end))
