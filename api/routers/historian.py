"""The Historian over HTTP: the studio's state transitions as a list and as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import AwareDatetime, BaseModel, Field

from api.access import allow
from api.deps import DatabaseDep, PageDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from api.streams import Batch, LastEventIdDep, StreamsDep, Topic, hold_place, no_event_id
from stemma.access.authentication import require_in_force
from stemma.access.principal import Principal
from stemma.ledger import feed
from stemma.ledger.entries import Entry
from stemma.ledger.journal import HISTORIAN
from stemma.store.cursors import Page

router = APIRouter(prefix=API, tags=["historian"], route_class=limited("ledger"), dependencies=[allow("ledger:read")])
# Counted apart: a stream holds its place for as long as somebody looks.
_FOLLOW = allow("ledger:read", counted="streams")
streams = APIRouter(prefix=API, tags=["historian"], dependencies=[_FOLLOW, Depends(hold_place)])

ReaderDep = Annotated[Principal, _FOLLOW]


class TransitionBody(BaseModel):
    """One state transition. `seq` numbers the Historian without gaps, in the order of commits."""

    seq: int = Field(examples=[17])
    id: UUID = Field(description="For GET /api/v1/ledger/entries/{id} and its proof")
    kind: str = Field(examples=["index.activated"])
    subject: str = Field(description="What changed", examples=["index/7"])
    actor: str = Field(description="Who changed it", examples=["asset:knowledge/search_index"])
    at: datetime = Field(
        description="When, by the clock of the process that recorded it", examples=["2026-01-31T06:00:00Z"]
    )
    data: dict[str, Any] = Field(examples=[{"generation": 7, "chunks": 4210}])


class HistorianBody(BaseModel):
    """One page of the Historian, the newest first."""

    data: list[TransitionBody]
    next_cursor: str | None


def wanted(
    kind: Annotated[
        str | None,
        Query(max_length=127, description="A kind, or the first word of several with its dot: `key.`"),
    ] = None,
    subject: Annotated[str | None, Query(max_length=500, description="Only what changed this")] = None,
    actor: Annotated[str | None, Query(max_length=500, description="Only what this one did")] = None,
    since: Annotated[AwareDatetime | None, Query(description="From this time on, with its offset")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Before this time, with its offset")] = None,
) -> feed.Filter:
    """The transitions that a request asks for; raises InvalidInput."""
    return feed.Filter(kind, subject, actor, since, until)


FilterDep = Annotated[feed.Filter, Depends(wanted)]


@router.get(
    "/historian",
    response_model=HistorianBody,
    responses=problems(429, 503),
    summary="List the studio's state transitions",
)
def list_transitions(database: DatabaseDep, page: PageDep, wanted: FilterDep) -> Page[TransitionBody]:
    """The newest first. A page ends early where its transitions are large; `next_cursor` goes on."""
    found = database.read(
        lambda connection: feed.list_entries(connection, HISTORIAN, wanted, cursor=page.cursor, limit=page.limit)
    )
    return Page(tuple(map(_body, found.data)), found.next_cursor)


@dataclass(frozen=True, slots=True)
class Following:
    """Which transitions a stream gives, and the seq after which it begins."""

    wanted: feed.Filter
    start: int


def following(database: DatabaseDep, wanted: FilterDep, last_event_id: LastEventIdDep) -> Following:
    """Where a request's stream begins; raises InvalidInput for an event that the Historian does not have."""
    tail = database.read(lambda connection: feed.tail(connection, HISTORIAN))
    if last_event_id is None:
        return Following(wanted, 0 if wanted.since else tail)
    if last_event_id > tail:
        raise no_event_id()
    return Following(wanted, last_event_id)


@streams.get(
    "/historian/stream",
    response_class=EventSourceResponse,
    responses=problems(429, 503),
    summary="Follow the studio's state transitions",
)
async def stream_transitions(
    database: DatabaseDep, streams: StreamsDep, reader: ReaderDep, following: Annotated[Following, Depends(following)]
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events, the oldest first: `data` is a transition as in the list, `id` its `seq`.

    Begins with what comes next, with `since` at that time, and with `Last-Event-ID` after that event. Nothing is left
    out but by the filters. The server may end the stream at any time, and does when the key is revoked or expires; an
    EventSource resumes by itself.
    """

    def read(position: int) -> Batch:
        with database.snapshot() as connection:
            require_in_force(connection, reader)
            stretch = feed.read_after(connection, HISTORIAN, following.wanted, position)
        return Batch([_event(entry) for entry in stretch.entries], stretch.seq, stretch.more)

    async for event in streams.follow(Topic(feed.CHANNEL, HISTORIAN), following.start, read):
        yield event


def _event(entry: Entry) -> ServerSentEvent:
    return ServerSentEvent(id=str(entry.seq), raw_data=_body(entry).model_dump_json())


def _body(entry: Entry) -> TransitionBody:
    return TransitionBody(
        seq=entry.seq,
        id=entry.id,
        kind=entry.kind,
        subject=entry.subject,
        actor=entry.actor,
        at=entry.created_at,
        data=entry.data,
    )
