"""The sensor that writes receipts: nothing is lost, nothing is doubled, and what bypasses `@product` is named."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest

from assets.product import product
from resources import event_log, materializations
from resources.instance import open_instance
from resources.materializations import issue_receipts, read_cursor
from sensors.receipts import receipts
from stemma.errors import CheckFailed
from stemma.ledger.receipt_catalog import list_receipts
from stemma.store import outputs
from stemma.store.database import Database
from stemma.store.settings import Settings


@product(key=["new", "thing"], code_version="1", kinds={"python"}, description="New")
def thing() -> dg.MaterializeResult[None]:
    outputs.record(outputs.Artifact("thing", "text/plain", "00" * 32, 1))
    return dg.MaterializeResult(data_version=dg.DataVersion("1"))


@dg.asset(key=["foreign", "thing"])
def foreign() -> None:
    """An asset that bypasses `@product`."""


@pytest.fixture(scope="module")
def instance(studio: tuple[Settings, Database]) -> Iterator[dg.DagsterInstance]:
    with open_instance(studio[0], studio[1].urls) as opened:
        yield opened


def tick(instance: dg.DagsterInstance) -> str:
    result = receipts(dg.build_sensor_context(instance=instance, sensor_name="receipts"))
    assert isinstance(result, dg.SkipReason)
    return result.skip_message


def test_what_was_materialized_has_a_receipt_after_a_tick(
    instance: dg.DagsterInstance, studio: tuple[Settings, Database]
) -> None:
    tick(instance)
    runs = [dg.materialize([thing], instance=instance).run_id for _ in range(2)]
    assert tick(instance) == "2 receipts written."
    assert tick(instance) == "0 receipts written."
    assert [receipt.run_id for receipt in studio[1].read(list_receipts).data[:2]] == runs[::-1]


def test_what_bypassed_the_product_fails_the_tick_by_name_after_the_others(
    settings: Settings, database: Database
) -> None:
    assert event_log.without_receipt(database) == []
    with open_instance(settings, database.urls) as instance:
        assert tick(instance) == "Nothing was materialized."
        run = dg.materialize([foreign], instance=instance).run_id
        dg.materialize([thing], instance=instance)
        instance.report_runless_asset_event(dg.AssetMaterialization("reported"))
        with pytest.raises(CheckFailed, match=f"foreign/thing, run {run}, event .* And 1 more"):
            tick(instance)
    assert [receipt.subject for receipt in database.read(list_receipts).data] == ["new/thing"]
    assert event_log.without_receipt(database) == []
    missing = event_log.without_receipt(database, settled_at=datetime.now(UTC) + event_log.SETTLING)
    assert [item.subject for item in missing] == ["foreign/thing", "reported"]


def test_the_cursor_moves_behind_settled_events_alone(
    instance: dg.DagsterInstance, studio: tuple[Settings, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lower id may become visible after a higher one."""
    settings, database = studio
    before = read_cursor(instance)
    dg.materialize([thing], instance=instance)
    assert issue_receipts(instance, database, settings).written >= 1 and read_cursor(instance) == before
    monkeypatch.setattr(materializations, "SETTLING", -materializations.SETTLING)
    assert issue_receipts(instance, database, settings).written == 0
    assert read_cursor(instance) > before and tick(instance) == "Nothing was materialized."


def test_a_lost_cursor_costs_time_and_none_stops_the_sensor(instance: dg.DagsterInstance) -> None:
    dg.materialize([thing], instance=instance)
    for kept in ("", "x", "-1", "1.5", "²", "0"):
        instance.daemon_cursor_storage.set_cursor_values({"stemma/receipts": kept})
        assert "receipts written" in tick(instance)
    assert read_cursor(instance) == 0


def test_pages_are_read_to_the_end_or_to_the_end_of_the_time(
    instance: dg.DagsterInstance, studio: tuple[Settings, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, database = studio
    monkeypatch.setattr(materializations, "SETTLING", -materializations.SETTLING)
    issue_receipts(instance, database, settings)
    monkeypatch.setattr(materializations, "_PAGE", 2)
    for _ in range(5):
        dg.materialize([thing], instance=instance)
    assert issue_receipts(instance, database, settings, seconds=0).written == 2
    assert issue_receipts(instance, database, settings).written == 3


def test_for_whom_a_run_was(instance: dg.DagsterInstance, studio: tuple[Settings, Database]) -> None:
    settings, database = studio
    for tags, actor in (
        ({}, "dagster"),
        ({"dagster/schedule_name": "nightly"}, "schedule:nightly"),
        ({"dagster/sensor_name": "inbox"}, "sensor:inbox"),
        ({"dagster/backfill": "b1"}, "backfill:b1"),
        ({"user": "ada@example.org", "dagster/backfill": "b1"}, "user:ada@example.org"),
        ({"stemma/actor": "key:1", "dagster/sensor_name": "outbox"}, "key:1"),
    ):
        dg.materialize([thing], instance=instance, tags=tags)
        issue_receipts(instance, database, settings)
        assert database.read(list_receipts).data[0].actor == actor
