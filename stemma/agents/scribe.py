"""Writing down what calls stream: after it was sent, for all calls together, some five times a second."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Container, Mapping, Sequence
from typing import Any, Final, Self
from uuid import UUID

from psycopg.types.json import Jsonb

from stemma.agents.stream import Event, Stream, cleaned
from stemma.ledger.writer import Statement
from stemma.redaction import redact_value
from stemma.store.database import Database

logger = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 0.15
"""How long events gather: with the transaction's own time, they are kept 250 ms after they were sent."""

# What was committed although its answer was lost comes again, and more with it.
_INSERT: Final = """
    INSERT INTO agent_chunks (job_id, first_seq, events)
    SELECT * FROM unnest(%s::uuid[], %s::bigint[], %s::jsonb[])
    ON CONFLICT (job_id, first_seq) DO UPDATE SET events = EXCLUDED.events
"""
_TELL: Final = """
    WITH job AS (
        UPDATE jobs SET last_event = last_event + 1 WHERE id = %s AND state = 'running' RETURNING id, last_event
    )
    INSERT INTO job_events (job_id, seq, kind, data) SELECT id, last_event, %s, %s FROM job
"""

_Told = tuple[UUID, str, Jsonb]
_Chunk = tuple[Stream, int, Sequence[Event]]


class Scribe:
    """Writes down the events of calls whose jobs are in the database. Belongs to the event loop's thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._streams: dict[UUID, Stream] = {}
        self._told: list[_Told] = []
        self._busy = asyncio.Event()
        self._writing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def begin(self, stream: Stream) -> None:
        """Write down what this stream has and gets."""
        assert stream.job_id is not None
        self._streams[stream.job_id] = stream
        self._busy.set()

    def tell(self, job_id: UUID, kind: str, data: Mapping[str, Any]) -> None:
        """Add an event to a job's timeline, redacted."""
        self._told.append((job_id, kind, Jsonb(redact_value(cleaned(data)))))
        self._busy.set()

    async def end(self, stream: Stream, last: Event) -> tuple[Statement, ...]:
        """Stop writing a stream down; what is left of it and its last event, as statements for the commit of its end.

        They are right until the next call of this function alone.
        """
        assert stream.job_id is not None
        async with self._writing:
            self._streams.pop(stream.job_id, None)
            told, self._told = _split(self._told, (stream.job_id,))
        first, events = stream.unwritten()
        return (
            *(Statement(_TELL, one) for one in told),
            Statement(_INSERT, ([stream.job_id], [first], [_document([*events, last])])),
        )

    async def _run(self) -> None:
        while True:
            await self._busy.wait()
            await asyncio.sleep(PAUSE_SECONDS)
            if not self._streams and not self._told:
                self._busy.clear()
            elif self._told or not all(stream.is_written for stream in self._streams.values()):
                await self._write()

    async def _write(self) -> None:
        async with self._writing:
            chunks = [(one, *one.unwritten()) for one in self._streams.values() if not one.is_written]
            told, self._told = _split(self._told, self._streams)
            try:
                await asyncio.to_thread(self._insert, chunks, told)
            except Exception as error:
                # Nothing is lost: it is tried again, at the latest with the end of the call.
                logger.warning("what calls stream was not written down: %s", " ".join(str(error).split()))
                self._told = told + self._told
                return
            for stream, _, events in chunks:
                stream.wrote(len(events))

    def _insert(self, chunks: Sequence[_Chunk], told: Sequence[_Told]) -> None:
        with self._database.transaction() as connection:
            if chunks:
                ids = [stream.job_id for stream, _, _ in chunks]
                documents = [_document(events) for _, _, events in chunks]
                connection.execute(_INSERT, (ids, [first for _, first, _ in chunks], documents))
            if told:
                connection.cursor().executemany(_TELL, told)


def _split(told: Sequence[_Told], jobs: Container[UUID]) -> tuple[list[_Told], list[_Told]]:
    """What was told of these jobs, and the rest: a job that is being committed has no timeline yet."""
    return [one for one in told if one[0] in jobs], [one for one in told if one[0] not in jobs]


def _document(events: Sequence[Event]) -> str:
    return json.dumps(events)
