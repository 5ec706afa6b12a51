"""Recording events: all that come together, or none of them.

An event that is sent again is the same event where its id and what is said of it are the same; nothing is written
then. The ledger's entry of a batch holds the Merkle root (RFC 6962) over the hashes of its events, in their order.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from stemma.access.principal import Principal
from stemma.errors import Conflict, InvalidInput, TooLarge
from stemma.governance.events.catalog import find_events
from stemma.governance.events.model import Event, NewEvent
from stemma.governance.events.types import EventType, load
from stemma.ledger.change import Change
from stemma.ledger.entries import NewEntry, canonical, format_time
from stemma.ledger.journal import audited
from stemma.ledger.merkle import Frontier
from stemma.ledger.writer import Statement, row
from stemma.personal.fields import below
from stemma.store.database import Connection

MAX_EVENTS: Final = 1_000
"""Events that are recorded together."""
MAX_EVENT_BYTES: Final = 32 * 1024
"""Of what is said of one event, as canonical JSON."""
MAX_DEPTH: Final = 16
"""Levels of an event's data."""
MAX_NUMBER: Final = 2**53 - 1
"""The largest number in an event's data, and the smallest with a minus: a double says all whole ones up to it."""

CHAIN: Final = "events"
RECORDED: Final = "events.recorded"

_MAX_NAME: Final = 200
_EARLIEST: Final = datetime(1900, 1, 1, tzinfo=UTC)
_AHEAD: Final = timedelta(days=1)
_INSERT: Final = """
    INSERT INTO events (id, type, type_version, entity, correlation_id, occurred_at, received_at, actor, data, sha256)
    SELECT id, type, type_version, entity, correlation_id, occurred_at, received_at, actor, data, decode(sha256, 'hex')
    FROM ROWS FROM (json_to_recordset(%(rows)s::json) AS (
        id uuid, type text, type_version text, entity text, correlation_id text, occurred_at timestamptz,
        received_at timestamptz, actor text, data jsonb, sha256 text)) WITH ORDINALITY AS given (
        id, type, type_version, entity, correlation_id, occurred_at, received_at, actor, data, sha256, place)
    ORDER BY place
    ON CONFLICT (id) DO NOTHING
"""


def record(
    connection: Connection,
    principal: Principal,
    events: Sequence[NewEvent],
    *,
    look: bool = True,
    types: Mapping[str, EventType] | None = None,
) -> Change[tuple[Event, ...]]:
    """Record 1 to `MAX_EVENTS` events, with one entry in the chain `events`; those that are there already, with the
    same content, stay as they are. The result has all of them, in the order in which they were given. Who knows that
    none is there need not `look`; the commit refuses one that is. `types` are those that the caller takes to be in
    force.

    Raises Forbidden; InvalidInput that names the place of the first that is wrong, such as `/events/3/data/amount`;
    TooLarge; Conflict where an id belongs to an event with other content.
    """
    principal.require("decide:write")
    if not 0 < len(events) <= MAX_EVENTS:
        what = f"{len(events):,} events were given; 1 to {MAX_EVENTS:,} are recorded together."
        raise InvalidInput("events_invalid", what, field="events", hint="Send them in parts.")
    now = datetime.now(UTC)
    known = find_events(connection, {event.id for event in events}) if look else {}
    known_types = _Types(connection, types or {})
    found: dict[UUID, Event] = dict(known)
    new: list[tuple[Event, bytes]] = []
    for place, given in enumerate(events):
        field = f"/events/{place}"
        there = found.get(given.id)
        said = _said(given, field, there.occurred_at if there else now, now)
        if there is not None:
            _require_same(there, said.sha256, field)
            continue
        kind = known_types.named(given.type, field)
        kind.check(given.data, field=f"{field}/data")
        event = Event(
            id=given.id,
            type=kind.name,
            type_version=kind.version,
            entity=given.entity,
            correlation_id=given.correlation_id,
            occurred_at=said.occurred_at,
            received_at=now,
            actor=principal.actor,
            data=given.data,
            sha256=said.sha256,
        )
        found[event.id] = event
        new.append((event, said.body))
    result = tuple(found[event.id] for event in events)
    if not new:
        entries = audited(principal, "events.repeated", resource="events", meta={"count": len(result)})
        return Change(entries, (), lambda _: result)
    return Change((_entry(principal, [event for event, _ in new]),), (_insert(principal, now, new),), lambda _: result)


def check(event: NewEvent, kind: EventType) -> str:
    """The hash that the event, which says when it occurred, is kept with; raises what `record` raises for one of this
    type that is wrong, with places within the event, such as `/data/amount`.
    """
    now = datetime.now(UTC)
    said = _said(event, "", now, now)
    kind.check(event.data, field="/data")
    return said.sha256


@dataclass(frozen=True, slots=True)
class _Said:
    """What the sender says of an event: its canonical JSON and the hash of that."""

    occurred_at: datetime
    body: bytes
    sha256: str


class _Types:
    """The types of the events of one batch, each read once."""

    def __init__(self, connection: Connection, known: Mapping[str, EventType]) -> None:
        self._connection = connection
        self._known = dict(known)

    def named(self, name: str, field: str) -> EventType:
        """The type of this name; raises InvalidInput."""
        if name not in self._known:
            try:
                self._known[name] = load(self._connection, name)
            except InvalidInput as error:
                raise InvalidInput(error.code, error.message, field=f"{field}/type", hint=error.hint) from None
        return self._known[name]


def _said(event: NewEvent, field: str, otherwise: datetime, now: datetime) -> _Said:
    at = _checked_time(event.occurred_at or otherwise, now, field)
    for name in ("type", "entity", "correlation_id"):
        _check_name(getattr(event, name), f"{field}/{name}")
    if not isinstance(event.data, Mapping):
        raise InvalidInput("event_data_invalid", "The data of an event are an object.", field=f"{field}/data")
    _check_values(event.data, f"{field}/data")
    said = {
        "correlation_id": event.correlation_id,
        "data": dict(event.data),
        "entity": event.entity,
        "id": str(event.id),
        "occurred_at": format_time(at),
        "type": event.type,
    }
    try:
        body = canonical(said)
    except InvalidInput as error:
        raise InvalidInput(error.code, error.message, field=f"{field}/data", hint=error.hint) from error
    if len(body) > MAX_EVENT_BYTES:
        what = f"The event has {len(body):,} bytes; at most {MAX_EVENT_BYTES:,} are kept."
        hint = "Store what is large as a file, and let the event name it by its hash."
        raise TooLarge("event_too_large", what, field=f"{field}/data", hint=hint)
    return _Said(at, body, hashlib.sha256(body).hexdigest())


def _checked_time(at: datetime, now: datetime, field: str) -> datetime:
    what = None
    if at.tzinfo is None:
        what = "The time names no zone."
    elif at < _EARLIEST:
        what = "The time is before 1900."
    elif at > now + _AHEAD:
        what = "The time is more than a day ahead."
    if what:
        hint = "Write it as RFC 3339 says, such as 2026-01-31T12:00:00Z."
        raise InvalidInput("event_time_invalid", what, field=f"{field}/occurred_at", hint=hint)
    return at.astimezone(UTC)


def _check_name(name: str | None, field: str) -> None:
    if name is not None and not (0 < len(name) <= _MAX_NAME and name.isprintable()):
        what = f"It has 1 to {_MAX_NAME} characters, all of them printable."
        raise InvalidInput("event_name_invalid", what, field=field)


def _check_values(data: Mapping[str, Any], field: str) -> None:
    """Raises InvalidInput for what the database, or whoever reads it back, would not keep as it is."""
    waiting: list[tuple[str, int, Any]] = [(field, 0, data)]
    while waiting:
        path, depth, value = waiting.pop()
        if isinstance(value, Mapping | list | tuple):
            if depth == MAX_DEPTH:
                what = f"The data are nested deeper than {MAX_DEPTH} levels."
                raise InvalidInput("event_data_invalid", what, field=path[:_MAX_NAME])
            members = value.items() if isinstance(value, Mapping) else enumerate(value)
            for name, member in members:
                if isinstance(name, str) and "\0" in name:
                    raise InvalidInput("event_data_invalid", "A name holds U+0000.", field=path[:_MAX_NAME])
                waiting.append((below(path, name), depth + 1, member))
        elif isinstance(value, str):
            if "\0" in value:
                raise InvalidInput("event_data_invalid", "The text holds U+0000.", field=path[:_MAX_NAME])
        elif isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= MAX_NUMBER):
            what = "The number is none, or beyond 2^53 - 1."
            raise InvalidInput("event_data_invalid", what, field=path[:_MAX_NAME])


def _require_same(there: Event, sha256: str, field: str) -> None:
    if there.sha256 != sha256:
        what = f"The event {there.id} is there already, with other content."
        raise Conflict("event_id_taken", what, field=f"{field}/id", hint="An event never changes: send a new one.")


def _entry(principal: Principal, events: Sequence[Event]) -> NewEntry:
    data = {
        "count": len(events),
        "first": str(events[0].id),
        "last": str(events[-1].id),
        "types": dict(Counter(event.type for event in events)),
        "root": root(event.sha256 for event in events).hex(),
    }
    return NewEntry(CHAIN, RECORDED, principal.actor, "events", data)


def root(hashes: Iterable[str]) -> bytes:
    """The Merkle root over events' hashes (hexadecimal), in their order."""
    tree = Frontier()
    for sha256 in hashes:
        tree.append(bytes.fromhex(sha256))
    return tree.root()


def _insert(principal: Principal, now: datetime, new: Sequence[tuple[Event, bytes]]) -> Statement:
    rows = []
    for event, body in new:
        kept = {"sha256": event.sha256, "type_version": event.type_version, "received_at": now}
        rows.append(f"{body[:-1].decode()},{row({**kept, 'actor': principal.actor})[1:]}")
    what = "One of these events was recorded at the same time."
    refusal = Conflict("events_raced", what, field="events", hint="Send them again: what is there stays as it is.")
    return Statement(_INSERT, ",".join(rows), rows=len(new), refusal=refusal, as_rows=True)
