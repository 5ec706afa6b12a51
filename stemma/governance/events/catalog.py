"""Reading events: one, and lists, the last received first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg.rows import dict_row

from stemma.errors import NotFound
from stemma.governance.events.model import Event
from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection

_COLUMNS: Final = """
    id, type, type_version, entity, correlation_id, occurred_at, received_at, actor, data,
    encode(sha256, 'hex') AS sha256
"""
_LIST: Final = f"""
    SELECT position, {_COLUMNS} FROM events
    WHERE position < %(before)s
        AND (%(type)s::text IS NULL OR type = %(type)s)
        AND (%(entity)s::text IS NULL OR entity = %(entity)s)
        AND (%(correlation_id)s::text IS NULL OR correlation_id = %(correlation_id)s)
        AND (%(since)s::timestamptz IS NULL OR occurred_at >= %(since)s)
        AND (%(until)s::timestamptz IS NULL OR occurred_at < %(until)s)
    ORDER BY position DESC LIMIT %(limit)s
"""
_NEWEST: Final = 2**63 - 1


def get_event(connection: Connection, event_id: UUID) -> Event:
    """One event; raises NotFound."""
    query = f"SELECT {_COLUMNS} FROM events WHERE id = %s"
    row = connection.cursor(row_factory=dict_row).execute(query, (event_id,)).fetchone()
    if row is None:
        raise NotFound("event_unknown", f"There is no event {event_id}.", field="id")
    return _event(row)


def find_events(connection: Connection, event_ids: Iterable[UUID]) -> dict[UUID, Event]:
    """Those of these events that there are, by id."""
    query = f"SELECT {_COLUMNS} FROM events WHERE id = ANY(%s::uuid[])"
    # The literal of an array: putting one together of a list takes psycopg ten times as long.
    ids = "{" + ",".join(event_id.hex for event_id in event_ids) + "}"
    rows = connection.cursor(row_factory=dict_row).execute(query, (ids,)).fetchall()
    return {row["id"]: _event(row) for row in rows}


def list_events(
    connection: Connection,
    *,
    type: str | None = None,  # noqa: A002 - what the field is called everywhere
    entity: str | None = None,
    correlation_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Event]:
    """The last received first, all or those that match; `since` and `until` bound when they occurred, the latter
    exclusively. Raises InvalidInput(field="cursor").
    """
    (before,) = decode_cursor("events", cursor, int) if cursor else (_NEWEST,)
    wanted = {
        "before": before,
        "type": type,
        "entity": entity,
        "correlation_id": correlation_id,
        "since": since,
        "until": until,
        "limit": limit + 1,
    }
    rows = connection.cursor(row_factory=dict_row).execute(_LIST, wanted).fetchall()
    page = cut_page(rows, limit, lambda last: encode_cursor("events", last["position"]))
    return Page(tuple(map(_event, page.data)), page.next_cursor)


def _event(row: Mapping[str, Any]) -> Event:
    return Event(**{name: row[name] for name in Event.__slots__})
