"""A call's stream as it is written down: of one that has ended, or that runs in another process."""

from __future__ import annotations

import asyncio
import logging
from typing import Final
from uuid import UUID

import psycopg

from stemma.agents.history import Numbered, list_streamed
from stemma.agents.stream import Stream
from stemma.errors import StemmaError
from stemma.jobs.catalog import get_job
from stemma.jobs.model import Job, JobState
from stemma.store.database import Connection, Database

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.5


class Replay:
    """Follows a call in the database until it ends there; `leave` ends that before."""

    def __init__(self, database: Database, job_id: UUID) -> None:
        self.stream = Stream(None)
        self._database = database
        self._job_id = job_id
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Read what there is, and go on where more may come; raises NotFound."""
        if not await self._read():
            self._task = asyncio.create_task(self._go_on())

    def leave(self) -> None:
        """Nobody follows any more."""
        if self._task is not None:
            self._task.cancel()

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                if await self._read():
                    return
            except (StemmaError, psycopg.Error) as error:
                logger.warning("what a call streams cannot be read now: %s", " ".join(str(error).split()))

    async def _read(self) -> bool:
        """Add what is new; returns whether nothing can follow."""
        while True:
            job, found = await asyncio.to_thread(self._database.glance, self._look)
            for one in found:
                if isinstance(one.event, str):
                    self.stream.token(one.event)
                else:
                    self.stream.tell(*one.event)
            if self.stream.ended:
                return True
            if not found:
                break
        if job.state.is_final:
            # Its process died, and took the last event with it.
            self.stream.tell(*_ended(job))
        return self.stream.ended

    def _look(self, connection: Connection) -> tuple[Job, tuple[Numbered, ...]]:
        # The job first: what it had ended with is among the events.
        return get_job(connection, self._job_id), list_streamed(connection, self._job_id, self.stream.seq)


def _ended(job: Job) -> tuple[str, dict[str, str | None]]:
    if job.state is JobState.ERROR:
        return "error", {"code": job.error_code, "message": job.error_message, "hint": None}
    return job.state.value, {}
