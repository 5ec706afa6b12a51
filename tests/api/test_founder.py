"""What founders' calls and agents' secrets leave behind, looked for in everything that the studio keeps or tells."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

import httpx
import psycopg
import pytest
import structlog
from fastapi import APIRouter
from psycopg import sql
from pydantic import SecretStr

from api.app import create_app
from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.agents.vault import confidences, secrets
from stemma.llm import founder_totals
from stemma.store.database import Database
from stemma.store.logs import configure_logging
from stemma.store.settings import Settings
from tests.llm.upstream import Answer, Asked, Upstream

Serve = Callable[..., AbstractContextManager[httpx.Client]]

MARK: Final = "quincemark"
PLAIN: Final = "plainmark"
CANARY: Final = "canary-7f3a9b1c5d"
CALLS: Final = 50


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """All that is logged at any level, as it is written to stderr."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logging("DEBUG", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """A model that repeats what it is told, and fails or uses a tool where it is told to."""

    def respond(asked: Asked) -> Answer:
        said = str(asked.messages[-1]["content"])
        if "use a tool" in said:
            return Answer(tool_calls=(("search_index", json.dumps({"query": said[-20:]})),))
        fails: Any = next((way for way in ("dies", "garbage", "endless", "error") if f"it {way}" in said), None)
        return Answer(f"You say: {said}", fails=fails, gap=0.01 if fails == "endless" else 0.0)

    with Upstream(respond=respond) as serving:
        yield serving


def kept_by(settings: Settings, database: Database) -> Iterator[tuple[str, bytes]]:
    """Every row of both databases and every file of the home, but for the one that the founder wrote."""
    for url in (database.urls.owner, database.urls.dagster):
        with psycopg.connect(url) as connection:
            query = "SELECT schemaname, relname FROM pg_stat_user_tables"
            for schema, table in connection.execute(query).fetchall():
                rows = sql.SQL("COPY {}.{} TO STDOUT").format(sql.Identifier(schema), sql.Identifier(table))
                with connection.cursor().copy(rows) as copy:
                    yield f"{schema}.{table}", b"".join(bytes(part) for part in copy)
    for path in settings.home.rglob("*"):
        if path.is_file() and path.name != confidences.FILE:
            yield str(path), path.read_bytes()


def holding(word: str, places: dict[str, bytes]) -> set[str]:
    """Where the word stands, as it is or in hexadecimal, as bytes are written."""
    forms = (word.encode(), word.encode().hex().encode())
    return {place for place, content in places.items() if any(form in content for form in forms)}


def ask(client: httpx.Client, number: int) -> None:
    """One of the founder's calls: streamed or whole, answered, failed, refused or left; each with its own marks."""
    mark = f"{MARK}-{number:02d}"
    agent = ("nova", "lyra", "glitch", "riven", "velora", "echo", "audita")[number % 7]
    headers = {"X-Request-ID": f"{mark}-request"}
    body: dict[str, Any] = {"input": mark, "context": {"about": mark}, "stream": number % 2 == 0}
    match number:
        case 40 | 41:
            body["input"] = f"use a tool for {mark}"
        case 42 | 43 | 44:
            body["input"] = f"{mark}: it {('dies', 'garbage', 'error')[number - 42]}"
        case 45:
            body["input"] = mark * 10_000
        case 46:
            headers["Idempotency-Key"] = mark
        case 47:
            agent = mark
        case 38 | 39:
            body = {"input": mark, "stream": number == 38}
            answer = client.post("/api/v1/llm/run", json=body, headers=headers)
            assert answer.status_code == 200 and mark in answer.text, answer.text
            return
        case 48:
            client.get(f"/unforeseen/{mark}", headers=headers)
            return
        case 49:
            body |= {"input": f"{mark}: it endless", "stream": True}
            with client.stream("POST", f"/api/v1/agents/{agent}", json=body, headers=headers) as answer:
                assert any(MARK in line for line in answer.iter_lines())
            return
    answer = client.post(f"/api/v1/agents/{agent}", json=body, headers=headers)
    if number < 40:
        assert answer.status_code == 200 and mark in answer.text, answer.text


def test_nothing_is_kept_of_the_founder_s_calls_but_their_totals(
    settings: Settings,
    database: Database,
    serve: Serve,
    issue_key: Callable[..., IssuedKey],
    receiver: Any,
    logged: io.StringIO,
    upstream: Upstream,
    wait_until: Callable[..., None],
) -> None:
    settings = settings.model_copy(
        update={
            "llm_providers": "local,offline",
            "local_model_url": upstream.url,
            "llm_retries": 0,
            "otel_endpoint": receiver.url,
            "sentry_dsn": SecretStr(f"{receiver.url.replace('//', '//key@')}/1"),
            "api_requests_in_flight": 100,
        }
    )
    app = create_app(settings, database=database)
    unforeseen = APIRouter()

    @unforeseen.get("/unforeseen/{word}")
    def fail(word: str) -> None:
        raise RuntimeError(word)

    app.include_router(unforeseen)
    path = settings.home / confidences.FILE
    path.touch(mode=0o600)
    path.write_text(CANARY)
    keys = {role: issue_key(settings, database.urls, role=role).key for role in (Role.GODMODE, Role.SUPER_ADMIN)}
    with serve(app, key=keys[Role.SUPER_ADMIN]) as client:
        founder = {"Authorization": f"Bearer {keys[Role.GODMODE]}"}
        with httpx.Client(base_url=client.base_url, headers=founder, timeout=30, trust_env=False) as founders:
            for number in range(CALLS):
                ask(founders, number)
            told = founders.get("/metrics").text + founders.get("/openapi.json").text
        assert any(CANARY in one.text for one in upstream.asked)
        upstream.clear()
        control = {"input": PLAIN, "context": {"about": PLAIN}}
        plain = client.post("/api/v1/agents/nova", json=control, headers={"X-Request-ID": f"{PLAIN}-request"})
        assert plain.status_code == 200, plain.text
        assert client.get(f"/unforeseen/{PLAIN}").status_code == 500
        assert not any(CANARY in one.text for one in upstream.asked)
        wait_until(lambda: upstream.totals.open == 0)
    places = dict(kept_by(settings, database))
    places |= {f"told {number}": b"".join([path.encode(), body]) for number, (path, body) in enumerate(receiver.came)}
    places |= {"log": logged.getvalue().encode(), "metrics": told.encode()}
    assert holding(MARK, places) == set()
    assert holding(CANARY, places) == set()
    # What others ask is in all of them: the search above could find what it looks for.
    found = holding(PLAIN, places)
    assert {"public.agent_calls", "public.provider_usage", "log"} <= found
    assert any(place.endswith("nova.jsonl") for place in found)
    assert sum(place.startswith("told ") for place in found) >= 2
    (day, *more) = database.read(lambda connection: founder_totals.list_days(connection, limit=9))
    assert sum(one.calls for one in (day, *more)) >= 45


def test_a_secret_of_an_agent_is_found_nowhere(
    settings: Settings,
    database: Database,
    serve: Serve,
    issue_key: Callable[..., IssuedKey],
    logged: io.StringIO,
) -> None:
    key = issue_key(settings, database.urls, role=Role.SUPER_ADMIN).key
    with serve(create_app(settings, database=database), key=key) as client:
        address, value = "/api/v1/vault/secrets/riven/GITHUB_TOKEN", {"value": CANARY}
        once = {"Idempotency-Key": "one"}
        answers = [client.put(address, json=value, headers=once) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        answers += [
            client.get("/api/v1/vault/secrets"),
            client.post("/api/v1/vault/rotations"),
            client.put("/api/v1/vault/secrets/nobody/GITHUB_TOKEN", json=value),
            client.put("/api/v1/vault/secrets/riven/lower", json=value),
            client.put(address, json={"value": [CANARY]}),
            client.put(address, json={"value": CANARY * 2_000}),
            client.put(address, json={"value": CANARY, "more": CANARY}),
            client.delete("/api/v1/vault/secrets/riven/NONE"),
        ]
        assert [answer.status_code for answer in answers[2:]] == [200, 200, 404, 422, 422, 422, 422, 404]
        assert answers[3].json()["sealed"] == 1
    opened = database.read(lambda c: secrets.open_secret(c, settings, "riven", "GITHUB_TOKEN"))
    assert opened.get_secret_value() == CANARY and CANARY not in repr(opened)
    assert secrets.hidden(f"It said {CANARY}.", opened) == "It said [secret]."
    places = dict(kept_by(settings, database)) | {"log": logged.getvalue().encode()}
    places |= {f"answer {number}": answer.content for number, answer in enumerate(answers)}
    assert holding(CANARY, places) == set()
    assert "public.ledger" in holding("secret/riven/GITHUB_TOKEN", places)


def test_switches_and_totals_over_http(
    settings: Settings, database: Database, serve: Serve, issue_key: Callable[..., IssuedKey]
) -> None:
    with serve(create_app(settings, database=database)) as client:
        thrown = client.put("/api/v1/founder/switches", json={"name": "provider/openai", "on": True})
        assert thrown.json()["excluded"] == ["provider/openai"]
        found = client.get("/api/v1/founder").json()
        assert [switch["name"] for switch in found["switches"]] == ["provider/openai"] and found["days"] == []
        refused = client.put("/api/v1/founder/switches", json={"name": "provider/offline", "on": True})
        assert (refused.status_code, refused.json()["code"]) == (422, "switch_unknown")
        viewer = issue_key(settings, database.urls, role=Role.ADMIN).key
        headers = {"Authorization": f"Bearer {viewer}"}
        assert client.get("/api/v1/founder", headers=headers).status_code == 403
