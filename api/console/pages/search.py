"""Search: passages with their citations, a document at a passage, what is read, and a form that gives it more."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, File, Form, Path, Query, Request, Response, UploadFile
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.console.forms import redirect
from api.console.rendering import render
from api.deps import DatabaseDep, LedgerDep, SearcherDep, SettingsDep
from api.limits import limited
from api.sessions import require_form_token
from stemma.access.principal import Principal
from stemma.errors import InvalidInput, StemmaError
from stemma.knowledge import catalog
from stemma.knowledge.convert import SUPPORTED
from stemma.knowledge.models import SearchMode
from stemma.knowledge.search import LONGEST_QUERY
from stemma.knowledge.uploads import Upload, record_upload, store_upload
from stemma.store.database import Database
from stemma.store.settings import Settings

router = APIRouter(route_class=limited("console"), include_in_schema=False)

_HITS: Final = 10
_SET_ASIDE: Final = 20
_BEFORE: Final = 600
_SAID: Final = {
    "created": "{} is in the inbox. It is found by search as soon as it has been read, usually within a minute.",
    "replaced": "{} replaces the file of that name. Search finds its new text as soon as it has been read.",
    "unchanged": "{} was in the inbox already, byte for byte. Nothing has changed.",
}


@router.get("/search")
def show(
    request: Request,
    principal: Annotated[Principal, allow("search:read")],
    searcher: SearcherDep,
    database: DatabaseDep,
    settings: SettingsDep,
    q: Annotated[str, Query(max_length=LONGEST_QUERY)] = "",
    mode: SearchMode = "hybrid",
    source: Annotated[list[str] | None, Query(max_length=64)] = None,
    cursor: Annotated[str | None, Query(max_length=4096)] = None,
) -> Response:
    """The hits of a query; without one, what there is to search in."""
    found, error = None, None
    if q.strip():
        try:
            found = searcher.search(q, k=_HITS, sources=source, mode=mode, cursor=cursor)
        except StemmaError as refused:
            error = refused
    asked = {"q": q, "mode": mode, "chosen": source or [], "cursor": cursor, "found": found}
    return _page(request, principal, database, settings, asked, error)


@router.post("/search/upload", dependencies=[Depends(require_form_token)])
async def upload(
    request: Request,
    principal: Annotated[Principal, allow("ingest:write")],
    database: DatabaseDep,
    ledger: LedgerDep,
    settings: SettingsDep,
    file: Annotated[UploadFile | None, File()] = None,
    replace: Annotated[bool, Form()] = False,
) -> Response:
    """Stores the file in the inbox and says what becomes of it, or shows the form with what is wrong."""
    try:
        stored = await run_in_threadpool(_store, file, settings, replace)
    except StemmaError as error:
        asked = {"q": "", "mode": "hybrid", "chosen": [], "cursor": None, "found": None}
        return await run_in_threadpool(_page, request, principal, database, settings, asked, None, error)
    await ledger.commit_async(record_upload(principal, stored))
    return redirect("/search", said=_SAID[stored.status].format(stored.name))


@router.get("/search/documents/{id}")
def open_document(
    request: Request,
    principal: Annotated[Principal, allow("ingest:read")],
    database: DatabaseDep,
    document_id: Annotated[int, Path(alias="id", ge=1, lt=2**63)],
    start: Annotated[int, Query(ge=0, le=catalog.MAX_OFFSET)] = 0,
    end: Annotated[int | None, Query(ge=0, le=catalog.MAX_OFFSET)] = None,
) -> Response:
    """The document's passage with some text around it, and the way on."""
    first = start if end is None else max(0, start - _BEFORE)
    last = None if end is None or end - first <= catalog.DEFAULT_EXCERPT else end
    view = database.read(lambda connection: catalog.read_document(connection, document_id, start=first, end=last))
    spans = [] if end is None else [(start - first, end - first)]
    return render(request, "pages/document.html", document=view, spans=spans, step=catalog.DEFAULT_EXCERPT)


def _page(
    request: Request,
    principal: Principal,
    database: Database,
    settings: Settings,
    asked: dict[str, Any],
    search_error: StemmaError | None = None,
    upload_error: StemmaError | None = None,
) -> Response:
    error = search_error or upload_error
    sources, aside = database.read(
        lambda connection: (
            catalog.list_sources(connection),
            catalog.list_quarantine(connection, cursor=None if asked["q"] else asked["cursor"], limit=_SET_ASIDE),
        )
    )
    return render(
        request,
        "pages/search.html",
        status=error.status if error else 200,
        store=error is None,
        sources=sources,
        aside=aside,
        search_error=search_error,
        upload_error=upload_error,
        may_read=principal.may("ingest:read"),
        may_upload=principal.may("ingest:write"),
        supported=SUPPORTED,
        largest=settings.max_document_bytes,
        **asked,
    )


def _store(file: UploadFile | None, settings: Settings, replace: bool) -> Upload:
    if file is None or not file.filename:
        raise InvalidInput("file_missing", "No file was chosen.", field="file", hint="Choose a file, then send it.")
    return store_upload(file.filename, file.file, settings, replace=replace)
