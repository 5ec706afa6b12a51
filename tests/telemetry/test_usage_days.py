"""Days and weeks of usage are what each call adds up to, whichever way it is counted; alerts are told once."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.access.principal import local_principal
from stemma.ledger.change import Change
from stemma.ledger.service import Ledger
from stemma.llm import budgets
from stemma.llm.budgets import NewBudget
from stemma.store.database import Database
from stemma.store.settings import Settings
from stemma.telemetry import alerts, costs, error_budget, health, health_days, latency, public
from stemma.telemetry.alerts import Alert, Stale, robust_z
from stemma.telemetry.days import Span, stretches
from stemma.telemetry.health import Observation

FIRST = date(2025, 3, 3)
DAYS = 15
CALLS = 240
SPAN = Span(FIRST, FIRST + timedelta(days=DAYS - 1))


@pytest.fixture
def used(database: Database, add_usage: Callable[..., None]) -> Database:
    """A database in which models were called on fifteen days from a Monday on."""
    add_usage(database, FIRST, DAYS, CALLS)
    return database


def ask(database: Database, query: str, *values: object) -> list[tuple[object, ...]]:
    with database.transaction() as connection:
        return connection.execute(query, values).fetchall()


def test_days_and_weeks_are_what_each_call_adds_up_to(used: Database) -> None:
    kept = costs.sync_days(used, SPAN)
    assert [kept[day].changed for day in sorted(kept)] == [True] * DAYS
    calls = ask(used, "SELECT (ts AT TIME ZONE 'UTC')::date, cost_est, tokens_in + tokens_out FROM provider_usage")
    dollars: dict[object, Decimal] = defaultdict(Decimal)
    for day, cost, _ in calls:
        dollars[day] += cost or 0
    found = used.read(lambda connection: costs.daily(connection, SPAN))
    founder = Decimal("0.0000000007")
    assert {one.day: one.cost for one in found} == {day: cost + founder for day, cost in dollars.items()}
    assert {(one.calls, one.errors, one.cancelled, one.founder_cost) for one in found} == {(242, 12, 12, founder)}
    assert {one.unpriced for one in found} == {121}
    costs.sync_weeks(used, SPAN)
    weeks = used.read(lambda connection: costs.weekly(connection, SPAN))
    assert [one.day for one in weeks] == [FIRST + timedelta(days=back) for back in (14, 7, 0)]
    assert sum(one.cost for one in weeks) == sum(one.cost for one in found)
    assert sum(one.calls for one in weeks) == DAYS * 242
    models = used.read(lambda connection: costs.by_model(connection, SPAN))
    assert sum(one.calls for one in models) == DAYS * CALLS
    assert used.read(lambda connection: costs.differences(connection, SPAN)) == ()
    assert used.read(lambda connection: costs.differences(connection, SPAN, weekly=True)) == ()


def test_only_what_changed_has_another_version(used: Database) -> None:
    before = costs.sync_days(used, SPAN)
    again = costs.sync_days(used, SPAN)
    assert {day: one.version for day, one in again.items()} == {day: one.version for day, one in before.items()}
    assert not any(one.changed for one in again.values())
    late = FIRST + timedelta(days=4)
    ask(used, "UPDATE founder_usage SET calls = calls + 1 WHERE day = %s RETURNING day", late)
    ask(used, "UPDATE spending SET calls = calls + 1 WHERE day = %s RETURNING day", late)
    assert used.read(lambda connection: costs.stale_days(connection, SPAN)) == [late]
    assert used.read(lambda connection: costs.differences(connection, SPAN)) == (
        "3,630 calls, and the usage of 2025-03-03 to 2025-03-17 adds up to 3,631",
    )
    after = costs.sync_days(used, Span(late, late))
    assert {day for day, one in after.items() if one.changed} == {late}
    assert used.read(lambda connection: costs.stale_days(connection, SPAN)) == []


def test_what_is_gone_is_gone_from_the_days(used: Database) -> None:
    costs.sync_days(used, SPAN)
    ask(used, "DELETE FROM provider_usage WHERE ts < %s RETURNING 1", SPAN.since + timedelta(days=1))
    ask(used, "DELETE FROM founder_usage WHERE day = %s RETURNING 1", FIRST)
    kept = costs.sync_days(used, SPAN)
    assert (kept[FIRST].rows, kept[FIRST].changed) == (0, True)
    assert used.read(costs.whole_span) == Span(FIRST + timedelta(days=1), SPAN.last)


def test_percentiles_are_those_of_the_calls_that_were_answered(used: Database) -> None:
    latency.sync_days(used, SPAN)
    rows = ask(used, "SELECT latency_ms FROM provider_usage WHERE status = 'ok' AND ts < %s", Span(FIRST, FIRST).until)
    times = [float(str(value)) for (value,) in rows]
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    (first,) = used.read(lambda connection: latency.list_days(connection, Span(FIRST, FIRST)))
    assert (first.p50, first.p95, first.p99) == pytest.approx((cuts[49], cuts[94], cuts[98]))
    assert first.calls == len(times)
    newest = used.read(lambda connection: latency.newest(connection, SPAN))
    assert Counter(one.by for one in newest) == {"all": 1, "provider": 2, "model": 6, "agent": 3, "route": 2}
    assert {one.day for one in newest} == {SPAN.last}
    assert used.read(lambda connection: latency.differences(connection, SPAN)) == ()
    ask(used, "UPDATE latency_days SET calls = calls + 1, p50 = p99 + 1 WHERE by = 'agent' AND name = '' RETURNING day")
    assert used.read(lambda connection: latency.differences(connection, SPAN)) == (
        "+15 calls by agent",
        "15 rows whose percentiles are not in order",
    )


def test_the_error_budget_is_spent_by_calls_and_minutes(used: Database) -> None:
    now = datetime.now(UTC)
    today = now.date()
    with used.transaction() as connection:
        for minute in range(10):
            status = "failed" if minute == 3 else "ok"
            seen = Observation("api", status, "", 0.1, 0.0, now)
            for statement in health.record(connection, "here", [seen]).companions:
                connection.execute(statement.query, statement.bound(()))
    error_budget.sync_days(used, SPAN)
    error_budget.sync_days(used, Span(today - timedelta(days=1), today))
    standing = {one.name: one for one in used.read(lambda c: error_budget.standing(c, SPAN.last))}
    models = standing[error_budget.MODELS]
    asked = CALLS - 12
    assert (models.total, models.bad) == (DAYS * asked, DAYS * 12)
    assert models.left == pytest.approx(1 - 12 / asked / (1 - error_budget.OBJECTIVE))
    assert models.burn == pytest.approx(12 / asked / (1 - error_budget.OBJECTIVE))
    assert sum(one.bad for name, one in standing.items() if name.startswith("provider/")) == DAYS * 12
    assert used.read(lambda connection: error_budget.differences(connection, SPAN)) == ()
    services = [one for one in used.read(lambda c: error_budget.standing(c, today)) if one.unit == "minutes"]
    assert [(one.name, one.total, one.bad) for one in services] == [("service/api", 10, 1)]
    health_days.sync_days(used, Span(today - timedelta(days=1), today))
    found = used.read(lambda connection: health_days.list_days(connection, Span(today - timedelta(days=1), today)))
    assert sum(one.seen for one in found) == 10 and sum(one.ok for one in found) == 9


def test_days_whose_minutes_are_gone_are_kept(used: Database) -> None:
    gone = Span(FIRST, FIRST)
    ask(used, "INSERT INTO health_days VALUES (%s, 'api', 10, 9, 0.1, 0.0) RETURNING day", FIRST)
    ask(used, "INSERT INTO error_budget_days VALUES (%s, 'service/api', 'minutes', 10, 1) RETURNING day", FIRST)
    health_days.sync_days(used, gone)
    error_budget.sync_days(used, gone)
    assert [one.seen for one in used.read(lambda connection: health_days.list_days(connection, gone))] == [10]
    names = {one.name for one in used.read(lambda connection: error_budget.standing(connection, FIRST))}
    assert "service/api" in names and error_budget.MODELS in names


def test_each_alert_is_told_once(database: Database, settings: Settings) -> None:
    now = datetime.now(UTC)
    with Ledger(database.urls, settings) as ledger:
        wanted = NewBudget("studio", "month", limit_tokens=1_000)
        change = database.read(lambda connection: budgets.set_budget(connection, local_principal(), wanted))
        ledger.commit(change).result(20)
        with database.transaction() as connection:
            connection.cursor().executemany(
                "INSERT INTO spending VALUES ('studio', '', %s, 1, 0, %s, %s)",
                [(now.date() - timedelta(days=back), 950 if not back else 0, 1 if back else 40) for back in range(20)],
            )
            connection.execute(
                "INSERT INTO provider_usage (ts, request_id, actor, route, op, provider, model, status, error_code,"
                " tokens_in, tokens_cached, tokens_out, counted, latency_ms, meta) SELECT %s, 'r', 'a', '/', 'run',"
                " 'openai', 'm', 'error', 'provider_timeout', 0, 0, 0, 'estimated', 1, '{}'"
                " FROM generate_series(1, 25)",
                (now,),
            )
        stale = [Stale("costs/daily", now - timedelta(days=3))]

        def look() -> list[Change[Alert]]:
            return database.read(lambda connection: alerts.due(connection, stale, now))

        first, second = look(), look()
        assert [change.result(()).topic for change in first] == [
            "alert.error_rate", "alert.cost_spike", "alert.budget", "alert.stale_asset"
        ]  # fmt: skip
        for told in [ledger.commit(change) for change in [*first, *second]]:
            told.result(20)
        assert look() == []
    assert ask(database, "SELECT count(*) FROM ledger WHERE kind = 'alert'") == [(4,)]
    assert ask(database, "SELECT count(*) FROM notifications WHERE topic LIKE 'alert.%%'") == [(4,)]


def test_a_day_like_the_others_is_no_alert(database: Database) -> None:
    now = datetime.now(UTC)
    with database.transaction() as connection:
        connection.cursor().executemany(
            "INSERT INTO spending VALUES ('agent', 'nova', %s, 1, 0, 5, %s)",
            [(now.date() - timedelta(days=back), Decimal(10 + back % 3)) for back in range(20)],
        )
    assert database.read(lambda connection: alerts.due(connection, [], now)) == []


@given(st.lists(st.floats(0, 1e6), min_size=7, max_size=28), st.floats(0, 1e6), st.floats(0, 1e6))
def test_what_costs_more_lies_further_out(history: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert robust_z(low, history) <= robust_z(high, history)
    assert robust_z(statistics.median(history), history) == 0


@given(st.sets(st.dates(date(2025, 1, 1), date(2025, 3, 1))))
def test_stretches_hold_each_day_once(days: set[date]) -> None:
    found = stretches(days)
    held = [span.first + timedelta(days=day) for span in found for day in range((span.last - span.first).days + 1)]
    assert held == sorted(days)
    assert all(after.first - before.last > timedelta(days=1) for before, after in itertools.pairwise(found))


def test_anybody_may_know_little_and_nothing_of_few_calls(database: Database) -> None:
    few = database.read(public.measure)
    assert (few.status, few.services, few.calls, few.error_rate, few.latency_p50) == ("ok", {}, None, None, None)
    ask(
        database,
        "INSERT INTO provider_usage (ts, request_id, actor, agent, route, op, provider, model, status, tokens_in,"
        " tokens_cached, tokens_out, counted, latency_ms, meta) SELECT now(), 'r', 'key:secret', 'nova', '/', 'run',"
        " 'openai', 'gpt', 'ok', 0, 0, 0, 'estimated', n, '{}' FROM generate_series(1, 101) AS n RETURNING id",
    )
    ask(
        database,
        "INSERT INTO service_health (instance, name, status, ts) VALUES ('host', 'provider/openai', 'failed', now()),"
        " ('host', 'database', 'ok', now()) RETURNING id",
    )
    much = database.read(public.measure)
    assert (much.status, much.services) == ("degraded", {"database": "ok", "models": "failed"})
    assert (much.calls, much.error_rate, much.latency_p50) == (101, 0, 51)
    assert not any(word in repr(much) for word in ("openai", "gpt", "nova", "secret", "host"))
