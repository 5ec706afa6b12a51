"""`stemma events` and `stemma outcomes`: from an event type to what came of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from stemma.governance.samples import FOLDER
from stemma.store.settings import Settings

Stemma = Callable[..., Any]
REPORTED = FOLDER / "event_types" / "LeaveBalanceReported.yaml"
DATA = '{"days_left": 12, "team_away": 0.2}'


def test_events_are_recorded_imported_and_shown(
    settings: Settings, tmp_path: Path, done: Stemma, stemma: Stemma
) -> None:
    assert "No event types." in stemma("events", "types", "list").out
    published = done("events", "types", "publish", REPORTED)
    assert done("events", "types", "show", "LeaveBalanceReported@1") == published
    assert done("events", "types", "list")["data"][0]["version"] == "1.0.0"
    recorded = done(
        *("events", "record", "--type", "LeaveBalanceReported", "--data", DATA, "--entity", "e/1"),
        *("--at", "2025-03-01T12:00:00Z", "--correlation", "c/1"),
    )
    assert done("events", "show", recorded["id"]) == recorded
    assert recorded["sha256"] in stemma("events", "show", recorded["id"]).out
    file = tmp_path / "balances.csv"
    file.write_text("at,entity,days_left,team_away\n2025-03-02,e/2,3,0.5\n2025-03-03,e/2,-3,0.5\n")
    arguments = ("events", "import", file, "--type", "LeaveBalanceReported", "--time", "at")
    imported = stemma(*arguments, "--json")
    assert imported.code == 6 and (imported.document["recorded"], imported.document["rejected"]) == (1, 1)
    assert "import: 2 rows" in imported.err and Path(imported.document["rejected_to"]) == Path(f"{file}.rejected.csv")
    assert "1 there already, 1 rejected to" in stemma(*arguments).out.replace("\n", " ")
    listed = done("events", "list", "--entity", "e/2", "--since", "2025-03-01T00:00:00Z")
    assert [event["data"]["days_left"] for event in listed["data"]] == [3]
    assert "c/1" in stemma("events", "list").out
    assert done("outcomes", "list") == {"data": [], "next_cursor": None}


def test_what_cannot_be_is_one_line_and_a_code(settings: Settings, tmp_path: Path, stemma: Stemma) -> None:
    record = ("events", "record", "--type", "Nothing", "--data")
    nobody = str(uuid4())
    for expected, code, *arguments in (
        (2, "event_type_unknown", *record, DATA),
        (2, "json_invalid", *record, "[]"),
        (2, "json_invalid", *record, "{"),
        (2, "time_invalid", *record, DATA, "--at", "2025-03-01"),
        (3, "event_unknown", "events", "show", nobody),
        (3, "event_type_unknown", "events", "types", "show", "Nothing"),
        (3, "file_not_found", "events", "types", "publish", tmp_path / "nothing.yaml"),
        (2, "event_type_unknown", "events", "import", tmp_path / "nothing.csv", "--type", "Nothing"),
        (2, "mapping_invalid", "events", "import", tmp_path / "x.csv", "--type", "Nothing", "--map", "a"),
        (3, "decision_unknown", "outcomes", "record", nobody, "--metrics", '{"profit": 1}'),
        (3, "outcome_unknown", "outcomes", "show", nobody),
    ):
        ended = stemma(*arguments)
        assert (ended.code, len(ended.err.splitlines())) == (expected, 1) and code in ended.err, ended
