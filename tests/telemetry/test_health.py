"""The rows of `service_health`: written, told of when a status changes, paged, and deleted in time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stemma.errors import InvalidInput, Unavailable
from stemma.ledger import feed
from stemma.ledger.service import Ledger
from stemma.llm.providers.base import Standing
from stemma.store.database import Database
from stemma.store.files import FileStore
from stemma.store.settings import Settings
from stemma.telemetry import dependencies as telemetry_dependencies
from stemma.telemetry.checks import Check, check_all
from stemma.telemetry.dependencies import Dependencies
from stemma.telemetry.health import ERROR_RATE, latest, list_health, observe, record
from stemma.telemetry.metrics import Metrics
from stemma.telemetry.providers import check_providers
from stemma.telemetry.recorder import Recorder

FINE = Check("ok", required=True, detail="The database answers.")
NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


class Studio:
    """A recorder that looks when it is told to, at checks that a test can change."""

    def __init__(self, settings: Settings, database: Database, ledger: Ledger) -> None:
        self.database = database
        self.checks = {"database": FINE}
        self.metrics = Metrics()
        self.recorder = Recorder(
            database, ledger, instance="here", checks=lambda: self.checks, load=self.metrics.load, period=3600
        )

    def answer(self, status: int, times: int) -> None:
        for _ in range(times):
            self.metrics.request_ended("/api/v1/search", "GET", status, 0.02)

    def rows(self, **wanted: Any) -> list[Any]:
        with self.database.snapshot() as connection:
            return list(list_health(connection, **wanted).data)

    def alerts(self) -> list[dict[str, Any]]:
        with self.database.snapshot() as connection:
            page = feed.list_entries(connection, "historian", feed.Filter(kind="alert"))
        return [{"subject": entry.subject, **entry.data} for entry in page.data]


@pytest.fixture
def studio(settings: Settings, database: Database) -> Iterator[Studio]:
    with Ledger(database.urls, settings) as ledger:
        made = Studio(settings, database, ledger)
        with made.recorder:
            yield made


def test_a_look_writes_one_row_for_each_service_and_a_change_alerts_once(studio: Studio) -> None:
    studio.answer(200, 30)
    studio.recorder.look()
    api, database = sorted(studio.rows(), key=lambda row: row.name)
    assert (api.name, api.status, api.error_rate, database.latency_p95) == ("api", "ok", 0.0, None)
    assert 0.01 < api.latency_p95 <= 0.025
    assert studio.alerts() == []

    studio.checks["database"] = Check("failed", required=True, detail="Ask ada@example.org about it.")
    for _ in range(2):
        studio.recorder.look()
    (alert,) = studio.alerts()
    assert (alert["subject"], alert["before"], alert["status"]) == ("service/database", "ok", "failed")
    assert "ada@" not in alert["detail"]

    studio.checks["database"] = FINE
    studio.recorder.look()
    assert [alert["status"] for alert in studio.alerts()] == ["ok", "failed"]
    assert len(studio.rows()) == 8


@pytest.mark.parametrize(("good", "bad", "status"), [(94, 6, "degraded"), (95, 5, "ok"), (9, 5, "ok"), (0, 0, "ok")])
def test_the_api_is_degraded_by_a_share_of_errors_in_the_minute(
    studio: Studio, good: int, bad: int, status: str
) -> None:
    studio.answer(500, 1000)
    studio.recorder.look()
    studio.answer(200, good)
    studio.answer(503, bad)
    studio.recorder.look()
    assert studio.rows(name="api")[0].status == status
    assert ERROR_RATE == 5 / 100


def test_what_could_not_be_written_is_written_later(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    studio.recorder.look()
    studio.checks["database"] = Check("failed", required=True, detail="It does not answer.")
    with monkeypatch.context() as patch:

        def away(**_: object) -> Any:
            raise Unavailable("database_unreachable", "The database does not answer.")

        patch.setattr(studio.database, "transaction", away)
        for _ in range(2):
            with pytest.raises(Unavailable):
                studio.recorder.look()
    studio.checks["database"] = FINE
    studio.recorder.look()
    assert [row.status for row in studio.rows(name="database")] == ["ok", "failed", "failed", "ok"]
    assert [alert["status"] for alert in studio.alerts()] == ["ok", "failed"]


def test_another_machine_has_a_status_of_its_own(studio: Studio) -> None:
    studio.recorder.look()
    failed = observe({"database": Check("failed", required=True, detail="")}, studio.metrics.load(), NOW)
    with studio.database.snapshot() as connection:
        assert record(connection, "there", failed).entries == ()
        assert [entry.subject for entry in record(connection, "here", failed).entries] == ["service/database"]


def test_rows_are_paged_and_deleted_after_thirty_days(studio: Studio, database: Database) -> None:
    for age in (31, 29):
        with database.transaction() as connection:
            at = datetime.now(UTC) - timedelta(days=age)
            connection.execute(
                "INSERT INTO service_health (instance, name, status, ts) VALUES ('here', 'database', 'ok', %s)", (at,)
            )
    studio.recorder.look()
    assert len(studio.rows(name="database")) == 2
    with database.snapshot() as connection:
        first = list_health(connection, limit=2)
        second = list_health(connection, limit=2, cursor=first.next_cursor)
        seen = [row.id for row in (*first.data, *second.data)]
        assert seen == sorted(seen, reverse=True) and len(seen) == 3 and second.next_cursor is None
        assert {row.name for row in latest(connection)} == {"api", "database"}
        with pytest.raises(InvalidInput, match="cursor"):
            list_health(connection, cursor="nonsense")


def test_the_thread_looks_by_itself_and_outlives_a_failure(
    settings: Settings, database: Database, until: Callable[..., None]
) -> None:
    failures = iter([RuntimeError("once")])

    def checks() -> dict[str, Check]:
        for error in failures:
            raise error
        return {"database": FINE}

    with (
        Ledger(database.urls, settings) as ledger,
        Recorder(database, ledger, instance="here", checks=checks, load=Metrics().load, period=0.01),
    ):
        until(lambda: database.read(latest), "a row")


def test_every_check_says_how_it_stands(settings: Settings, database: Database) -> None:
    with Ledger(database.urls, settings) as ledger:
        checks = check_all(settings, database, ledger.status())
    assert {name: check.required for name, check in checks.items()} == {
        "database": True,
        "code_location": False,
        "ledger_heads": False,
        "search_index": True,
    }
    assert checks["database"].status == "ok"
    assert (checks["search_index"].status, "materialize" in checks["search_index"].detail) == ("failed", True)


def test_what_lies_outside_the_process_is_looked_at(settings: Settings, database: Database) -> None:
    dependencies = Dependencies(settings, database, patience=20)
    found = dependencies.check()
    # A daemon that was never heard of: no schedule of this studio runs.
    assert {name: check.status for name, check in found.items()} == {"files": "ok", "daemon": "not_running"}
    assert list(FileStore.open_default(settings).list()) == []
    blocked = settings.home / "blocked"
    blocked.write_text("A file, where the store's folder should be.")
    path = settings.home / "notify.yaml"
    path.write_text("channels: {ops: {kind: slack, url: 'http://127.0.0.1:1/', allow_private: true}}")
    path.chmod(0o600)
    broken = settings.model_copy(update={"files_url": str(blocked)})
    found = Dependencies(broken, database, patience=20).check()
    assert (found["files"].status, found["channel/ops"].status) == ("failed", "failed")
    path.write_text("channels: 3")
    assert Dependencies(settings, database, patience=20).check()["channels"].status == "failed"


def test_one_that_hangs_is_told_of_and_asked_once(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed, asked = threading.Event(), []

    def hang(_: Database) -> Check:
        asked.append(1)
        freed.wait(60)
        return FINE

    monkeypatch.setattr(telemetry_dependencies, "_check_daemon", hang)
    dependencies = Dependencies(settings, database, patience=0.05)
    for _ in range(3):
        assert dependencies.check()["daemon"].status == "failed"
    assert len(asked) == 1
    freed.set()


def test_providers_are_judged_by_a_look_and_by_their_calls(settings: Settings, database: Database) -> None:
    now = datetime.now(UTC)
    standings = {
        "openai": Standing("ready", "It answers.", ("m",), now),
        "local": Standing("disabled", "It is switched off."),
        "offline": Standing("ready", "It quotes the index.", ("e",)),
    }

    def statuses(**more: Standing) -> dict[str, str]:
        found = check_providers(settings, database, standings | more)
        return {name.removeprefix("provider/"): check.status for name, check in found.items()}

    assert statuses() == {"openai": "ok", "local": "not_running", "offline": "ok"}
    assert statuses(openai=Standing("ready", "It did not answer.", (), now))["openai"] == "failed"
    assert statuses(openai=Standing("resting", "It failed.", ("m",), now))["openai"] == "failed"
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO provider_usage (ts, request_id, actor, route, op, provider, model, status, error_code,"
            " tokens_in, tokens_cached, tokens_out, counted, latency_ms, meta) SELECT now(), 'r', 'a', '/', 'run',"
            " 'openai', 'm', 'error', 'provider_timeout', 0, 0, 0, 'estimated', 1, '{}' FROM generate_series(1, 6)"
        )
    assert statuses()["openai"] == "failed"
