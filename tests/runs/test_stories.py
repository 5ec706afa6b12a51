"""A run as it is told: from Dagster where that answers, from the ledger where it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from resources.instance import open_instance
from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.errors import Conflict, Forbidden, InvalidInput, NotFound, Unavailable
from stemma.runs.artifacts import sign_artifact
from stemma.runs.cancelling import cancel
from stemma.runs.dagster import list_runs, read_log, read_run
from stemma.runs.model import RunState
from stemma.runs.story import list_stories, read_story
from stemma.store.database import Database
from stemma.store.files import FileStore
from stemma.store.settings import Settings

UNKNOWN = "5fbb0f5d-9d0e-4c38-8b3d-0d5e9c3a7c11"


@pytest.fixture(scope="module")
def house(
    studio: tuple[Settings, Database],
    execute_runs: Callable[..., Any],
    serve_dagster: Callable[..., AbstractContextManager[None]],
) -> Iterator[tuple[Settings, Database, Any]]:
    """Settings that reach a webserver, the database, and the runs."""
    settings, database = studio
    with open_instance(settings, database.urls) as instance:
        runs = execute_runs(instance, database, settings)
        with serve_dagster(instance, settings):
            yield settings, database, runs


def unreachable(settings: Settings) -> Settings:
    return settings.model_copy(update={"home": settings.home / "elsewhere"})


def test_a_run_tells_its_steps_checks_and_log(house: Any) -> None:
    settings, _, runs = house
    detail = read_run(settings, runs.second)
    assert (detail.run.state, detail.run.actor) == (RunState.DONE, "schedule:nightly")
    assert [(step.key, step.state) for step in detail.steps] == [
        ("handbook__text", "done"),
        ("handbook__words", "done"),
    ]
    assert {one.subject: one.figures["lines"] for one in detail.made if "lines" in one.figures} == {"handbook/text": 2}
    (check,) = detail.checks
    assert (check.name, check.passed, check.asset) == ("words_are_there", True, "handbook/words")
    (line,) = [event for event in detail.log.events if "read the handbook" in event.message]
    assert (line.level, line.kind) == ("INFO", "LOG") and "ada@example.org" not in line.message


def test_a_log_goes_on_after_any_of_its_events(house: Any) -> None:
    settings, _, runs = house
    whole = read_log(settings, runs.second)
    parts, position = [], 0
    while True:
        part = read_log(settings, runs.second, position, limit=7)
        parts += part.events
        position = part.position
        if not part.more:
            break
    assert tuple(parts) == whole.events and [event.seq for event in parts] == list(range(1, len(parts) + 1))
    assert read_log(settings, runs.second, position).events == ()


def test_what_a_run_changed_stands_beside_what_was_there_before(house: Any) -> None:
    settings, database, runs = house
    text, words = read_story(database, settings, runs.second).changes
    assert (text.changed, words.changed) == (True, False)
    assert text.previous is not None and text.receipt is not None and text.previous.run_id == runs.first
    assert {one.name: (one.before, one.after) for one in text.figures if one.changed} == {"lines": (1, 2)}
    assert [one.how for one in (*text.artifacts, *words.artifacts)] == ["changed", "unchanged"]
    assert read_story(database, settings, runs.first).changes[0].previous is None


def test_a_run_that_failed_says_why(house: Any) -> None:
    settings, database, runs = house
    story = read_story(database, settings, runs.failed)
    assert story.detail is not None and story.detail.run.state is RunState.FAILED
    (failure,) = [event for event in story.detail.log.events if event.kind == "STEP_FAILURE"]
    assert "has no words" in failure.message and "ada@example.org" not in failure.message
    assert [change.subject for change in story.changes] == ["handbook/text"]


def test_without_dagster_the_receipts_tell(house: Any) -> None:
    settings, database, runs = house
    story = read_story(database, unreachable(settings), runs.second)
    assert story.detail is None and story.unanswered and story.actor == "schedule:nightly"
    assert [change.changed for change in story.changes] == [True, False]
    listing = list_stories(database, unreachable(settings))
    assert listing.unanswered and [one.id for one in listing.runs] == [runs.failed, runs.second, runs.first]
    with pytest.raises(Unavailable, match="does not answer"):
        read_run(unreachable(settings), runs.second)


@pytest.mark.parametrize("reachable", [True, False])
def test_a_run_that_nobody_knows(house: Any, reachable: bool) -> None:
    settings, database, _ = house
    with pytest.raises(NotFound) as refused:
        read_story(database, settings if reachable else unreachable(settings), UNKNOWN)
    assert refused.value.code == "run_unknown"


def test_runs_are_listed_in_pages(house: Any) -> None:
    settings, database, runs = house
    first = list_stories(database, settings, limit=2)
    rest = list_stories(database, settings, limit=2, cursor=first.next_cursor)
    assert [one.id for one in (*first.runs, *rest.runs)] == [runs.failed, runs.second, runs.first]
    assert first.runs[1].made == ("handbook/text", "handbook/words") and rest.next_cursor is None
    assert [run.id for run in list_runs(settings, state=RunState.FAILED).data] == [runs.failed]
    with pytest.raises(InvalidInput):
        list_stories(database, settings, cursor="nonsense")


def test_a_file_is_given_out_as_long_as_it_is_what_the_run_wrote(house: Any) -> None:
    settings, database, runs = house
    first, second = (read_story(database, settings, run).receipts for run in (runs.first, runs.second))
    (words,) = second[1].artifacts
    signed = sign_artifact(settings, second, words.sha256)
    assert signed.url.startswith("/files/handbook/words.txt?") and "name=words.txt" in signed.url
    with pytest.raises(Conflict) as replaced:
        sign_artifact(settings, first, first[0].artifacts[0].sha256)
    assert replaced.value.code == "artifact_replaced"
    with pytest.raises(NotFound):
        sign_artifact(settings, first, "0" * 64)
    assert FileStore.open_default(settings).exists("handbook/text.txt")


def test_a_run_that_ended_cannot_be_cancelled(house: Any) -> None:
    settings, _, runs = house
    run = read_run(settings, runs.second).run
    with pytest.raises(Conflict) as refused:
        cancel(Principal("key:1", Role.OWNER, frozenset({"jobs:*"})), run)
    assert refused.value.code == "run_finished"
    with pytest.raises(Forbidden):
        cancel(Principal("key:1", Role.VIEWER, frozenset({"jobs:*"})), run)
