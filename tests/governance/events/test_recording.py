"""Events are recorded whole, once, and as they came; what is wrong with one keeps all of its batch out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from stemma.access.permissions import Role
from stemma.access.principal import Principal, local_principal
from stemma.errors import Conflict, Forbidden, InvalidInput, NotFound, StemmaError, TooLarge
from stemma.governance.events import recording, types
from stemma.governance.events.catalog import get_event, list_events
from stemma.governance.events.model import Event, NewEvent
from stemma.ledger.change import Change
from stemma.store.database import Database

AT = datetime(2025, 3, 1, 12, tzinfo=UTC)
Record = Callable[..., tuple[Event, ...]]


@pytest.fixture
def record(database: Database, commit: Callable[[Change[Any]], Any], asked_type: str) -> Record:
    commit(database.read(lambda c: types.publish(c, local_principal(), asked_type)))

    def write(*events: NewEvent) -> tuple[Event, ...]:
        recorded: tuple[Event, ...] = commit(database.read(lambda c: recording.record(c, local_principal(), events)))
        return recorded

    return write


def asked(amount: float = 1, **fields: Any) -> NewEvent:
    return NewEvent(**{"type": "Asked", "data": {"amount": amount}, "occurred_at": AT, "entity": "acme", **fields})


def entries(database: Database) -> list[dict[str, Any]]:
    with database.snapshot() as connection:
        bodies = connection.execute(
            "SELECT convert_from(body, 'utf8')::jsonb -> 'data' FROM ledger WHERE chain = 'events' ORDER BY seq"
        )
        return [data for (data,) in bodies]


def test_a_batch_is_kept_as_it_came_with_one_entry(database: Database, record: Record) -> None:
    numbers = {"more": [1, 1.5, -0.0, 1e-300, 2**53 - 1, True, None, "ü\u2028", {"b": {}, "a": []}]}
    first = asked(correlation_id="order/7", data={"amount": 3.25, **numbers})
    kept = record(first, *(asked(amount) for amount in range(3)))
    assert [event.data for event in kept] == [database.read(lambda c, e=e: get_event(c, e.id)).data for e in kept]
    assert kept == tuple(database.read(lambda c, e=e: get_event(c, e.id)) for e in kept)
    assert kept[0].seen() == {
        "id": str(first.id), "type": "Asked", "entity": "acme", "occurred_at": "2025-03-01T12:00:00.000000Z",
        "correlation_id": "order/7", "data": first.data,
    }  # fmt: skip
    (entry,) = entries(database)
    assert entry["root"] == recording.root(event.sha256 for event in kept).hex()
    assert (entry["count"], entry["types"], entry["first"]) == (4, {"Asked": 4}, str(first.id))


def test_an_event_sent_again_is_the_same_event(database: Database, record: Record) -> None:
    timeless, event = asked(occurred_at=None), asked()
    first = record(timeless, event, event)
    assert first[1] == first[2]
    again = record(asked(9), event, timeless)
    assert again[1:] == (first[1], first[0])
    assert record(timeless) == first[:1]
    assert [entry["count"] for entry in entries(database)] == [2, 1]


def test_an_event_with_other_content_is_refused_with_its_batch(database: Database, record: Record) -> None:
    (kept,) = record(event := asked())
    for other in (
        replace(event, data={"amount": 2}),
        replace(event, entity=None),
        replace(event, correlation_id="x"),
        replace(event, occurred_at=AT + timedelta(seconds=1)),
    ):
        with pytest.raises(Conflict) as refused:
            record(asked(), other)
        assert refused.value.field == "/events/1/id"
    with pytest.raises(Conflict):
        record(new := asked(), replace(new, data={"amount": 5}))
    assert database.read(list_events).data == (kept,)


def test_events_recorded_at_the_same_time_are_recorded_once(
    database: Database, record: Record, commit: Callable[[Change[Any]], Any]
) -> None:
    event = asked()
    late = database.read(lambda c: recording.record(c, local_principal(), [event, asked(2)]))
    record(event)
    with pytest.raises(Conflict, match="at the same time"):
        commit(late)
    assert len(database.read(list_events).data) == len(entries(database)) == 1


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("wrong", "error", "code", "place"),
    [
        ({"type": "Nothing"}, InvalidInput, "event_type_unknown", "/type"),
        ({"type": "Asked@1"}, InvalidInput, "event_type_unknown", "/type"),
        ({"type": ""}, InvalidInput, "event_name_invalid", "/type"),
        ({"data": {}}, InvalidInput, "event_data_invalid", "/data"),
        ({"data": {"amount": "3"}}, InvalidInput, "event_data_invalid", "/data/amount"),
        ({"data": {"amount": 3, "a/b": 1}}, InvalidInput, "event_data_invalid", "/data"),
        ({"data": []}, InvalidInput, "event_data_invalid", "/data"),
        ({"data": {"amount": math.nan}}, InvalidInput, "event_data_invalid", "/data/amount"),
        ({"data": {"amount": -math.inf}}, InvalidInput, "event_data_invalid", "/data/amount"),
        ({"data": {"amount": 1e300}}, InvalidInput, "event_data_invalid", "/data/amount"),
        ({"data": {"amount": 2**53}}, InvalidInput, "event_data_invalid", "/data/amount"),
        ({"data": {"amount": 1, "note": "a\0b"}}, InvalidInput, "event_data_invalid", "/data/note"),
        ({"data": {"amount": 1, "more": {"\0": 1}}}, InvalidInput, "event_data_invalid", "/data/more"),
        ({"data": {"amount": 1, "note": "\ud800"}}, InvalidInput, "not_canonical", "/data"),
        ({"data": {"amount": 1, "more": {1: 1}}}, InvalidInput, "not_canonical", "/data"),
        ({"data": {"amount": 1, "more": nested(40)}}, InvalidInput, "event_data_invalid", "/data/more"),
        ({"data": {"amount": 1, "more": nested(5_000)}}, InvalidInput, "event_data_invalid", "/data/more"),
        ({"data": {"amount": 1, "note": "x" * 1_000_000}}, TooLarge, "event_too_large", "/data"),
        ({"entity": ""}, InvalidInput, "event_name_invalid", "/entity"),
        ({"entity": "x" * 201}, InvalidInput, "event_name_invalid", "/entity"),
        ({"correlation_id": "a\0"}, InvalidInput, "event_name_invalid", "/correlation_id"),
        ({"occurred_at": datetime(2025, 1, 1)}, InvalidInput, "event_time_invalid", "/occurred_at"),
        ({"occurred_at": datetime(1, 1, 1, tzinfo=UTC)}, InvalidInput, "event_time_invalid", "/occurred_at"),
        ({"occurred_at": datetime(9000, 1, 1, tzinfo=UTC)}, InvalidInput, "event_time_invalid", "/occurred_at"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    studio_record: Record, wrong: dict[str, Any], error: type[StemmaError], code: str, place: str
) -> None:
    with pytest.raises(error) as refused:
        studio_record(asked(), asked(**wrong))
    assert refused.value.code == code and str(refused.value.field).startswith(f"/events/1{place}")


def test_only_so_many_come_together_and_not_from_everybody(database: Database, record: Record) -> None:
    for count in (0, recording.MAX_EVENTS + 1):
        with pytest.raises(InvalidInput) as refused:
            record(*[asked()] * count)
        assert refused.value.code == "events_invalid"
    viewer = Principal("key:x", Role.VIEWER, frozenset({"decide:*"}))
    with pytest.raises(Forbidden):
        database.read(lambda c: recording.record(c, viewer, [asked()]))
    with pytest.raises(NotFound):
        database.read(lambda c: get_event(c, uuid4()))


def test_events_are_found_by_type_time_entity_and_correlation(database: Database, record: Record) -> None:
    kept = record(*(asked(n, entity=f"e{n % 2}", correlation_id=f"c{n}", occurred_at=AT + timedelta(days=n))
                    for n in range(5)))  # fmt: skip

    def amounts(**wanted: Any) -> Sequence[int]:
        return [event.data["amount"] for event in database.read(lambda c: list_events(c, **wanted)).data]

    assert amounts() == [4, 3, 2, 1, 0]
    assert amounts(entity="e1") == [3, 1] and amounts(correlation_id="c2") == [2] and amounts(type="Other") == []
    assert amounts(since=AT + timedelta(days=1), until=AT + timedelta(days=3)) == [2, 1]
    page = database.read(lambda c: list_events(c, limit=3))
    rest = database.read(lambda c: list_events(c, limit=3, cursor=page.next_cursor))
    assert (*page.data, *rest.data) == tuple(reversed(kept)) and rest.next_cursor is None
    with pytest.raises(InvalidInput):
        database.read(lambda c: list_events(c, cursor="x"))


def test_events_cannot_be_changed(database: Database, record: Record) -> None:
    record(asked())
    for statement in ("UPDATE events SET actor = 'x'", "DELETE FROM events"):
        with pytest.raises(psycopg.Error), database.transaction() as connection:
            connection.execute(statement)
