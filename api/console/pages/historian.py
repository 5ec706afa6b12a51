"""The Historian: what changed in the studio, the newest first, by kind, subject, actor and time."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from api.access import allow
from api.console import inputs
from api.console.rendering import render
from api.deps import DatabaseDep, PageDep
from api.limits import limited
from api.routers import API
from stemma.access.principal import Principal
from stemma.errors import StemmaError
from stemma.ledger.entries import Entry
from stemma.ledger.feed import Filter, list_entries, tail
from stemma.ledger.journal import HISTORIAN
from stemma.store.cursors import Page

router = APIRouter(route_class=limited("console"), include_in_schema=False)

_TOLD: Final = ("reason", "message", "detail")
_LONGEST: Final = 200

TextQuery = Annotated[str, Query(max_length=500)]


@router.get("/historian")
def show(
    request: Request,
    principal: Annotated[Principal, allow("ledger:read")],
    database: DatabaseDep,
    page: PageDep,
    kind: TextQuery = "",
    subject: TextQuery = "",
    actor: TextQuery = "",
    since: TextQuery = "",
    until: TextQuery = "",
) -> Response:
    """A page of the feed; where it is the first, what comes meanwhile is counted by the stream."""
    asked = {"kind": kind, "subject": subject, "actor": actor, "since": since, "until": until}
    given = {name: text.strip() for name, text in asked.items()}
    found: Page[Entry] = Page((), None)
    stream, last, error = None, 0, None
    try:
        wanted = _wanted(given)
        with database.snapshot() as connection:
            found = list_entries(connection, HISTORIAN, wanted, cursor=page.cursor, limit=page.limit)
            last = tail(connection, HISTORIAN)
        if page.cursor is None and wanted.until is None:
            stream = _stream(given)
    except StemmaError as refused:
        error = refused
    return render(
        request,
        "pages/historian.html",
        status=error.status if error else 200,
        given=given,
        rows=[(entry, _told(entry.data)) for entry in found.data],
        found=found,
        last=last,
        stream=stream,
        error=error,
    )


def _wanted(given: dict[str, str]) -> Filter:
    return Filter(
        given["kind"] or None,
        given["subject"] or None,
        given["actor"] or None,
        inputs.utc_moment(given["since"], "since"),
        inputs.utc_moment(given["until"], "until"),
    )


def _stream(given: dict[str, str]) -> str:
    kept = {name: given[name] for name in ("kind", "subject", "actor") if given[name]}
    return f"{API}/historian/stream?{urlencode(kept)}" if kept else f"{API}/historian/stream"


def _told(data: dict[str, Any]) -> str:
    """What an entry says, in a line: its reason in words, else its values."""
    for name in _TOLD:
        if isinstance(data.get(name), str) and data[name]:
            return _cut(data[name])
    plain = {name: value for name, value in data.items() if value not in (None, "", [], {})}
    return _cut(" · ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in plain.items()))


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
