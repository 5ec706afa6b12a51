"""Reading API keys: what is known of them, which is nothing of their secrets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row

from stemma.errors import InvalidInput, NotFound
from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection

_COLUMNS = (
    "id, name, role, scopes, signed_only, created_by, created_at, expires_at, rotated_at, revoked_at, last_used_at"
)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as listed. `last_used_at` is right to the minute."""

    id: UUID
    name: str
    role: str
    scopes: list[str]
    signed_only: bool
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    rotated_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    def state(self, now: datetime) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "active" if self.expires_at is None or self.expires_at > now else "expired"


def read_key(connection: Connection, key_id: UUID) -> ApiKey:
    """One key; raises NotFound."""
    with connection.cursor(row_factory=class_row(ApiKey)) as cursor:
        found = cursor.execute(f"SELECT {_COLUMNS} FROM api_keys WHERE id = %s", (key_id,)).fetchone()
    if found is None:
        raise NotFound("key_not_found", f"There is no API key {key_id}.", hint="`stemma keys list` lists them.")
    return found


def list_keys(connection: Connection, *, cursor: str | None = None, limit: int = 200) -> Page[ApiKey]:
    """All keys, revoked ones too, in the order in which they were created; raises InvalidInput for a bad cursor."""
    after = _after(cursor) if cursor is not None else None
    with connection.cursor(row_factory=class_row(ApiKey)) as rows:
        found = rows.execute(
            f"""
            SELECT {_COLUMNS} FROM api_keys
            WHERE %(after)s::uuid IS NULL
                OR (created_at, id) > (SELECT created_at, id FROM api_keys WHERE id = %(after)s)
            ORDER BY created_at, id LIMIT %(limit)s
            """,
            {"after": after, "limit": limit + 1},
        ).fetchall()
    return cut_page(found, limit, lambda last: encode_cursor("keys", str(last.id)))


def every_key(connection: Connection) -> list[ApiKey]:
    """All keys, page after page."""
    page = list_keys(connection)
    found = list(page.data)
    while page.next_cursor is not None:
        page = list_keys(connection, cursor=page.next_cursor)
        found.extend(page.data)
    return found


def some_in_force(connection: Connection) -> bool:
    """Whether any key could be used now."""
    found = connection.execute(
        "SELECT FROM api_keys WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) LIMIT 1"
    ).fetchone()
    return found is not None


def _after(cursor: str) -> UUID:
    (text,) = decode_cursor("keys", cursor, str)
    try:
        return UUID(str(text))
    except ValueError as error:
        raise InvalidInput("cursor_invalid", "This cursor does not belong to this list.", field="cursor") from error
