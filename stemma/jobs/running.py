"""What the process that works on a job holds: the claim, a lease that it keeps prolonging, and a way to tell of it.

Which work that is belongs to whoever calls; how a job moves on, to `lifecycle`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from stemma.errors import Conflict, StemmaError
from stemma.jobs import lifecycle
from stemma.jobs.lifecycle import Failure
from stemma.jobs.model import Job
from stemma.ledger.change import Change
from stemma.ledger.writer import LedgerWriter
from stemma.progress import Progress
from stemma.redaction import redact_value
from stemma.store.database import Connection, Database

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
_ATTEMPTS: Final = 5
_LONGEST_LINE: Final = 4000
_TELL: Final = """
    WITH job AS (
        UPDATE jobs SET last_event = last_event + 1
        WHERE id = %(id)s AND state = 'running' AND run_id = %(run_id)s RETURNING id, last_event
    )
    INSERT INTO job_events (job_id, seq, kind, data) SELECT id, last_event, %(event)s, %(data)s FROM job
"""

Prepare = Callable[[Connection], Change[Job]]


class RunningJob:
    """A job that this process has claimed for a run. Its methods may be called from any thread."""

    def __init__(self, database: Database, writer: LedgerWriter, job: Job, run_id: str, ended: threading.Event) -> None:
        self.job = job
        self._ended = ended
        self._database = database
        self._writer = writer
        self._run_id = run_id

    def log(self, line: str) -> None:
        """A line for whoever watches the job; redacted and cut."""
        self.tell("log", {"line": line[:_LONGEST_LINE]})

    def progress(self, progress: Progress) -> None:
        """How far a stage is."""
        facts = {"stage": progress.stage, "done": progress.done, "total": progress.total, "unit": progress.unit}
        self.tell("progress", facts)

    def tell(self, event: str, data: Mapping[str, Any]) -> None:
        """Add an event, unless the job has ended or was lost meanwhile; work does not fail for want of one."""
        written = {"id": self.job.id, "run_id": self._run_id, "event": event, "data": Jsonb(redact_value(dict(data)))}
        try:
            with self._database.transaction() as connection:
                connection.execute(_TELL, written)
        except (StemmaError, psycopg.Error) as error:
            logger.warning("an event of job %s was not written: %s", self.job.id, error)

    def finish(self) -> None:
        """The work is done."""
        self._end(lambda connection: lifecycle.finish(connection, self.job.id, self._run_id))

    def fail(self, failure: Failure) -> None:
        """The attempt failed."""
        self._end(lambda connection: lifecycle.fail(connection, self.job.id, self._run_id, failure))

    def stop(self) -> None:
        """The attempt was terminated."""
        self._end(lambda connection: lifecycle.stop(connection, self.job.id, self._run_id))

    def _end(self, prepare: Prepare) -> None:
        # From here on, that the row is no longer ours is no reason to stop.
        self._ended.set()
        try:
            self.job = _write(self._database, self._writer, prepare)
        except Conflict as error:
            logger.warning("the job went on without this run: %s", error)


_current: ContextVar[RunningJob | None] = ContextVar("running_job", default=None)


def current() -> RunningJob | None:
    """The job that the present context works on; None outside of jobs."""
    return _current.get()


@contextlib.contextmanager
def held(database: Database, job_id: UUID, run_id: str, *, on_stop: Callable[[], None]) -> Iterator[RunningJob | None]:
    """Claim a job and hold it for the block; None where another run was first, or it is not to be run now.

    `on_stop` is called once, from another thread, when the work has to stop: somebody cancelled the job, or the lease
    was lost. The block says how it ended; where it does not, the lease runs out.
    """
    # Signing is the business of the processes that live longer.
    with LedgerWriter(database.urls.app) as writer:
        job = _claimed(database, writer, job_id, run_id)
        if job is None:
            yield None
            return
        ended = threading.Event()
        running = RunningJob(database, writer, job, run_id, ended)
        beating = (database, job_id, run_id, ended, on_stop)
        heart = threading.Thread(target=_beat, args=beating, name="job-lease", daemon=True)
        heart.start()
        token = _current.set(running)
        try:
            yield running
        finally:
            _current.reset(token)
            ended.set()
            heart.join()


def _claimed(database: Database, writer: LedgerWriter, job_id: UUID, run_id: str) -> Job | None:
    try:
        return _write(database, writer, lambda connection: lifecycle.claim(connection, job_id, run_id))
    except Conflict as error:
        logger.info("not claimed: %s", error)
        return None


def _beat(database: Database, job_id: UUID, run_id: str, ended: threading.Event, on_stop: Callable[[], None]) -> None:
    while not ended.wait(BEAT_SECONDS):
        # A database that is away is waited for: the lease is long enough for a restart.
        with contextlib.suppress(StemmaError, psycopg.Error):
            with database.transaction() as connection:
                job = lifecycle.beat(connection, job_id, run_id)
            wanted = job is not None and job.cancel_requested_at is None
            if not wanted and not ended.is_set():
                on_stop()
                return


def _write(database: Database, writer: LedgerWriter, prepare: Prepare) -> Job:
    """Commit a step; again from what is there then where somebody else was between, as who cancels may be."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            change = database.read(prepare)
            return change.result(writer.append(change.entries, change.companions).result())
        except Conflict as error:
            if error.code != "job_changed" or attempt == _ATTEMPTS:
                raise
    raise AssertionError("unreachable")
