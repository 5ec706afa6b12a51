"""Asking for work: what is kept of it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stemma.access.permissions import Role
from stemma.access.principal import Principal, local_principal
from stemma.errors import Forbidden, InvalidInput, NotFound, StemmaError
from stemma.jobs import catalog, kinds
from stemma.jobs.model import Job, JobState
from stemma.jobs.submission import JobRequest, submit
from stemma.ledger.feed import Filter, list_entries
from stemma.ledger.journal import AUDIT, HISTORIAN
from stemma.store.database import Database

NOW = datetime.now(UTC)


def test_a_job_is_queued_with_its_event_and_its_entries(database: Database, queue: Callable[..., Job]) -> None:
    job = queue(input={"message": "hello"}, priority=7)
    with database.snapshot() as connection:
        assert catalog.get_job(connection, job.id) == job
        (event,) = catalog.list_events(connection, job.id)
        told = {
            chain: list_entries(connection, chain, Filter(subject=f"job/{job.id}")).data for chain in (AUDIT, HISTORIAN)
        }
    assert (job.state, job.attempt, job.input) == (JobState.QUEUED, 0, {"message": "hello", "seconds": 0.0})
    assert (event.seq, event.kind, event.data["actor"]) == (1, "submitted", local_principal().actor)
    assert [[entry.kind for entry in entries] for entries in told.values()] == [["job.submitted"]] * 2
    assert "hello" not in str(told)


@pytest.mark.parametrize(
    ("wanted", "error", "code", "field"),
    [
        (JobRequest("dance"), InvalidInput, "job_kind_unknown", "kind"),
        (JobRequest("noop", {"message": 7}), InvalidInput, "job_input_invalid", "input.message"),
        (JobRequest("noop", {"seconds": -1}), InvalidInput, "job_input_invalid", "input.seconds"),
        (JobRequest("noop", {"sort": "of"}), InvalidInput, "job_input_invalid", "input.sort"),
        (JobRequest("convert"), InvalidInput, "job_input_invalid", "input.source"),
        (JobRequest("convert", {"source": "nowhere"}), NotFound, "source_unknown", "source"),
        (JobRequest("noop", priority=101), InvalidInput, "priority_invalid", "priority"),
        (JobRequest("noop", scheduled_at=NOW - timedelta(1)), InvalidInput, "schedule_in_the_past", "scheduled_at"),
        (JobRequest("noop", scheduled_at=NOW + timedelta(999)), InvalidInput, "schedule_too_far", "scheduled_at"),
        (
            JobRequest("noop", scheduled_at=NOW.replace(tzinfo=None)),
            InvalidInput,
            "schedule_without_offset",
            "scheduled_at",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(
    database: Database, wanted: JobRequest, error: type[StemmaError], code: str, field: str
) -> None:
    with database.snapshot() as connection, pytest.raises(error) as refused:
        submit(connection, local_principal(), wanted)
    assert (refused.value.code, refused.value.field) == (code, field)
    if code == "job_kind_unknown":
        assert all(name in str(refused.value) for name in kinds.KINDS)


@pytest.mark.parametrize(
    ("role", "scopes", "kind"),
    [(Role.VIEWER, {"jobs:*"}, "noop"), (Role.BUILDER, {"search:*"}, "noop"), (Role.BUILDER, {"jobs:*"}, "convert")],
)
def test_a_kind_takes_its_own_permission_too(database: Database, role: Role, scopes: set[str], kind: str) -> None:
    principal = Principal("key:1", role, frozenset(scopes))
    with database.snapshot() as connection, pytest.raises(Forbidden):
        submit(connection, principal, JobRequest(kind, {"source": "inbox"}))


def test_lists_are_filtered_paged_and_counted(database: Database, queue: Callable[..., Job]) -> None:
    made = [queue() for _ in range(3)] + [queue("search-index")]
    with database.snapshot() as connection:
        first = catalog.list_jobs(connection, limit=3)
        rest = catalog.list_jobs(connection, limit=3, cursor=first.next_cursor)
        assert [job.id for job in (*first.data, *rest.data)] == [job.id for job in reversed(made)]
        assert rest.next_cursor is None
        filters: list[tuple[dict[str, Any], int]] = [
            ({"kind": "noop"}, 3),
            ({"state": JobState.QUEUED}, 4),
            ({"state": JobState.DONE}, 0),
            ({"actor": local_principal().actor, "kind": "search-index"}, 1),
            ({"actor": "key:nobody"}, 0),
        ]
        for wanted, count in filters:
            assert len(catalog.list_jobs(connection, **wanted).data) == count
        assert catalog.count_by_kind_and_state(connection) == {
            ("noop", JobState.QUEUED): 3,
            ("search-index", JobState.QUEUED): 1,
        }
        with pytest.raises(InvalidInput):
            catalog.list_jobs(connection, cursor="x")
