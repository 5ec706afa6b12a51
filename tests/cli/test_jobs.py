"""`stemma jobs`: what is queued, shown, watched and cancelled, and how the commands end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from stemma.jobs import lifecycle
from stemma.jobs.lifecycle import Failure
from stemma.ledger.change import Change
from stemma.store.database import Database
from stemma.store.settings import Settings

Stemma = Callable[..., Any]


@pytest.fixture
def end(database: Database, commit: Callable[[Change[Any]], Any]) -> Callable[..., None]:
    """Run a job to its end, as a run does."""

    def ended(job_id: str, *, failure: Failure | None = None) -> None:
        known = UUID(job_id)
        commit(database.read(lambda connection: lifecycle.claim(connection, known, "run-1")))
        if failure is None:
            commit(database.read(lambda connection: lifecycle.finish(connection, known, "run-1")))
        else:
            commit(database.read(lambda connection: lifecycle.fail(connection, known, "run-1", failure)))

    return ended


def test_a_job_is_queued_shown_and_cancelled_once(settings: Settings, done: Stemma, stemma: Stemma) -> None:
    queued = done("jobs", "submit", "noop", "--input", '{"message": "hello"}', "--priority", "3")
    assert (queued["state"], queued["worker"], queued["priority"]) == ("queued", "off", 3)
    assert "FF_JOBS_WORKER" in queued["hint"]
    listed = stemma("jobs", "list")
    assert queued["id"] in listed.out and "FF_JOBS_WORKER" in listed.err
    assert done("jobs", "list", "--kind", "noop", "--state", "queued")["worker"] == "off"
    assert "hello" in stemma("jobs", "show", queued["id"]).out
    assert stemma("jobs", "cancel", queued["id"]).out == f"{queued['id']} is cancelled.\n"
    again = stemma("jobs", "cancel", queued["id"])
    assert (again.code, len(again.err.splitlines())) == (4, 1) and "job_cancelled" in again.err
    shown = done("jobs", "show", queued["id"])
    assert [event["kind"] for event in shown["events"]] == ["submitted", "cancelled"]


def test_a_job_is_watched_to_its_end(settings: Settings, done: Stemma, stemma: Stemma, end: Any) -> None:
    good, bad = (done("jobs", "submit", "noop")["id"] for _ in range(2))
    end(good)
    end(bad, failure=Failure("disk_full", "There is no room.", passing=False))
    watched = stemma("jobs", "watch", good)
    assert watched.code == 0 and [word for word in ("submitted", "started", "done") if word not in watched.out] == []
    failed = stemma("jobs", "watch", bad, "--after", "2")
    assert failed.code == 6 and "disk_full" in failed.err and "submitted" not in failed.out
    finished = stemma("jobs", "cancel", good)
    assert finished.code == 4 and "job_finished" in finished.err
    assert done("verify")["clean"]


def test_kinds_are_listed_without_a_database(done: Stemma, stemma: Stemma, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMMA_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert {kind["name"] for kind in done("jobs", "kinds")} >= {"noop", "convert", "embed", "search-index"}
    assert "ingest:write" in stemma("jobs", "kinds").out


def test_what_cannot_be_used_is_one_line(settings: Settings, stemma: Stemma) -> None:
    for code, word, command in [
        (2, "job_kind_unknown", ("submit", "dance")),
        (2, "json_invalid", ("submit", "noop", "--input", "{")),
        (2, "json_invalid", ("submit", "noop", "--input", "[]")),
        (2, "json_invalid", ("submit", "noop", "--input", "[" * 100_000)),
        (2, "job_input_invalid", ("submit", "noop", "--input", r'{"message": "\u0000"}')),
        (2, "job_input_invalid", ("submit", "noop", "--input", '{"seconds": -1}')),
        (2, "time_invalid", ("submit", "noop", "--at", "soon")),
        (2, "schedule_without_offset", ("submit", "noop", "--at", "2026-12-31")),
        (2, "schedule_in_the_past", ("submit", "noop", "--at", "2020-01-31T06:00:00Z")),
        (2, "schedule_in_the_past", ("submit", "noop", "--at", "0001-01-01T00:00+14:00")),
        (3, "source_unknown", ("submit", "convert", "--input", '{"source": "nowhere"}')),
        (2, "cursor_invalid", ("list", "--cursor", "x")),
        (3, "job_unknown", ("show", "8e03978e-40d5-43dd-bc93-6894a57f9324")),
        (3, "job_unknown", ("watch", "8e03978e-40d5-43dd-bc93-6894a57f9324")),
        (3, "job_unknown", ("cancel", "8e03978e-40d5-43dd-bc93-6894a57f9324")),
        (2, "usage_invalid", ("cancel", "7")),
    ]:
        ended = stemma("jobs", *command)
        assert ended.code == code and word in ended.err and len(ended.err.splitlines()) == 1, ended
