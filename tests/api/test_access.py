"""Keys over HTTP: what is shown once, refused, limited, simulated and told."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any
from uuid import uuid4

import httpx
import psycopg
import pytest
import structlog
from fastapi import APIRouter, FastAPI

from api.access import allow, is_public
from api.app import create_app
from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.store.database import Database
from stemma.store.logs import configure_logging
from stemma.store.settings import REPOSITORY, Settings

KEYS, AUDIT = "/api/v1/keys", "/api/v1/audit"
VIEWER = {"name": "ci", "role": "Viewer", "scopes": ["search:*"]}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def code(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    return response.status_code, response.json()["code"]


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logging("INFO", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_key_is_made_used_rotated_and_revoked(client: httpx.Client) -> None:
    made = client.post(KEYS, json=VIEWER)
    assert made.status_code == 201
    first, key_id = made.json()["key"], made.json()["id"]
    me = client.get(f"{KEYS}/me", headers=bearer(first)).json()
    assert (me["id"], me["permissions"]) == (key_id, ["search:read"])
    rotated = client.post(f"{KEYS}/{key_id}/rotate", headers=bearer(first))
    second = rotated.json()["key"]
    assert rotated.status_code == 200 and second != first
    assert code(client.get(f"{KEYS}/me", headers=bearer(first))) == (401, "key_unknown")
    listed = client.get(KEYS).json()["data"]
    assert [key["id"] for key in listed][1:] == [key_id]
    assert "key" not in listed[1] and first not in json.dumps(listed)
    assert client.delete(f"{KEYS}/{key_id}").json()["revoked_at"] is not None
    refused = client.get(f"{KEYS}/me", headers=bearer(second))
    assert code(refused) == (401, "key_revoked")
    assert refused.headers["www-authenticate"] == 'Bearer realm="stemma"'
    assert code(client.delete(f"{KEYS}/{key_id}")) == (409, "key_revoked")
    assert code(client.delete(f"{KEYS}/{uuid4()}")) == (404, "key_not_found")


def test_a_repeat_shows_no_secret(client: httpx.Client, database: Database) -> None:
    headers = {"Idempotency-Key": "once"}
    first, repeat = (client.post(KEYS, json=VIEWER, headers=headers) for _ in range(2))
    assert repeat.headers["idempotency-replayed"] == "true"
    assert repeat.json() == first.json() | {"key": None, "signing_secret": None}
    with database.snapshot() as connection:
        kept = connection.execute("SELECT string_agg(convert_from(body, 'UTF8'), '') FROM kept_answers").fetchone()
    assert kept is not None and first.json()["id"] in kept[0]
    assert first.json()["key"] not in kept[0] and first.json()["signing_secret"] not in kept[0]


@pytest.mark.parametrize(
    ("change", "expected", "field"),
    [
        ({"role": "Emperor"}, "role_unknown", "role"),
        ({"scopes": ["search"]}, "scope_unknown", "scopes"),
        ({"scopes": []}, "scopes_invalid", "scopes"),
        ({"name": " "}, "name_invalid", "name"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expiry_past", "expires_at"),
        ({"expires_at": "2099-01-01T00:00:00"}, "request_invalid", "expires_at"),
        ({"power": 1}, "request_invalid", "power"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(
    client: httpx.Client, change: dict[str, Any], expected: str, field: str
) -> None:
    refused = client.post(KEYS, json=VIEWER | change)
    assert code(refused) == (422, expected)
    assert refused.json()["errors"][0]["field"] == field


def test_a_key_cannot_make_one_that_is_mightier(client: httpx.Client) -> None:
    admin = client.post(KEYS, json={"name": "a", "role": "Admin", "scopes": ["admin:*", "search:read"]}).json()["key"]
    for wanted, expected in (
        ({"role": "Owner", "scopes": ["search:read"]}, "role_beyond_own"),
        ({"role": "Viewer", "scopes": ["search:*"]}, "scope_beyond_own"),
    ):
        refused = client.post(KEYS, json={"name": "b", **wanted}, headers=bearer(admin))
        assert code(refused) == (403, expected)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], "key_missing"),
        ([("Authorization", "")], "authorization_invalid"),
        ([("Authorization", "Basic YWRhOnNlc2FtZQ==")], "authorization_invalid"),
        ([("Authorization", "stm_nothing")], "authorization_invalid"),
        ([("Authorization", "Bearer")], "key_malformed"),
        ([("Authorization", "Bearer stm_nothing")], "key_malformed"),
        ([("Authorization", "Bearer " + "stm_" * 2000)], "key_malformed"),
        ([("Authorization", "Bearer \xe9")], "key_malformed"),
        ([("Authorization", f"Bearer stm_{'0' * 32}_{'a' * 43}")], "key_unknown"),
        ([("Authorization", f"bearer stm_{'0' * 32}_{'a' * 43}")], "key_unknown"),
        ([("Authorization", "Bearer a"), ("Authorization", "Bearer b")], "authorization_invalid"),
        ([("Authorization", "Bearer a"), ("Signature-Input", "a=()")], "authorization_invalid"),
    ],
)
def test_who_shows_no_key_is_told_so(visitor: httpx.Client, headers: list[tuple[str, str]], expected: str) -> None:
    sent = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    with httpx.Client(base_url=visitor.base_url, trust_env=False) as nobody:
        for method, path in (("GET", "/api/v1/search?q=x"), ("POST", "/api/v1/documents"), ("GET", "/nothing")):
            assert code(nobody.request(method, path, headers=sent)) == (401, expected)


def exchange(client: httpx.Client, sent: bytes) -> bytes:
    """The beginning of what is answered to these bytes."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as raw:
        raw.sendall(sent)
        return raw.recv(100)


def test_the_body_of_somebody_unknown_is_not_waited_for(visitor: httpx.Client) -> None:
    head = b"POST /api/v1/documents HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"
    assert exchange(visitor, head).startswith(b"HTTP/1.1 401 ")


def test_a_nul_in_a_header_is_refused_by_the_server(visitor: httpx.Client) -> None:
    head = b"GET /api/v1/search?q=x HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer a\0b\r\n\r\n"
    assert exchange(visitor, head).startswith(b"HTTP/1.1 400 ")


def test_x_role_is_nothing_in_production(settings: Settings, database: Database, serve: Any) -> None:
    assert Settings().environment == "production"
    with serve(create_app(settings, database=database)) as client:
        for role in ("Viewer", "Emperor", "GODMODE"):
            assert client.get(KEYS, headers={"X-ROLE": role}).status_code == 200


def test_x_role_narrows_under_test_settings(
    settings: Settings, database: Database, serve: Any, issue_key: Callable[..., IssuedKey]
) -> None:
    tested = settings.model_copy(update={"environment": "test"})
    with serve(create_app(tested, database=database)) as client:
        assert client.get(KEYS).status_code == 200
        assert code(client.get(KEYS, headers={"X-ROLE": "Viewer"})) == (403, "role_forbidden")
        assert code(client.get(KEYS, headers={"X-ROLE": "Emperor"})) == (422, "role_unknown")
        builder = bearer(issue_key(settings, database.urls, role=Role.BUILDER).key)
        assert code(client.get(KEYS, headers={**builder, "X-ROLE": "Owner"})) == (403, "role_beyond_own")


def test_the_rate_of_a_key_is_limited_for_each_capability(
    settings: Settings, database: Database, serve: Any, issue_key: Callable[..., IssuedKey]
) -> None:
    other = bearer(issue_key(settings, database.urls).key)
    limited = settings.model_copy(update={"api_requests_per_minute": 3})
    with serve(create_app(limited, database=database)) as client:
        assert [client.get(AUDIT).status_code for _ in range(3)] == [200] * 3
        refused = client.get(AUDIT)
        assert code(refused) == (429, "rate_exceeded")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert client.get(f"{KEYS}/me").status_code == 200
        assert client.get(AUDIT, headers=other).status_code == 200


def test_guessing_gets_no_more_answers_and_keeps_nobody_else_out(
    settings: Settings, database: Database, serve: Any
) -> None:
    limited = settings.model_copy(update={"api_failures_per_minute": 3})
    with serve(create_app(limited, database=database)) as client:
        guess = bearer(f"stm_{'0' * 32}_{'a' * 43}")
        assert [client.get(AUDIT, headers=guess).status_code for _ in range(3)] == [401] * 3
        refused = client.get(AUDIT, headers=guess)
        assert code(refused) == (429, "rate_exceeded")
        assert int(refused.headers["retry-after"]) > 0
        assert client.get(AUDIT).status_code == 200


def test_the_places_of_a_key_are_limited(
    settings: Settings, database: Database, serve: Any, wait_until: Any, issue_key: Callable[..., IssuedKey]
) -> None:
    wake = threading.Event()
    router = APIRouter()

    @router.get("/nap")
    def nap(_: Annotated[Principal, allow("ledger:read")]) -> str:
        wake.wait()
        return "rested"

    app: FastAPI = create_app(settings.model_copy(update={"api_requests_in_flight": 2}), database=database)
    app.include_router(router)
    issued = issue_key(settings, database.urls)
    other = bearer(issue_key(settings, database.urls).key)
    actor = f"key:{issued.api_key.id}"
    with serve(app, key=issued.key) as client, ThreadPoolExecutor(3) as threads:
        try:
            naps = [threads.submit(client.get, "/nap") for _ in range(2)]
            wait_until(lambda: app.state.in_flight.count("ledger", actor) == 2)
            assert code(client.get("/nap")) == (429, "too_many_requests")
            naps.append(threads.submit(client.get, "/nap", headers=other))
            wait_until(lambda: sum(app.state.in_flight._counts.values()) == 3)
        finally:
            wake.set()
        assert [nap.result().status_code for nap in naps] == [200] * 3
        wait_until(lambda: app.state.in_flight.count("ledger", actor) == 0)


def test_a_denied_request_is_logged_with_its_actor(
    settings: Settings, database: Database, serve: Any, issue_key: Callable[..., IssuedKey], logged: io.StringIO
) -> None:
    issued = issue_key(settings, database.urls, role=Role.VIEWER)
    with serve(create_app(settings, database=database), key=issued.key) as client:
        request_id = client.get(KEYS).headers["x-request-id"]
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    (denied,) = [line for line in lines if line["event"] == "denied"]
    assert (denied["actor"], denied["permission"]) == (f"key:{issued.api_key.id}", "admin:keys")
    assert denied["request_id"] == request_id
    assert issued.key not in logged.getvalue()
    with database.snapshot() as connection:
        assert connection.execute("SELECT count(*) FROM audit WHERE action <> 'key.created'").fetchone() == (0,)


def test_the_audit_is_filtered_and_comes_page_by_page(client: httpx.Client, database: Database) -> None:
    ids = [client.post(KEYS, json=VIEWER | {"name": f"k{number}"}).json()["id"] for number in range(3)]
    client.delete(f"{KEYS}/{ids[0]}")
    everything = client.get(AUDIT).json()["data"]
    assert [row["action"] for row in everything] == ["key.revoked", *["key.created"] * 4]
    assert everything[0]["resource"] == f"key/{ids[0]}" and everything[1]["meta"]["name"] == "k2"
    found, cursor = [], None
    while cursor is not None or not found:
        page = client.get(AUDIT, params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        found += page["data"]
        cursor = page["next_cursor"]
    assert found == everything
    actor, second = everything[0]["actor"], everything[2]
    for params, rows in (
        ({"actor": actor}, everything[:4]),
        ({"action": "key.revoked"}, everything[:1]),
        ({"resource": f"key/{ids[0]}", "action": "key.created"}, everything[3:4]),
        ({"since": second["ts"]}, everything[:3]),
        ({"until": second["ts"]}, everything[3:]),
        ({"actor": "nobody"}, []),
    ):
        assert client.get(AUDIT, params=params).json()["data"] == rows
    for params in ({"since": "yesterday"}, {"since": "2026-01-01T00:00:00"}, {"cursor": "x"}):
        assert client.get(AUDIT, params=params).status_code == 422
    with psycopg.connect(database.urls.owner) as connection:
        rows = connection.execute("SELECT ts, actor, action, resource, meta FROM audit ORDER BY seq DESC").fetchall()
    assert [row[2] for row in rows] == [row["action"] for row in everything]


def test_protected_routes_declare_what_they_take(visitor: httpx.Client) -> None:
    document = visitor.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for operation in methods.values():
            protected = not is_public(path)
            assert ("security" in operation) == protected
            assert not protected or {"401", "403", "429"} <= set(operation["responses"])
    assert document["paths"]["/api/v1/search"]["get"]["security"][0] == {"key": ["search:read"]}


def test_the_readme_s_requests_work_as_they_are_written(reader: httpx.Client) -> None:
    page = (REPOSITORY / "README.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("curl ")]
    assert len(lines) >= 2
    for line in lines:
        written = re.fullmatch(r"""curl -s -H "Authorization: Bearer \$KEY" 'http://127.0.0.1:8400(/[^']+)'""", line)
        assert written is not None, line
        # The library here is smaller than what the README speaks of: an offset may be beyond its end.
        assert reader.get(written[1]).status_code in (200, 422)
