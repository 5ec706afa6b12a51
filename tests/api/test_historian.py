"""The Historian as a list and as a stream: nothing lost, nothing doubled, and no stream outlives what it should."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from api import limits, streams
from api.app import create_app
from stemma.ledger.entries import Entry
from stemma.ledger.journal import transition
from stemma.ledger.writer import LedgerWriter
from stemma.store.database import Database
from stemma.store.settings import Settings

LIST, STREAM = "/api/v1/historian", "/api/v1/historian/stream"


@pytest.fixture
def record(database: Database) -> Iterator[Callable[..., Entry]]:
    """Append one transition through a writer of the test's own, as another process would."""
    with LedgerWriter(database.urls.app) as writer:

        def append(kind: str = "note.made", subject: str = "note/1", actor: str = "user:ada", **data: Any) -> Entry:
            (entry,) = writer.append([transition(kind, subject=subject, actor=actor, data=data)]).result(20)
            return entry

        yield append


@contextlib.contextmanager
def events(
    client: httpx.Client, after: int | None = None, key: str | None = None, **filters: str
) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of one stream, as long as the block lasts."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    with client.stream("GET", STREAM, params=filters, headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield parsed(response.iter_lines())


def parsed(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    data, number = "", ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "data":
            data = value
        elif field == "id":
            number = value
        elif not line and data:
            event = json.loads(data)
            assert number == str(event["seq"])
            yield event
            data = ""


def test_pages_have_every_transition_once_the_newest_first(client: httpx.Client, record: Callable[..., Entry]) -> None:
    made = [record(number=number).seq for number in range(7)]
    seen: list[int] = []
    cursor = None
    while cursor is not None or not seen:
        page = client.get(LIST, params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        seen += [item["seq"] for item in page["data"]]
        cursor = page["next_cursor"]
    assert seen == sorted(seen, reverse=True) and seen[:7] == made[::-1]
    newest = client.get(LIST, params={"limit": 1}).json()["data"][0]
    assert (newest["kind"], newest["subject"], newest["actor"]) == ("note.made", "note/1", "user:ada")
    assert newest["data"] == {"number": 6}


def test_filters_narrow_the_list_and_the_stream_alike(client: httpx.Client, record: Callable[..., Entry]) -> None:
    first = record("lamp.lit", "lamp/1", "user:ada")
    record("lamp.out", "lamp/1", "user:bob")
    record("lampshade.hung", "lamp/2", "user:ada")
    last = record("lamp.lit", "lamp/2", "user:ada")
    for filters, wanted in (
        ({"kind": "lamp.lit"}, [first.seq, last.seq]),
        ({"kind": "lamp."}, [first.seq, first.seq + 1, last.seq]),
        ({"kind": "lamp.", "actor": "user:ada"}, [first.seq, last.seq]),
        ({"subject": "lamp/1"}, [first.seq, first.seq + 1]),
        ({"since": last.created_at.isoformat()}, [last.seq]),
        ({"kind": "lamp.lit", "until": last.created_at.isoformat()}, [first.seq]),
    ):
        listed = client.get(LIST, params=filters).json()["data"]
        assert [item["seq"] for item in listed] == wanted[::-1]
        with events(client, 0, **filters) as stream:
            assert [next(stream)["seq"] for _ in wanted] == wanted
    assert client.get(LIST, params={"kind": "lam."}).json() == {"data": [], "next_cursor": None}


def test_a_page_of_large_transitions_ends_early(client: httpx.Client, record: Callable[..., Entry]) -> None:
    made = [record(text="x" * 250_000).seq for _ in range(6)]
    first = client.get(LIST, params={"kind": "note.made"}).json()
    rest = client.get(LIST, params={"kind": "note.made", "cursor": first["next_cursor"]}).json()
    assert len(first["data"]) == 5 and rest["next_cursor"] is None
    assert [item["seq"] for item in first["data"] + rest["data"]] == made[::-1]


@pytest.mark.parametrize("address", [LIST, STREAM])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", "Not a kind"),
        ("kind", "two.words."),
        ("kind", "x" * 128),
        ("subject", "a\nb"),
        ("actor", "x" * 501),
        ("since", "yesterday"),
        ("since", "2026-01-01T00:00:00"),
        ("until", "99999999999999999999"),
    ],
)
def test_filters_that_are_none_are_refused(visitor: httpx.Client, address: str, name: str, value: str) -> None:
    response = visitor.get(address, params={name: value})
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == [name]


@pytest.mark.parametrize("cursor", ["x", "%", "WyJkb2N1bWVudHMiLDFd", "WyJsZWRnZXI6aGlzdG9yaWFuIiwiMSJd"])
def test_a_cursor_from_elsewhere_is_refused(visitor: httpx.Client, cursor: str) -> None:
    response = visitor.get(LIST, params={"cursor": cursor})
    assert (response.status_code, response.json()["code"]) == (422, "cursor_invalid")


@pytest.mark.parametrize("given", ["", "x", "-1", "1.5", "0x1", "1 2", "１", "9" * 19, "9" * 40, "1000"])
def test_an_event_id_that_is_none_is_refused(visitor: httpx.Client, given: str) -> None:
    response = visitor.get(STREAM, headers={b"Last-Event-ID": given.encode()})
    assert (response.status_code, response.json()["code"]) == (422, "last_event_id_invalid")
    assert response.json()["errors"][0]["field"] == "Last-Event-ID"


def test_a_stream_begins_now_or_when_it_is_asked_to(client: httpx.Client, record: Callable[..., Entry]) -> None:
    old = record()
    with events(client) as now, events(client, since=old.created_at.isoformat()) as then:
        new = record()
        assert next(now)["seq"] == new.seq
        assert [next(then)["seq"] for _ in range(2)] == [old.seq, new.seq]


@given(cuts=st.lists(st.integers(1, 9), min_size=2, max_size=5))
@examples(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_resuming_loses_nothing_and_doubles_nothing(
    client: httpx.Client, record: Callable[..., Entry], cuts: list[int]
) -> None:
    """Three clients append while a reader goes away after so many events and resumes, again and again."""
    start = record().seq
    total = sum(cuts)
    with ThreadPoolExecutor(3) as pool:
        made = [pool.submit(record, number=number) for number in range(total)]
        seen: list[int] = []
        for cut in cuts:
            with events(client, seen[-1] if seen else start) as stream:
                seen += [next(stream)["seq"] for _ in range(cut)]
        assert sorted(future.result().seq for future in made) == seen == list(range(start + 1, start + total + 1))


def test_a_stream_ends_with_the_key_it_was_opened_with(
    client: httpx.Client, record: Callable[..., Entry], settings: Settings, database: Database, issue_key: Any
) -> None:
    issued = issue_key(settings, database.urls, scopes=["ledger:read"])
    with events(client, key=issued.key) as stream:
        seen = record()
        assert next(stream)["seq"] == seen.seq
        with database.transaction() as connection:
            connection.execute("UPDATE api_keys SET revoked_at = now() WHERE id = %s", (issued.api_key.id,))
        record()
        assert list(stream) == []


def test_a_stream_outlives_the_loss_of_the_database_s_connections(
    client: httpx.Client, record: Callable[..., Entry], database: Database
) -> None:
    with events(client) as stream:
        assert record().seq == next(stream)["seq"]
        with psycopg.connect(database.urls.owner, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        made = [record().seq for _ in range(3)]
        assert [next(stream)["seq"] for _ in made] == made


def test_places_for_streams_are_limited_and_given_back(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    monkeypatch.setitem(limits.IN_FLIGHT, "streams", 2)
    with events(client), events(client):
        refused = client.get(STREAM)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        assert int(refused.headers["retry-after"]) > 0
    # Both clients went away.
    wait_until(lambda: _answers(client))


def _answers(client: httpx.Client) -> bool:
    with client.stream("GET", STREAM) as response:
        return response.status_code == 200


def test_an_idle_stream_sends_comments(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.05)
    with client.stream("GET", STREAM) as response:
        assert next(line for line in response.iter_lines() if line) == ": ping"


def test_a_client_that_reads_nothing_makes_nothing_grow(
    settings: Settings, database: Database, serve: Any, record: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream reads the database only as fast as the client reads the stream."""
    total = 120
    for number in range(total):
        record(number=number, text="x" * 250_000)
    looks: list[int] = []
    follow = streams.Streams.follow

    def counted(self: streams.Streams, topic: streams.Topic, position: int, read: Any) -> Any:
        def look(at: int) -> streams.Batch:
            looks.append(at)
            return read(at)

        return follow(self, topic, position, look)

    monkeypatch.setattr(streams.Streams, "follow", counted)
    with (
        serve(create_app(settings, database=database)) as client,
        client.stream("GET", STREAM, headers={"Last-Event-ID": "0"}) as response,
    ):
        stream = parsed(response.iter_lines())
        assert next(stream)["seq"] == 1
        held = len(looks)
        seen = [next(stream)["seq"] for _ in range(total)]
        assert seen == list(range(2, total + 2))
        # 30 MB do not fit into sockets' buffers: most was read after the client had begun to take it.
        assert held < len(looks) // 2
