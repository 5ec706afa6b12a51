"""Metrics over HTTP, traces and reports on their way to loopback servers, and nothing of either where none is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import APIRouter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from api.app import create_app
from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.access.tokens import key_text, new_secret
from stemma.errors import InvalidInput, Unavailable
from stemma.store.database import Database
from stemma.store.settings import REPOSITORY, Settings
from stemma.telemetry.reporting import open_reporter
from stemma.telemetry.tracing import open_tracing, traced

SECRET = key_text(uuid4(), new_secret())


def spans_of(receiver: Any) -> list[dict[str, Any]]:
    """Every span as its name, ids and attributes."""
    found = []
    for path, body in receiver.came:
        assert path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = _attributes(resource.resource)["service.name"]
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                ids = {"id": span.span_id, "parent": span.parent_span_id, "trace": span.trace_id}
                failed = span.status.code == span.status.STATUS_CODE_ERROR
                assert not span.events
                found.append({"name": span.name, "service": service, "failed": failed, **ids, **_attributes(span)})
    return found


def _attributes(of: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}


def scrape(client: httpx.Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(answer.text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def failing(settings: Settings, database: Database) -> Any:
    """The application with a route that fails as nobody foresaw."""
    app = create_app(settings, database=database)
    router = APIRouter()

    @router.get("/readyz/{number}/fail")
    def fail(number: str) -> None:
        secret_local = number
        raise RuntimeError(f"{secret_local} came from ada@example.org with {SECRET}")

    app.include_router(router)
    return app


def test_requests_are_counted_by_template_and_never_by_path(visitor: httpx.Client) -> None:
    def counted(found: Any, route: str, status: str) -> float:
        labels = frozenset({("route", route), ("method", "GET"), ("status", status)})
        return float(found.get(("stemma_http_requests_total", labels), 0))

    before = scrape(visitor)
    for number in range(3):
        visitor.get(f"/api/v1/documents/{123456 + number}?q=ada@example.org")
        visitor.get(f"/api/v1/ada-{number}")
    after = scrape(visitor)
    template = "/api/v1/documents/{id}"
    assert counted(after, template, "4xx") - counted(before, template, "4xx") == 3
    assert counted(after, "unmatched", "4xx") - counted(before, "unmatched", "4xx") == 3
    assert after["stemma_http_request_duration_seconds_count", frozenset({("route", template)})] >= 3
    assert after["stemma_http_requests_in_flight", frozenset()] == 1
    assert after["stemma_ledger_queue_depth", frozenset()] == 0
    assert after["stemma_database_pool_limit", frozenset()] >= 1
    text = visitor.get("/metrics").text
    assert "ada" not in text and "12345" not in text


def test_searches_are_timed(reader: httpx.Client) -> None:
    reader.get("/api/v1/search", params={"q": "bread", "mode": "lexical"}).raise_for_status()
    assert scrape(reader)["stemma_search_duration_seconds_count", frozenset({("mode", "lexical")})] >= 1


def test_metrics_take_a_key_with_their_scope(
    empty: tuple[Settings, Database], visitor: httpx.Client, issue_key: Callable[..., IssuedKey]
) -> None:
    settings, database = empty
    assert visitor.get("/metrics", headers={"Authorization": ""}).status_code == 401
    for scope, status in (("search:*", 403), ("telemetry:read", 200)):
        key = issue_key(settings, database.urls, role=Role.VIEWER, scopes=[scope]).key
        assert visitor.get("/metrics", headers={"Authorization": f"Bearer {key}"}).status_code == status


def test_jobs_are_counted_and_their_table_s_absence_breaks_no_scrape(
    settings: Settings, database: Database, serve: Any
) -> None:
    with serve(create_app(settings, database=database)) as client:
        assert client.post("/api/v1/jobs", json={"kind": "noop"}).status_code == 201
        assert scrape(client)["stemma_jobs", frozenset({("kind", "noop"), ("state", "queued")})] == 1
        with database.owner() as connection:
            connection.execute("ALTER TABLE jobs RENAME TO gone")
        found = scrape(client)
        assert not any(name == "stemma_jobs" for name, _ in found)
        assert found["stemma_scrape_failures_total", frozenset({("collector", "jobs")})] >= 1
        assert found["stemma_database_pool_limit", frozenset()] >= 1


def test_server_errors_are_counted(settings: Settings, database: Database, serve: Any) -> None:
    app = create_app(settings, database=database)
    with serve(app) as client:
        with database.owner() as connection:
            connection.execute("ALTER TABLE service_health RENAME TO gone")
        assert client.get("/api/v1/health").status_code == 500
        errors = scrape(client)["stemma_http_server_errors_total", frozenset({("route", "/api/v1/health")})]
        assert errors == 1


def test_the_history_of_health_is_paged(visitor: httpx.Client, empty: tuple[Settings, Database]) -> None:
    _, database = empty
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO service_health (instance, name, status, latency_p95, error_rate, ts)"
            " SELECT 'here', CASE WHEN n % 2 = 0 THEN 'even' ELSE 'odd' END, 'ok', NULL, NULL, now()"
            " FROM generate_series(1, 5) AS n"
        )
    first = visitor.get("/api/v1/health", params={"limit": 2, "name": "odd"}).json()
    assert [row["name"] for row in first["data"]] == ["odd", "odd"]
    rest = visitor.get("/api/v1/health", params={"name": "odd", "cursor": first["next_cursor"]}).json()
    assert (len(rest["data"]), rest["next_cursor"]) == (1, None)
    assert visitor.get("/api/v1/health", params={"cursor": "x"}).json()["code"] == "cursor_invalid"


def test_nothing_is_imported_and_no_thread_runs_where_nothing_is_asked_for() -> None:
    program = (
        "import sys, api.server\nfrom stemma.telemetry import reporting, tracing\n"
        "from stemma.store.settings import Settings\n"
        "assert tracing.open_tracing(Settings(), 'x') is None and reporting.open_reporter(Settings()) is None\n"
        "with tracing.traced(Settings(), 'x', 'y', {}): pass\n"
        "import threading; assert threading.active_count() == 1\n"
        "print(*[name for name in sys.modules if name.startswith(('sentry_sdk', 'opentelemetry.sdk'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_request_and_its_appends_are_one_trace(
    settings: Settings, database: Database, serve: Any, receiver: Any
) -> None:
    traced_settings = settings.model_copy(update={"otel_endpoint": receiver.url})
    with serve(failing(traced_settings, database)) as client:
        body = {"name": "hypatia", "role": "Viewer", "scopes": ["search:read"]}
        created = client.post("/api/v1/keys", json=body)
        client.get("/readyz/7/fail?token=hidden")
        client.get("/healthz")
    spans = {span["name"]: span for span in spans_of(receiver)}
    request, append = spans["POST /api/v1/keys"], spans["ledger append"]
    assert (append["parent"], append["trace"]) == (request["id"], request["trace"])
    assert request["stemma.request_id"] == created.headers["x-request-id"]
    assert (request["http.response.status_code"], request["failed"], request["service"]) == (201, False, "stemma-api")
    assert append["stemma.ledger.entries"] >= 1
    assert spans["GET /readyz/{number}/fail"]["failed"] and not spans["GET /healthz"]["failed"]
    assert b"hidden" not in b"".join(body for _, body in receiver.came)
    assert b"hypatia" not in b"".join(body for _, body in receiver.came)


def test_work_that_is_no_request_is_a_trace_of_its_own(receiver: Any) -> None:
    settings = Settings(otel_endpoint=receiver.url)
    with pytest.raises(KeyError), traced(settings, "stemma-job", "job convert", {"stemma.job_id": "7"}):
        raise KeyError("ada@example.org")
    (span,) = spans_of(receiver)
    assert (span["name"], span["service"], span["stemma.job_id"]) == ("job convert", "stemma-job", "7")
    assert (span["failed"], span["error.type"], span["parent"]) == (True, "KeyError", b"")


def test_a_collector_that_is_not_there_costs_no_request(settings: Settings, database: Database, serve: Any) -> None:
    with serve(create_app(settings.model_copy(update={"otel_endpoint": "http://127.0.0.1:9"}), database=database)) as c:
        assert c.get("/healthz").status_code == 200


def test_an_unexpected_error_is_reported_without_what_was_sent(
    settings: Settings, database: Database, serve: Any, receiver: Any
) -> None:
    dsn = SecretStr(receiver.url.replace("http://", "http://public@") + "/1")
    with serve(failing(settings.model_copy(update={"sentry_dsn": dsn}), database)) as client:
        answer = client.get("/readyz/4711/fail?token=hidden", headers={"Cookie": "session=hidden", "X-Own": "hidden"})
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert client.get("/api/v1/documents/1").status_code == 404
    ((path, envelope),) = receiver.came
    assert path == "/api/1/envelope/"
    event = json.loads(envelope.splitlines()[2])
    (exception,) = event["exception"]["values"]
    assert exception["type"] == "RuntimeError"
    assert exception["value"] == "4711 came from [email] with [secret]"
    assert exception["stacktrace"]["frames"][-1]["function"] == "fail"
    assert "vars" not in envelope.decode()
    assert event["tags"] == {
        "method": "GET",
        "request_id": answer.headers["x-request-id"],
        "route": "/readyz/{number}/fail",
    }
    for hidden in (b"hidden", b"ada@", SECRET.encode(), b"Bearer", client.headers["authorization"][7:].encode()):
        assert hidden not in envelope


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"otel_endpoint": "collector:4318"}, "otel_endpoint_invalid"),
        ({"otel_endpoint": "http://127.0.0.1:4318/?x=1"}, "otel_endpoint_invalid"),
        ({"sentry_dsn": "https://sentry.example/1"}, "sentry_dsn_invalid"),
    ],
)
def test_settings_that_cannot_be_used_are_named(given: dict[str, str], code: str) -> None:
    settings = Settings(**given)
    with pytest.raises(InvalidInput) as error:
        open_reporter(settings) or open_tracing(settings, "x")
    assert error.value.code == code
    assert str(error.value).startswith(f"STEMMA_{next(iter(given)).upper()}: ")


@pytest.mark.parametrize(
    ("given", "package", "code"),
    [
        ({"otel_endpoint": "http://127.0.0.1:4318"}, "opentelemetry.sdk.trace", "otel_not_installed"),
        ({"sentry_dsn": "http://public@127.0.0.1:9/1"}, "sentry_sdk", "sentry_not_installed"),
    ],
)
def test_packages_that_are_missing_are_named(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], package: str, code: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    settings = Settings(**given)
    with pytest.raises(Unavailable, match="pip install") as error:
        open_reporter(settings) or open_tracing(settings, "x")
    assert error.value.code == code
