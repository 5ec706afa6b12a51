"""What starts the knowledge graph: a changed inbox, and the daily schedule."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest

from assets.knowledge import KNOWLEDGE_SOURCES
from definitions import defs
from schedules.knowledge import reread_sources
from sensors.knowledge import inbox
from stemma.store.settings import Settings


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp() as temporary:
        yield temporary


def tick(instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult | dg.SkipReason:
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, repository_def=defs.get_repository_def(), sensor_name="inbox"
    )
    return inbox(context)


def test_a_file_in_the_inbox_starts_one_run_for_it(settings: Settings, instance: dg.DagsterInstance) -> None:
    settings.inbox.mkdir()
    start = tick(instance, None).cursor
    assert isinstance(tick(instance, start), dg.SkipReason)
    (settings.inbox / "note.md").write_text("# Note\n\nhello\n")
    result = tick(instance, start)
    assert [request.partition_key for request in result.run_requests] == ["inbox"]
    assert isinstance(tick(instance, result.cursor), dg.SkipReason)


def test_a_listing_that_comes_back_is_a_new_request(settings: Settings, instance: dg.DagsterInstance) -> None:
    settings.inbox.mkdir()
    note = settings.inbox / "note.md"
    empty = tick(instance, None)
    note.write_text("one")
    filled = tick(instance, empty.cursor)
    note.unlink()
    emptied = tick(instance, filled.cursor)
    keys = {result.run_requests[0].run_key for result in (empty, filled, emptied)}
    assert len(keys) == 3


@pytest.mark.parametrize("cursor", ["", "x", ":", "seven:abc", "1"])
def test_a_cursor_from_elsewhere_never_stops_the_sensor(
    settings: Settings, instance: dg.DagsterInstance, cursor: str
) -> None:
    (settings.home / "inbox").mkdir()
    assert isinstance(tick(instance, cursor), dg.SensorResult)


def test_hidden_files_do_not_count(settings: Settings, instance: dg.DagsterInstance) -> None:
    settings.inbox.mkdir()
    start = tick(instance, None).cursor
    (settings.inbox / ".note.md.part").write_text("half")
    assert isinstance(tick(instance, start), dg.SkipReason)


def test_the_schedule_rereads_every_source_once_a_day(instance: dg.DagsterInstance) -> None:
    instance.add_dynamic_partitions(str(KNOWLEDGE_SOURCES.name), ["b", "a"])
    context = dg.build_schedule_context(instance, scheduled_execution_time=datetime(2026, 1, 2, 5, 30, tzinfo=UTC))
    requests = list(reread_sources(context))
    assert [request.partition_key for request in requests] == ["a", "b"]
    assert requests[0].run_key == "2026-01-02:a"


def test_without_sources_the_schedule_says_what_to_do(instance: dg.DagsterInstance) -> None:
    context = dg.build_schedule_context(instance, scheduled_execution_time=datetime(2026, 1, 2, 5, 30, tzinfo=UTC))
    [skipped] = reread_sources(context)
    assert "stemma sources add" in skipped.skip_message
