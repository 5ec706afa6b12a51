"""The lifecycle as a machine: whatever is asked in whatever order, nothing leaves a final state, and one claim wins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from stemma.access.permissions import Role
from stemma.access.principal import Principal, local_principal
from stemma.errors import Conflict, Forbidden, NotFound
from stemma.jobs import catalog, lifecycle
from stemma.jobs.lifecycle import Failure
from stemma.jobs.model import Job, JobState
from stemma.jobs.submission import JobRequest, submit
from stemma.ledger.change import Change
from stemma.ledger.writer import LedgerWriter
from stemma.store.database import Database
from stemma.store.settings import Settings

PASSING = Failure("disk_full", "There is no room.", passing=True)
LASTING = Failure("source_unreadable", "mail ada@example.org that it is gone", passing=False)


class Studio:
    """Jobs in one database, moved on by one writer; kept for all examples of a test."""

    def __init__(self, database: Database, writer: LedgerWriter) -> None:
        self.database = database
        self._writer = writer

    def write(self, prepare: Callable[[Any], Change[Any]]) -> Any:
        change = self.database.read(prepare)
        return change.result(self._writer.append(change.entries, change.companions).result(20))

    def queue(self, kind: str = "search-index") -> Job:
        job: Job = self.write(lambda c: submit(c, local_principal(), JobRequest(kind)))
        return job

    def look(self, job_id: UUID) -> Job:
        return self.database.read(lambda c: catalog.get_job(c, job_id))

    def set(self, job_id: UUID, assignment: str) -> None:
        with self.database.transaction() as connection:
            connection.execute(f"UPDATE jobs SET {assignment} WHERE id = %s".encode(), (job_id,))

    def step(self, job_id: UUID, step: str, run: str) -> None:
        """One thing that somebody tries; raises Conflict where it may not be."""
        prepare = {
            "claim": lambda c: lifecycle.claim(c, job_id, run),
            "finish": lambda c: lifecycle.finish(c, job_id, run),
            "fail": lambda c: lifecycle.fail(c, job_id, run, PASSING),
            "break": lambda c: lifecycle.fail(c, job_id, run, LASTING),
            "stop": lambda c: lifecycle.stop(c, job_id, run),
            "cancel": lambda c: lifecycle.cancel(c, local_principal(), job_id),
            "give up": lambda c: lifecycle.give_up(c, job_id, LASTING),
        }
        if step == "wait":
            if self.look(job_id).state is JobState.QUEUED:
                self.set(job_id, "due_at = submitted_at")
        elif step == "lose":
            if self.look(job_id).state is JobState.RUNNING:
                self.set(job_id, "lease_until = now() - interval '1 second'")
            for change in self.database.read(lifecycle.reap):
                self._writer.append(change.entries, change.companions).result(20)
        else:
            self.write(prepare[step])


@pytest.fixture
def jobs(database: Database) -> Iterator[Studio]:
    with LedgerWriter(database.urls.app) as writer:
        yield Studio(database, writer)


@pytest.fixture(scope="module")
def shared(studio: tuple[Settings, Database]) -> Iterator[Studio]:
    with LedgerWriter(studio[1].urls.app) as writer:
        yield Studio(studio[1], writer)


STEPS = ("claim", "finish", "fail", "break", "stop", "cancel", "give up", "wait", "lose")
NEXT = {
    JobState.QUEUED: {JobState.QUEUED, JobState.RUNNING, JobState.CANCELLED, JobState.ERROR},
    JobState.RUNNING: set(JobState),
    **{state: {state} for state in (JobState.DONE, JobState.ERROR, JobState.CANCELLED)},
}


@examples(max_examples=40)
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(("run-1", "run-2"))), max_size=14))
def test_nothing_leaves_a_final_state_and_every_step_is_told(shared: Studio, steps: list[tuple[str, str]]) -> None:
    job = shared.queue()
    transitions = 1
    for step, run in steps:
        before = shared.look(job.id)
        try:
            shared.step(job.id, step, run)
        except Conflict:
            assert shared.look(job.id) == before
            continue
        after = shared.look(job.id)
        assert after.state in NEXT[before.state] and after.attempt - before.attempt in (0, 1)
        assert after.attempt <= after.max_attempts
        if before.state.is_final:
            assert after == before
        if step in ("finish", "fail", "break", "stop"):
            assert (before.state, before.run_id) == (JobState.RUNNING, run)
        transitions += step not in ("wait", "lose") or after.state is not before.state
    with shared.database.snapshot() as connection:
        events = catalog.list_events(connection, job.id)
        told = connection.execute(
            "SELECT kind FROM ledger WHERE chain = 'historian' AND subject = %s ORDER BY seq", (f"job/{job.id}",)
        ).fetchall()
    assert [event.seq for event in events] == list(range(1, transitions + 1))
    assert [f"job.{event.kind}" for event in events] == [kind for (kind,) in told]
    assert events[-1].is_last == shared.look(job.id).state.is_final


def test_of_many_claims_one_wins(database: Database, jobs: Studio) -> None:
    job = jobs.queue()
    together = threading.Barrier(8)

    def claim(number: int) -> bool:
        with LedgerWriter(database.urls.app) as writer:
            change = database.read(lambda c: lifecycle.claim(c, job.id, f"run-{number}"))
            together.wait(20)
            try:
                writer.append(change.entries, change.companions).result(20)
            except Conflict:
                return False
            return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(claim, range(8)))
    found = jobs.look(job.id)
    assert won.count(True) == 1 and found.run_id == f"run-{won.index(True)}" and found.attempt == 1
    with database.snapshot() as connection:
        assert [event.kind for event in catalog.list_events(connection, job.id)] == ["submitted", "started"]


def test_a_request_to_cancel_is_not_lost_to_a_failure_at_the_same_moment(jobs: Studio) -> None:
    job = jobs.queue()
    jobs.step(job.id, "claim", "run-1")
    failing = jobs.database.read(lambda c: lifecycle.fail(c, job.id, "run-1", PASSING))
    jobs.step(job.id, "cancel", "")
    with pytest.raises(Conflict) as refused:
        jobs.write(lambda _: failing)
    assert refused.value.code == "job_changed"
    jobs.step(job.id, "fail", "run-1")
    assert jobs.look(job.id).state is JobState.CANCELLED


def test_what_is_settled_is_frozen_in_the_database(jobs: Studio) -> None:
    job = jobs.queue()
    jobs.step(job.id, "cancel", "")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        jobs.set(job.id, "state = 'queued', finished_at = NULL")


def test_cancelling_says_what_there_is_to_cancel(jobs: Studio) -> None:
    queued, running, done = (jobs.queue().id for _ in range(3))
    for job_id in (running, done):
        jobs.step(job_id, "claim", "run-1")
    jobs.step(done, "finish", "run-1")
    jobs.step(queued, "cancel", "")
    jobs.step(running, "cancel", "")
    for job_id, code in ((queued, "job_cancelled"), (running, "job_cancelled"), (done, "job_finished")):
        with pytest.raises(Conflict) as refused:
            jobs.step(job_id, "cancel", "")
        assert refused.value.code == code
    with pytest.raises(NotFound):
        jobs.step(UUID(int=0), "cancel", "")
    viewer = Principal("key:1", Role.VIEWER, frozenset({"jobs:*"}))
    with pytest.raises(Forbidden):
        jobs.write(lambda c: lifecycle.cancel(c, viewer, running))


def test_a_reason_is_kept_redacted(jobs: Studio) -> None:
    job = jobs.queue()
    jobs.step(job.id, "claim", "run-1")
    jobs.step(job.id, "break", "run-1")
    failed = jobs.look(job.id)
    assert (failed.error_code, failed.error_message) == ("source_unreadable", "mail [email] that it is gone")
    assert failed.run_ms is not None and failed.queued_ms is not None


def test_a_lease_is_prolonged_by_its_run_alone(jobs: Studio) -> None:
    job = jobs.queue()
    jobs.step(job.id, "claim", "run-1")
    jobs.set(job.id, "lease_until = now() - interval '1 second'")
    with jobs.database.transaction() as connection:
        assert lifecycle.beat(connection, job.id, "run-2") is None
        prolonged = lifecycle.beat(connection, job.id, "run-1")
    assert prolonged is not None and prolonged.state is JobState.RUNNING
    assert jobs.database.read(lifecycle.reap) == ()


@given(attempt=st.integers(1, 1000))
def test_pauses_grow_and_are_bounded(attempt: int) -> None:
    longest = min(lifecycle.LONGEST_PAUSE, lifecycle.SHORTEST_PAUSE * 2 ** min(attempt - 1, 30))
    assert timedelta(0) <= lifecycle.pause_before(attempt) <= longest
