"""Events: recording them in batches, finding them, and their types."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID, uuid4

from fastapi import APIRouter, Path, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.bodies import RequestBody
from api.deps import DatabaseDep, LedgerDep, PageDep
from api.idempotency import OnceDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.access.principal import Principal
from stemma.governance.events import catalog, recording, types
from stemma.governance.events.model import Event, NewEvent
from stemma.governance.yaml_text import MAX_BYTES
from stemma.registry import catalog as registry
from stemma.registry.model import Published, Summary
from stemma.store.cursors import Page

PATH: Final = "/events"
MAX_BODY_BYTES: Final = 8 << 20
"""Of a batch."""

router = APIRouter(prefix=API, tags=["events"], route_class=limited("events"))
aliases = APIRouter(tags=["events"], route_class=limited("events"), include_in_schema=False)

_AT: Final = "2026-01-31T12:00:00Z"
_REFERENCE: Final = "`Name`, `Name@1`, `Name@1.2`, `Name@1.2.3` or `Name@latest`"


class NewEventBody(RequestBody):
    """An event as it comes."""

    id: UUID | None = Field(default=None, description="Chosen by the sender: who sends it again records it once")
    type: str = Field(max_length=100, description="A published event type", examples=["LeaveBalanceReported"])
    occurred_at: AwareDatetime | None = Field(
        default=None, description="When it happened, with its offset; else when it is received", examples=[_AT]
    )
    entity: str | None = Field(
        default=None, min_length=1, max_length=200, description="What or whom it is about", examples=["employee/17"]
    )
    correlation_id: str | None = Field(
        default=None, min_length=1, max_length=200, description="What it belongs together with", examples=["case/3"]
    )
    data: dict[str, Any] = Field(description="As its type says", examples=[{"days_left": 12, "team_away": 0.2}])


class NewEventsBody(RequestBody):
    """Events that are recorded together."""

    events: list[NewEventBody] = Field(
        min_length=1, max_length=recording.MAX_EVENTS, description="All of them are recorded, or none"
    )


class RecordedBody(BaseModel):
    """An event that is recorded, without what its sender knows."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    type: str
    type_version: str = Field(description="The version that its data satisfy", examples=["1.0.0"])
    occurred_at: datetime
    received_at: datetime
    sha256: str = Field(description="Over the canonical JSON (RFC 8785) of what the sender said, hexadecimal")


class RecordedEventsBody(BaseModel):
    """The events, in the order in which they came."""

    data: list[RecordedBody]


class EventBody(RecordedBody):
    """An event as it is kept."""

    entity: str | None
    correlation_id: str | None
    actor: str = Field(description="Who sent it", examples=["key:5b0f8c1e-8d8c-4d1c-9a5b-0f2a6f2a7c11"])
    data: dict[str, Any]


class EventsBody(BaseModel):
    """One page of events."""

    data: list[EventBody]
    next_cursor: str | None


class EventTypeTextBody(RequestBody):
    """An event type, as YAML."""

    event_type: str = Field(
        max_length=MAX_BYTES, description="Name, version, changelog, description and schema", examples=["name: Asked\n"]
    )


class EventTypeVersionBody(BaseModel):
    """A published version of an event type as listed."""

    model_config = ConfigDict(from_attributes=True)

    name: str = Field(examples=["DiscountRequested"])
    version: str = Field(examples=["1.0.0"])
    sha256: str = Field(description="SHA-256 of its canonical content (RFC 8785), hexadecimal")
    changelog: str
    published_by: str
    published_at: datetime


class EventTypesBody(BaseModel):
    """One page of event types."""

    data: list[EventTypeVersionBody]
    next_cursor: str | None


class EventTypeBody(EventTypeVersionBody):
    """A published version with its content: description and schema."""

    content: dict[str, Any]


@aliases.post(PATH, status_code=201, response_model=RecordedEventsBody)
@router.post(
    PATH,
    status_code=201,
    response_model=RecordedEventsBody,
    responses=problems(401, 403, 409, 429, 503),
    summary="Record events",
)
async def record(
    principal: Annotated[Principal, allow("decide:write")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    batch: NewEventsBody,
) -> Response:
    """Records all of them or none. An event with the id and the content of one that is there is that event."""
    events = [_new(given) for given in batch.events]
    change = await run_in_threadpool(database.read, lambda c: recording.record(c, principal, events))

    def body(recorded: tuple[Event, ...]) -> RecordedEventsBody:
        return RecordedEventsBody(data=[RecordedBody.model_validate(event) for event in recorded])

    return await once.commit(ledger, change, status=201, body=body)


@router.get(PATH, response_model=EventsBody, responses=problems(401, 403, 429, 503), summary="List events")
def list_events(
    principal: Annotated[Principal, allow("decide:read")],
    database: DatabaseDep,
    page: PageDep,
    type: Annotated[str | None, Query(max_length=100, description="Only of this type")] = None,  # noqa: A002
    entity: Annotated[str | None, Query(max_length=200, description="Only about this")] = None,
    correlation_id: Annotated[str | None, Query(max_length=200, description="Only what belongs to this")] = None,
    since: Annotated[AwareDatetime | None, Query(description="Only what occurred then or later")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Only what occurred before")] = None,
) -> Page[Event]:
    """The last received first."""
    return database.read(
        lambda c: catalog.list_events(
            c,
            type=type,
            entity=entity,
            correlation_id=correlation_id,
            since=since,
            until=until,
            cursor=page.cursor,
            limit=page.limit,
        )
    )


@router.get(
    f"{PATH}/{{id}}",
    response_model=EventBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="Open an event",
)
def show_event(
    principal: Annotated[Principal, allow("decide:read")],
    database: DatabaseDep,
    event_id: Annotated[UUID, Path(alias="id", examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"])],
) -> Event:
    """One event as it is kept."""
    return database.read(lambda c: catalog.get_event(c, event_id))


@router.get(
    "/event-types",
    response_model=EventTypesBody,
    responses=problems(401, 403, 429, 503),
    summary="List event types",
)
def list_types(
    principal: Annotated[Principal, allow("decide:read")], database: DatabaseDep, page: PageDep
) -> Page[Summary]:
    """Each event type once, by name, with the version that events are checked by."""
    return database.read(lambda c: registry.list_newest(c, types.KIND, cursor=page.cursor, limit=page.limit))


@router.get(
    "/event-types/{reference}",
    response_model=EventTypeBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="Open a version of an event type",
)
def show_type(
    principal: Annotated[Principal, allow("decide:read")],
    database: DatabaseDep,
    reference: Annotated[str, Path(max_length=200, description=_REFERENCE, examples=["DiscountRequested@1"])],
) -> Published:
    """What the reference resolves to now, with its schema."""
    return database.read(lambda c: types.find(c, reference))


@router.post(
    "/event-types",
    status_code=201,
    response_model=EventTypeBody,
    responses=problems(401, 403, 409, 429, 503),
    summary="Publish a version of an event type",
)
async def publish_type(
    principal: Annotated[Principal, allow("decide:publish")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    text: EventTypeTextBody,
) -> Response:
    """Publishes it for good. The same content again is no error."""
    change = await run_in_threadpool(database.read, lambda c: types.publish(c, principal, text.event_type))
    return await once.commit(ledger, change, status=201, body=EventTypeBody.model_validate)


def _new(given: NewEventBody) -> NewEvent:
    return NewEvent(
        type=given.type,
        data=given.data,
        occurred_at=given.occurred_at,
        entity=given.entity,
        correlation_id=given.correlation_id,
        id=given.id or uuid4(),
    )
