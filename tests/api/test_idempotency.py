"""A repeat under the same Idempotency-Key has no second effect: one process, two, errors, secrets, lost clients."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import httpx
import psycopg
import pytest
from fastapi import APIRouter, FastAPI, Response
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel

from api import idempotency
from api.access import Rule, allow
from api.app import create_app
from api.deps import LedgerDep
from api.idempotency import OnceDep
from api.limits import IN_FLIGHT
from stemma.access.keys import IssuedKey
from stemma.access.principal import Principal
from stemma.errors import InvalidInput
from stemma.ledger.change import Change
from stemma.ledger.entries import Entry, NewEntry
from stemma.ledger.writer import Statement
from stemma.store.database import Database
from stemma.store.settings import Settings

CHAIN = "things"


class Wanted(BaseModel):
    amount: int
    companion: str = "SELECT 1"


class Made(BaseModel):
    seq: int
    amount: int
    secret: str | None = None


router = APIRouter()


@router.post("/things/{name}", status_code=201, response_model=Made)
async def make(
    name: str, wanted: Wanted, principal: Annotated[Principal, allow("ingest:write")], once: OnceDep, ledger: LedgerDep
) -> Any:
    if wanted.amount < 0:
        raise InvalidInput("amount_invalid", "Less than nothing.", field="amount")
    entry = NewEntry(CHAIN, "made", principal.actor, name, {"amount": wanted.amount})

    def made(entries: tuple[Entry, ...], secret: str | None) -> Made:
        return Made(seq=entries[0].seq, amount=wanted.amount, secret=secret)

    return await once.commit(
        ledger,
        Change((entry,), (Statement(wanted.companion, rows=1),), lambda entries: entries),  # type: ignore[arg-type]
        status=201,
        body=lambda entries: made(entries, "sesame"),
        kept=lambda entries: made(entries, None),
        headers={"Location": f"/things/{name}"},
    )


@router.delete("/things", status_code=204)
async def clear(principal: Annotated[Principal, allow("ingest:write")], once: OnceDep, ledger: LedgerDep) -> Response:
    entry = NewEntry(CHAIN, "cleared", principal.actor, "all", {})
    return await once.commit(ledger, Change((entry,), (), lambda _: None), status=204, body=lambda _: None)


def application(settings: Settings, database: Database) -> FastAPI:
    app = create_app(settings, database=database)
    app.include_router(router)
    return app


@pytest.fixture
def app(settings: Settings, database: Database) -> FastAPI:
    return application(settings, database)


@pytest.fixture
def things(app: FastAPI, serve: Any) -> Iterator[httpx.Client]:
    with serve(app) as opened:
        yield opened


@pytest.fixture
def effects(database: Database) -> Callable[[], int]:
    """How many entries the ledger has."""
    return lambda: count(database, "SELECT count(*) FROM ledger WHERE chain = 'things'")


def count(database: Database, query: str) -> int:
    return database.read(lambda connection: int(connection.execute(query).fetchone()[0]))  # type: ignore[call-overload,index]


@contextlib.contextmanager
def stalled(database: Database) -> Iterator[None]:
    """Nothing is appended to the ledger during the block."""
    with psycopg.connect(database.urls.owner) as connection:
        connection.execute("LOCK TABLE ledger IN SHARE MODE")
        yield


def send(client: httpx.Client, key: str | None = "k", *, name: str = "bolt", amount: int = 1, **more: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post(f"/things/{name}", json={"amount": amount}, **{"headers": headers, **more})


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def test_a_repeat_is_answered_again_and_not_done_again(things: httpx.Client, effects: Callable[[], int]) -> None:
    first, second, third = send(things), send(things), send(things)
    assert [answer.status_code for answer in (first, second, third)] == [201, 201, 201]
    assert first.json() == {"seq": 1, "amount": 1, "secret": "sesame"}
    assert "idempotency-replayed" not in first.headers
    for repeat in (second, third):
        assert repeat.json() == {"seq": 1, "amount": 1, "secret": None}
        assert repeat.headers["idempotency-replayed"] == "true"
        assert repeat.headers["location"] == first.headers["location"] == "/things/bolt"
        assert repeat.headers["content-type"] == "application/json"
    assert second.content == third.content
    assert effects() == 1


def test_an_empty_answer_is_repeated_empty(things: httpx.Client, effects: Callable[[], int]) -> None:
    headers = {"Idempotency-Key": "k"}
    for replayed in (None, "true"):
        answer = things.delete("/things", headers=headers)
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers.get("idempotency-replayed") == replayed
    assert effects() == 1


def test_without_a_key_each_request_has_its_effect(things: httpx.Client, effects: Callable[[], int]) -> None:
    assert [send(things, None).json()["seq"] for _ in range(2)] == [1, 2]
    assert effects() == 2


def test_a_key_belongs_to_one_request(things: httpx.Client, effects: Callable[[], int]) -> None:
    assert send(things).status_code == 201
    other = {"Idempotency-Key": "k"}
    for changed in (
        {"amount": 2},
        {"name": "nut"},
        {"params": {"x": "1"}},
        {"headers": {**other, "If-Match": '"1"'}},
    ):
        refused = send(things, **changed)
        assert code(refused) == (422, "idempotency_key_reused")
        assert refused.json()["errors"][0]["field"] == "Idempotency-Key"
    assert effects() == 1


def test_keys_of_other_callers_and_routes_are_others(
    settings: Settings,
    database: Database,
    issue_key: Callable[..., IssuedKey],
    things: httpx.Client,
    effects: Callable[[], int],
) -> None:
    other = issue_key(settings, database.urls).key
    assert send(things).json()["seq"] == 1
    assert send(things, headers={"Idempotency-Key": "k", "Authorization": f"Bearer {other}"}).json()["seq"] == 2
    assert things.delete("/things", headers={"Idempotency-Key": "k"}).status_code == 204
    assert effects() == 3


@pytest.mark.parametrize("key", ["", "x" * 256, "\u00e9", "a\tb"])
def test_a_key_that_is_none_is_refused(things: httpx.Client, effects: Callable[[], int], key: str) -> None:
    refused = send(things, headers={"Idempotency-Key": key.encode("latin-1")})
    assert code(refused) == (422, "request_invalid")
    assert refused.json()["errors"][0]["field"] == "Idempotency-Key"
    assert effects() == 0


def test_a_refusal_is_not_kept(things: httpx.Client, database: Database, effects: Callable[[], int]) -> None:
    refused = send(things, amount=-1)
    assert code(refused) == (422, "amount_invalid")
    body = {"amount": 1, "companion": "SELECT 1 WHERE false"}
    undone = things.post("/things/bolt", json=body, headers={"Idempotency-Key": "k"})
    assert code(undone) == (409, "companion_conflict")
    assert count(database, "SELECT count(*) FROM kept_answers") == effects() == 0
    assert send(things).json()["seq"] == 1


def test_a_key_whose_request_still_runs_is_told_to_come_back(
    app: FastAPI, things: httpx.Client, database: Database, effects: Callable[[], int], wait_until: Any
) -> None:
    with ThreadPoolExecutor(1) as threads:
        with stalled(database):
            first = threads.submit(send, things)
            wait_until(lambda: len(app.state.running) == 1)
            refused = send(things)
            assert code(refused) == (409, "idempotency_in_flight")
            assert int(refused.headers["retry-after"]) > 0
            assert code(send(things, amount=2)) == (422, "idempotency_key_reused")
        assert first.result().status_code == 201
    assert send(things).headers["idempotency-replayed"] == "true"
    assert effects() == 1


def test_a_client_that_is_gone_finds_its_answer_when_it_returns(
    app: FastAPI, things: httpx.Client, database: Database, effects: Callable[[], int], wait_until: Any
) -> None:
    request = things.build_request("POST", "/things/bolt", json={"amount": 1}, headers={"Idempotency-Key": "k"})
    head = [f"POST {request.url.path} HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers.items())]
    with stalled(database), socket.create_connection((things.base_url.host, things.base_url.port or 80)) as lost:
        lost.sendall("\r\n".join([*head, "", ""]).encode() + request.content)
        wait_until(lambda: len(app.state.running) == 1)
    wait_until(lambda: len(app.state.running) == 0)
    assert send(things).headers["idempotency-replayed"] == "true"
    assert effects() == 1


def test_a_thousand_requests_over_a_hundred_keys_have_a_hundred_effects(
    settings: Settings,
    database: Database,
    issue_key: Callable[..., IssuedKey],
    serve: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(IN_FLIGHT, "keys", 1000)
    wide = settings.model_copy(update={"api_requests_in_flight": 1000})
    caller = issue_key(settings, database.urls).key
    # Each application has its own ledger and registry, as a process has.
    with (
        serve(create_app(wide, database=database), key=caller) as one,
        serve(create_app(wide, database=database), key=caller) as two,
    ):
        answers = asyncio.run(create_all(([one] * 100 + [two] * 100) * 5, keys=100))
    done = [answer for answer in answers if answer.status_code == 201]
    first = {answer.json()["id"]: answer for answer in done if "idempotency-replayed" not in answer.headers}
    assert len(first) == 100
    assert {answer.json()["id"] for answer in done} == first.keys()
    refused = [answer for answer in answers if answer.status_code != 201]
    assert {code(answer) for answer in refused} <= {(409, "idempotency_in_flight")}
    assert all(answer.json()["key"] is None for answer in done if answer not in first.values())
    assert count(database, "SELECT count(*) FROM api_keys WHERE name LIKE 'repeated %'") == 100
    assert count(database, "SELECT count(*) FROM audit WHERE action = 'key.created' AND actor LIKE 'key:%'") == 100


async def create_all(clients: Sequence[httpx.Client], *, keys: int) -> list[httpx.Response]:
    """Create an API key through each client, under one idempotency key after the other, all at once."""
    async with httpx.AsyncClient(timeout=120, trust_env=False, limits=httpx.Limits()) as sender:

        def create(number: int, client: httpx.Client) -> Coroutine[Any, Any, httpx.Response]:
            name = f"repeated {number % keys}"
            return sender.post(
                client.base_url.join("/api/v1/keys"),
                json={"name": name, "role": "Viewer", "scopes": ["search:*"]},
                headers={"Authorization": client.headers["Authorization"], "Idempotency-Key": name},
            )

        return await asyncio.gather(*(create(number, client) for number, client in enumerate(clients)))


def test_who_keeps_an_answer_removes_old_ones(things: httpx.Client, database: Database) -> None:
    for number in range(5):
        assert send(things, f"old{number}").status_code == 201
    with database.transaction() as connection:
        connection.execute("UPDATE kept_answers SET created_at = now() - interval '23 hours 59 minutes'")
        connection.execute("UPDATE kept_answers SET created_at = now() - interval '25 hours' WHERE key <> 'old4'")
    for number, left in [(0, 4), (1, 3), (2, 4)]:
        assert send(things, f"new{number}").status_code == 201
        assert count(database, "SELECT count(*) FROM kept_answers") == left
    assert send(things, "old4").headers["idempotency-replayed"] == "true"


def test_the_document_tells_of_the_key(things: httpx.Client) -> None:
    operation = things.get("/openapi.json").json()["paths"]["/things/{name}"]["post"]
    (parameter,) = (found for found in operation["parameters"] if found["name"] == "Idempotency-Key")
    assert (parameter["in"], parameter["required"]) == ("header", False)
    assert {"409", "503"} <= set(operation["responses"])
    assert set(operation["responses"]["201"]["headers"]) == {"Idempotency-Replayed"}


# What writes nothing, and webhooks, which are known by their own id.
WITHOUT = {
    "/api/v1/files/sign",
    "/api/v1/llm/run",
    "/api/v1/policies/simulate",
    "/api/v1/policies/validate",
    "/api/v1/webhooks/{source}",
}


def test_every_route_that_changes_something_asks_for_it_after_its_permission() -> None:
    changing = 0
    for route in iter_route_contexts(create_app().routes):
        # The others are forms of a browser, which sends no such header, and the Dagster UI.
        ours = route.path.startswith("/api/") or route.path == "/jobs/{name}/run"
        if ours and {"POST", "PUT", "PATCH", "DELETE"} & (route.methods or set()) and route.path not in WITHOUT:
            asked = [dependency.call for dependency in route.dependant.dependencies]
            rules = [place for place, call in enumerate(asked) if isinstance(call, Rule)]
            once = [place for place, call in enumerate(asked) if call in (idempotency.once, idempotency.once_at_commit)]
            assert rules and len(once) == 1 and rules[0] < once[0], (route.methods, route.path)
            changing += 1
    assert changing
