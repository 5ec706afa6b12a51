"""The assets of usage, by real runs: a quarter in one run, weeks after it, checks that stop what does not add up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

import definitions
from cli import execution
from resources.instance import open_instance
from schedules.telemetry import usage_day, usage_week
from sensors.telemetry import alerts, stale_assets
from stemma.errors import CheckFailed, NotFound
from stemma.ledger.receipt_catalog import newest_receipt
from stemma.store.database import Database
from stemma.store.settings import Settings
from stemma.telemetry import costs
from stemma.telemetry.days import Span

FIRST = date(2025, 1, 6)
DAYS = 90
_RANGE = "dagster/asset_partition_range"
ALL = 'group:"costs" or group:"telemetry"'


@pytest.fixture(scope="module")
def home(studio: tuple[Settings, Database], add_usage: Callable[..., None]) -> tuple[Settings, Database]:
    """A studio in which models were called on each day of a quarter."""
    add_usage(studio[1], FIRST, DAYS, 30)
    return studio


@pytest.fixture(scope="module")
def instance(home: tuple[Settings, Database]) -> Iterator[dg.DagsterInstance]:
    with open_instance(home[0], home[1].urls) as opened:
        yield opened


def test_a_quarter_is_one_run_and_its_weeks_another(
    home: tuple[Settings, Database], instance: dg.DagsterInstance
) -> None:
    settings, database = home
    outcome = execution.materialize(settings, database, ALL)
    assert instance.get_runs_count() == 2
    assert {(built.asset, built.partition) for built in outcome.built} == {
        *((f"telemetry/{name}", "2025-01-06...2025-04-05") for name in ("latency", "error_budget", "health")),
        ("costs/daily", "2025-01-06...2025-04-05"),
        ("costs/weekly", "2025-01-06...2025-03-31"),
    }
    assert sorted(check.check for check in outcome.checks if check.passed) == [
        "days_equal_usage", "errors_equal_usage", "latencies_count_each_call", "weeks_equal_usage"
    ]  # fmt: skip
    assert outcome.receipts == 4 * DAYS + 13
    receipt = database.read(lambda connection: newest_receipt(connection, "costs/weekly", "2025-01-13"))
    assert [(made_from.asset, made_from.partition) for made_from in receipt.inputs] == [
        ("costs/daily", f"2025-01-{day}") for day in range(13, 20)
    ]
    again = execution.materialize(settings, database, "costs/daily", "2025-01-06...2025-01-08")
    assert [(built.changed, built.metadata["made"]) for built in again.built] == [(False, 0)]


def test_what_does_not_add_up_stops(home: tuple[Settings, Database]) -> None:
    settings, database = home
    week = Span(date(2025, 2, 3), date(2025, 2, 9))
    costs.sync_days(database, week)
    with database.transaction() as connection:
        connection.execute("UPDATE cost_days SET cost_est = cost_est + 0.01 WHERE day = '2025-02-05' AND founder")
    with pytest.raises(CheckFailed, match="weeks_equal_usage"):
        execution.materialize(settings, database, "costs/weekly", "2025-02-03")
    costs.sync_days(database, week)
    assert execution.materialize(settings, database, "costs/weekly", "2025-02-03").checks[0].passed


@pytest.mark.parametrize("partition", ["2025-02-04", "2024-12-29", "2025-02-10...2025-02-03", "x"])
def test_what_is_no_week_is_refused(home: tuple[Settings, Database], partition: str) -> None:
    with pytest.raises(NotFound, match="no partition"):
        execution.materialize(*home, "costs/weekly", partition)


def test_the_schedules_ask_for_what_was_missed_where_the_flag_is_on(
    home: tuple[Settings, Database], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = home[1]
    at = datetime(2025, 4, 7, 6, 20, tzinfo=UTC)
    costs.sync_days(database, Span(FIRST, FIRST + timedelta(days=DAYS - 1)))
    with database.transaction() as connection:
        connection.execute("DELETE FROM cost_days WHERE day BETWEEN '2025-02-01' AND '2025-02-02'")

    def asked(schedule: dg.ScheduleDefinition) -> list[tuple[str, str]]:
        with dg.build_schedule_context(instance=instance, scheduled_execution_time=at) as context:
            found = schedule.evaluate_tick(context).run_requests or []
        return [
            tuple(request.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end")) for request in found
        ]

    assert asked(usage_day) == [] and asked(usage_week) == []
    monkeypatch.setenv("FF_COST_TELEMETRY", "true")
    assert asked(usage_day) == [("2025-02-01", "2025-02-02"), ("2025-04-06", "2025-04-06")]
    assert asked(usage_week) == [("2025-03-10", "2025-03-31")]


def test_an_asset_that_nobody_brings_up_to_date_is_told_of(
    home: tuple[Settings, Database], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, database = home
    execution.materialize(settings, database, "costs/daily", "2025-02-03")
    graph = definitions.build_defs().get_repository_def()
    now = datetime.now(UTC)
    assert stale_assets(instance, graph, now) == ()
    assert "costs/daily" in {one.asset for one in stale_assets(instance, graph, now + timedelta(hours=49))}
    monkeypatch.setenv("FF_COST_TELEMETRY", "true")
    with dg.build_sensor_context(instance=instance, repository_def=graph) as context:
        told = alerts(context)
    assert isinstance(told, dg.SkipReason) and told.skip_message == "Alerts: 0."
