"""What every route has in common: problem details, request ids, who is let in, and limits."""

from __future__ import annotations

import io
import json
import logging
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import structlog
from fastapi import APIRouter

from api.app import create_app
from api.limits import IN_FLIGHT, limited
from stemma.errors import InvalidInput
from stemma.store.database import Database, DatabaseUrls
from stemma.store.logs import configure_logging
from stemma.store.settings import Settings


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["type"] == f"urn:stemma:problem:{code}"
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["instance"] == response.request.url.path
    assert body["title"] and body["detail"]
    return body


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logging("DEBUG", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO, **wanted: object) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [line for line in found if wanted.items() <= line.items()]


def test_unknown_routes_and_methods(visitor: httpx.Client) -> None:
    problem(visitor.get("/api/v1/nothing"), 404, "not_found")
    refused = visitor.delete("/api/v1/documents")
    problem(refused, 405, "method_not_allowed")
    assert refused.headers["allow"] == "GET, POST"
    assert set(visitor.post("/openapi.json").headers["allow"].split(", ")) == {"GET", "HEAD"}
    for address in ("/docs", "/redoc"):
        problem(visitor.get(address), 404, "not_found")


def test_invalid_parameters_name_each_field(visitor: httpx.Client) -> None:
    body = problem(visitor.get("/api/v1/search", params={"k": 0, "mode": "psychic"}), 422, "request_invalid")
    assert [error["field"] for error in body["errors"]] == ["q", "k", "mode"]
    body = problem(visitor.get("/api/v1/documents/none"), 422, "request_invalid")
    assert [error["field"] for error in body["errors"]] == ["id"]


@pytest.mark.parametrize("address", ["/api/v1/search?q=a%00b", "/api/v1/documents/1%00", "/%00?%00"])
def test_text_that_holds_nul_is_refused(visitor: httpx.Client, address: str) -> None:
    response = visitor.get(address)
    body = response.json()
    assert (response.status_code, body["code"]) == (422, "text_holds_nul")
    assert body["errors"][0]["field"] in ("query", "path")


@pytest.mark.parametrize("path", ["documents", "quarantine"])
@pytest.mark.parametrize(
    "cursor", ["x", "!!!", "bm9wZQ", "WyJkb2N1bWVudHMiLCJhIl0", "WyJkb2N1bWVudHMiLDFlOTld", "é", "W10"]
)
def test_bad_cursors_are_refused(visitor: httpx.Client, path: str, cursor: str) -> None:
    body = problem(visitor.get(f"/api/v1/{path}", params={"cursor": cursor}), 422, "cursor_invalid")
    assert body["errors"][0]["field"] == "cursor"
    assert body["hint"]


def test_a_request_id_is_kept_or_made(visitor: httpx.Client) -> None:
    kept = visitor.get("/healthz", headers={"X-Request-ID": "job-7f3a.2026_11"})
    assert kept.headers["x-request-id"] == "job-7f3a.2026_11"
    for bad in ("short", "has space in it", "x" * 129, 'quote"quote"quote'):
        made = visitor.get("/healthz", headers={"X-Request-ID": bad}).headers["x-request-id"]
        assert made != bad
        assert len(made) == 32


def test_each_request_is_one_log_line_without_its_query(
    visitor: httpx.Client, logged: io.StringIO, wait_until: Any
) -> None:
    request_id = visitor.get("/api/v1/documents?cursor=secret-token").headers["x-request-id"]
    wait_until(lambda: bool(lines(logged, request_id=request_id, event="request")))
    (line,) = lines(logged, request_id=request_id)
    assert line["method"] == "GET"
    assert line["route"] == "/api/v1/documents"
    assert line["status"] == 422
    assert line["level"] == "info"
    assert line["duration_ms"] >= 0
    assert "secret-token" not in logged.getvalue()


def test_an_unexpected_error_is_logged_and_tells_nothing(
    settings: Settings, database: Database, serve: Any, logged: io.StringIO
) -> None:
    app = create_app(settings, database=database)

    @app.get("/broken/{token}")
    def broken(token: str) -> None:
        raise RuntimeError("the inner workings")

    with serve(app) as client:
        response = client.get("/broken/secret-token")
        body = problem(response, 500, "internal_error")
        assert "inner" not in response.text
        (error,) = lines(logged, event="unexpected error", request_id=body["request_id"])
        assert error["route"] == "/broken/{token}"
        assert "RuntimeError: the inner workings" in error["exception"]
        assert client.get("/healthz").status_code == 200


def test_log_lines_of_the_domain_carry_the_request_id(
    settings: Settings, database: Database, serve: Any, logged: io.StringIO
) -> None:
    app = create_app(settings, database=database)

    @app.get("/talkative")
    def talkative() -> None:
        logging.getLogger("stemma.somewhere").warning("from a thread of the pool")

    with serve(app) as client:
        request_id = client.get("/talkative").headers["x-request-id"]
    assert len(lines(logged, event="from a thread of the pool", request_id=request_id)) == 1


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "[::ffff:8.8.8.8]",
        "[",
        "0",
    ],
)
def test_a_foreign_host_is_refused(visitor: httpx.Client, host: str) -> None:
    for path in ("/healthz", "/openapi.json", "/nothing"):
        problem(visitor.get(path, headers={"Host": host}), 421, "host_not_loopback")


@pytest.mark.parametrize("host", ["localhost:8400", "LOCALHOST", "127.0.0.1", "127.8.8.8:1", "[::1]:8400"])
def test_a_loopback_host_is_let_in(visitor: httpx.Client, host: str) -> None:
    assert visitor.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_write_from_another_site_is_refused(
    visitor: httpx.Client, empty: tuple[Settings, Database], headers: dict[str, str]
) -> None:
    file = {"file": ("a.md", b"# A")}
    problem(visitor.post("/api/v1/documents", files=file, headers=headers), 403, "origin_foreign")
    problem(visitor.delete("/api/v1/documents", headers=headers), 403, "origin_foreign")
    assert visitor.get("/healthz", headers=headers).status_code == 200
    assert not (empty[0].inbox / "a.md").exists()


def test_a_write_from_our_own_pages_is_let_in(client: httpx.Client) -> None:
    origin = str(client.base_url).rstrip("/")
    headers = {"Origin": origin, "Sec-Fetch-Site": "same-origin"}
    file = {"file": ("a.md", b"# A")}
    assert client.post("/api/v1/documents", files=file, headers=headers).status_code == 201


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "studio.example"])
def test_the_application_refuses_to_be_served_beyond_loopback(tmp_path: Any, host: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        create_app(Settings(home=tmp_path, api_host=host))
    assert (caught.value.code, caught.value.field) == ("api_host_not_loopback", "STEMMA_API_HOST")


@pytest.mark.parametrize("path", ["/healthz", "/api/v1/documents"])
def test_an_oversized_body_is_refused(visitor: httpx.Client, path: str) -> None:
    announced = visitor.request("GET", path, content=b"x" * 60_000_000)
    problem(announced, 413, "body_too_large")


def test_requests_over_the_limit_in_flight_are_told_to_come_back(
    settings: Settings, database: Database, serve: Any, wait_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(IN_FLIGHT, "naps", 2)
    wake = threading.Event()
    router = APIRouter(route_class=limited("naps"))

    @router.get("/nap")
    def nap() -> str:
        wake.wait()
        return "rested"

    app = create_app(settings, database=database)
    app.include_router(router)
    with serve(app) as client, ThreadPoolExecutor(2) as threads:
        try:
            naps = [threads.submit(client.get, "/nap") for _ in range(2)]
            wait_until(lambda: app.state.in_flight.count("naps") == 2)
            refused = client.get("/nap")
            problem(refused, 429, "too_many_requests")
            assert int(refused.headers["retry-after"]) > 0
            assert client.get("/healthz").status_code == 200
        finally:
            wake.set()
        assert [nap.result().status_code for nap in naps] == [200, 200]
        assert client.get("/nap").status_code == 200


def test_a_database_that_is_gone_is_a_problem_with_retry_after(
    settings: Settings, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stemma.store.database._RECOVERY_PATIENCE", 0.2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql://nobody@127.0.0.1:{taken.getsockname()[1]}/nothing"
        with (
            Database(DatabaseUrls(url, url, url)) as gone,
            serve(create_app(settings, database=gone), key=f"stm_{'0' * 32}_{'a' * 43}") as client,
        ):
            refused = client.get("/api/v1/documents")
            problem(refused, 503, "database_unreachable")
            assert int(refused.headers["retry-after"]) > 0
            assert client.get("/healthz").json() == {"status": "alive"}
            body = problem(client.get("/readyz"), 503, "not_ready")
            assert {error["field"] for error in body["errors"]} == {"database", "search_index"}
