"""Server-sent events: the one way in which the API streams what is kept with a sequence number.

A stream is a cursor that reads the database again and again; nothing is queued for it. PostgreSQL's NOTIFY only wakes
it early: one connection per process listens, and a poll stands behind it. A client that resumes with `Last-Event-ID`
goes on from there. What is streamed belongs to the routes; the format on the wire is FastAPI's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Protocol, Self, cast

import anyio.to_thread
import psycopg
import structlog
from anyio import CapacityLimiter
from fastapi import Depends, Header, Request
from fastapi.sse import ServerSentEvent, format_sse_event
from psycopg import sql
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.limits import IN_FLIGHT, InFlight
from stemma.errors import InvalidInput, Unauthenticated, Unavailable

POLL_SECONDS: Final = 2.0
HEADERS: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
MEDIA_TYPE: Final = "text/event-stream"

_READERS = 4
_BEAT_SECONDS = 15.0
_HEARTBEAT = b": ping\n\n"
_INT8 = 2**63
_log = structlog.get_logger("api.streams")


@dataclass(frozen=True, slots=True)
class Batch:
    """What one look at the database gave: events, the position to go on from, whether more waits already, and whether
    nothing can follow.

    Its size has to be bounded by whoever reads: a stream holds one batch, and the next is read when the client has
    taken it.
    """

    events: Sequence[ServerSentEvent]
    position: int
    more: bool
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Topic:
    """What a notification is about: a channel of the database and the payload."""

    channel: str
    payload: str


class Streams:
    """The process's streams and the connection that wakes them. Belongs to the event loop's thread."""

    def __init__(self, url: str, *channels: str) -> None:
        """`url` is the libpq URI of a role that may connect; nothing happens before `async with`."""
        self._url = url
        self._channels = channels
        self._news: dict[Topic, asyncio.Event] = {}
        self._ended = False

    async def __aenter__(self) -> Self:
        # Reading for streams never takes more than these threads from the requests.
        self._readers = CapacityLimiter(_READERS)
        self._listener = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()
        self._listener.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._listener

    def end(self) -> None:
        """End every stream, and each that is begun from now on; clients resume elsewhere or later."""
        self._ended = True
        for topic in list(self._news):
            self._wake(topic)

    async def follow(self, topic: Topic, position: int, read: Callable[[int], Batch]) -> AsyncIterator[ServerSentEvent]:
        """Events from `position` on, for ever or until a batch says that it is the last.

        `read` runs in a thread, in a snapshot of its own.

        A database that does not answer is waited for: the client sees heartbeats and misses nothing. The stream ends
        when `read` raises Unauthenticated.
        """
        async for batch in self._batches(topic, position, read):
            for event in batch.events:
                yield event

    async def follow_many(self, topic: Topic, position: int, read: Callable[[int], Batch]) -> AsyncIterator[bytes]:
        """As `follow`, encoded with its heartbeats, each batch in one piece: for streams of thousands of events."""
        loop = asyncio.get_running_loop()
        sent = loop.time()
        async for batch in self._batches(topic, position, read):
            if batch.events or loop.time() - sent > _BEAT_SECONDS:
                yield b"".join(map(_encoded, batch.events)) or _HEARTBEAT
                sent = loop.time()

    async def _batches(self, topic: Topic, position: int, read: Callable[[int], Batch]) -> AsyncIterator[Batch]:
        """All that is read, also where nothing was there."""
        while not self._ended:
            # Asked for before reading, so that what commits meanwhile is not slept over.
            news = self._news.setdefault(topic, asyncio.Event())
            try:
                batch = await anyio.to_thread.run_sync(read, position, limiter=self._readers)
            except Unauthenticated:
                return
            except (Unavailable, psycopg.OperationalError):
                batch = Batch((), position, more=False)
            yield batch
            position = batch.position
            if batch.ended:
                self._wake(topic)
                return
            if not batch.more and not self._ended:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), POLL_SECONDS)

    def _wake(self, topic: Topic) -> None:
        if news := self._news.pop(topic, None):
            news.set()

    async def _listen(self) -> None:
        """Hear notifications, and connect again when the database went away; meanwhile the poll serves."""
        told = False
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._url, autocommit=True, connect_timeout=10, application_name="stemma"
                ) as connection:
                    for channel in self._channels:
                        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                    told = False
                    async for notice in connection.notifies():
                        self._wake(Topic(notice.channel, notice.payload))
            except psycopg.Error as error:
                if not told:
                    _log.warning("no notifications reach the streams", error=" ".join(str(error).split()))
                told = True
            await asyncio.sleep(POLL_SECONDS)


def _encoded(event: ServerSentEvent) -> bytes:
    return format_sse_event(data_str=json.dumps(event.data), event=event.event, id=event.id)


class Live(Protocol):
    """Events that come about in this process, encoded as they are sent."""

    sent: bytearray
    ended: bool

    async def news(self) -> None:
        """Wait until there is more, or somebody calls `wake`."""

    def wake(self) -> None:
        """Have everybody who waits look again."""


class LiveResponse(Response):
    """The answer that follows what comes about in this process: bytes are sent as they are made, many events at once
    where they came at once. The format is that of the other streams.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self, live: Live, position: int, *, headers: Mapping[str, str], on_left: Callable[[], None] | None = None
    ) -> None:
        """From the byte `position` of `live.sent` on. `on_left` is called when the client leaves before the end."""
        super().__init__(headers={**HEADERS, **headers})
        del self.headers["content-length"]
        self._live = live
        self._position = position
        self._on_left = on_left
        self._left = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        watch = asyncio.create_task(self._watch(receive))
        beat = asyncio.create_task(self._beat())
        try:
            await self._send_all(send)
        finally:
            watch.cancel()
            beat.cancel()
            if self._on_left is not None and not self._live.ended:
                self._on_left()

    async def _send_all(self, send: Send) -> None:
        live, position = self._live, self._position
        while not self._left:
            end = len(live.sent)
            if end > position:
                await send({"type": "http.response.body", "body": bytes(live.sent[position:end]), "more_body": True})
                position = end
            elif live.ended:
                await send({"type": "http.response.body", "body": b""})
                return
            else:
                await live.news()
                if len(live.sent) == position and not live.ended:
                    await send({"type": "http.response.body", "body": _HEARTBEAT, "more_body": True})

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self._live.wake()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            self._live.wake()


def get_streams(request: Request) -> Streams:
    """The process's streams."""
    return cast(Streams, request.app.state.streams)


async def hold_place(request: Request) -> AsyncIterator[None]:
    """Hold one of the places for streams until the response has ended; raises TooManyRequests where none is free."""
    in_flight: InFlight = request.app.state.in_flight
    with in_flight.slot(IN_FLIGHT["streams"], "streams"):
        yield


def last_event_id(
    given: Annotated[
        str | None,
        Header(alias="Last-Event-ID", description="The `id` of the last event received: the stream goes on after it"),
    ] = None,
) -> int | None:
    """The position from which a client resumes; raises InvalidInput for what no event's id is."""
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) <= 19 and int(given) < _INT8):
        raise no_event_id()
    return int(given)


def no_event_id() -> InvalidInput:
    """The error for a position that the stream does not have, which a restored backup can also be the reason of."""
    return InvalidInput(
        "last_event_id_invalid",
        "This is no id of an event of this stream.",
        field="Last-Event-ID",
        hint="Send the `id` of the last event that you received, or leave the header out.",
    )


StreamsDep = Annotated[Streams, Depends(get_streams)]
LastEventIdDep = Annotated[int | None, Depends(last_event_id)]
