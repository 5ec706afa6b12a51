"""Events: what happened outside, as it was told, and what was decided about each."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response

from api.access import allow
from api.console import inputs
from api.console.rendering import render
from api.deps import DatabaseDep, PageDep
from api.limits import limited
from stemma.access.principal import Principal
from stemma.errors import StemmaError
from stemma.governance.decisions.catalog import list_decisions
from stemma.governance.events import catalog
from stemma.governance.events.model import Event
from stemma.store.cursors import Page

router = APIRouter(prefix="/events", route_class=limited("console"), include_in_schema=False)

ReaderDep = Annotated[Principal, allow("decide:read")]
TextQuery = Annotated[str, Query(max_length=500)]


@router.get("")
def show(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    page: PageDep,
    type: TextQuery = "",  # noqa: A002 - what the field is called everywhere
    entity: TextQuery = "",
    correlation: TextQuery = "",
    since: TextQuery = "",
    until: TextQuery = "",
) -> Response:
    """The last received first, all or those that match."""
    asked = {"type": type, "entity": entity, "correlation": correlation, "since": since, "until": until}
    given = {name: text.strip() for name, text in asked.items()}
    found: Page[Event] = Page((), None)
    error = None
    try:
        since_when, until_when = inputs.utc_moment(given["since"], "since"), inputs.utc_moment(given["until"], "until")
        found = database.read(
            lambda connection: catalog.list_events(
                connection,
                type=given["type"] or None,
                entity=given["entity"] or None,
                correlation_id=given["correlation"] or None,
                since=since_when,
                until=until_when,
                cursor=page.cursor,
                limit=page.limit,
            )
        )
    except StemmaError as refused:
        error = refused
    return render(
        request,
        "pages/events.html",
        status=error.status if error else 200,
        store=error is None,
        found=found,
        given=given,
        filtered=any(given.values()),
        error=error,
    )


@router.get("/{id}")
def show_one(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    event_id: Annotated[UUID, Path(alias="id")],
) -> Response:
    """What was told, by whom, and what was decided about it."""
    with database.snapshot() as connection:
        event = catalog.get_event(connection, event_id)
        decided = list_decisions(connection, event_id=event_id, limit=20)
    late = (event.received_at - event.occurred_at).total_seconds()
    return render(request, "pages/event.html", event=event, decided=decided, late=late)
