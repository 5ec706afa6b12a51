"""Reading the audit chain: who did what, newest first. What goes onto it is the business of whoever does it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One action; `seq` is its place in the chain."""

    seq: int
    ts: datetime
    actor: str
    action: str
    resource: str
    meta: dict[str, Any]


def list_audit(
    connection: Connection,
    *,
    actor: str | None = None,
    action: str | None = None,
    resource: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[AuditRow]:
    """Actions from `since` on and before `until`, of exactly this actor, action and resource where they are given.

    Raises InvalidInput for a bad cursor.
    """
    (before,) = decode_cursor("audit", cursor, int) if cursor is not None else (None,)
    with connection.cursor(row_factory=class_row(AuditRow)) as rows:
        found = rows.execute(
            """
            SELECT seq, ts, actor, action, resource, meta FROM audit
            WHERE (%(before)s::bigint IS NULL OR seq < %(before)s)
                AND (%(actor)s::text IS NULL OR actor = %(actor)s)
                AND (%(action)s::text IS NULL OR action = %(action)s)
                AND (%(resource)s::text IS NULL OR resource = %(resource)s)
                AND (%(since)s::timestamptz IS NULL OR ts >= %(since)s)
                AND (%(until)s::timestamptz IS NULL OR ts < %(until)s)
            ORDER BY seq DESC LIMIT %(limit)s
            """,
            {
                "before": before,
                "actor": actor,
                "action": action,
                "resource": resource,
                "since": since,
                "until": until,
                "limit": limit + 1,
            },
        ).fetchall()
    return cut_page(found, limit, lambda last: encode_cursor("audit", last.seq))
