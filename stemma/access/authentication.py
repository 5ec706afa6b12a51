"""Who sent a request: from its key to the principal, looked up each time, so that revocation acts at once.

What that principal may do is decided where a permission is asked for.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from psycopg.rows import class_row

from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.access.tokens import parse_key, pepper_lost, read_pepper, secret_hmac
from stemma.errors import Unauthenticated
from stemma.store.database import Connection, Database
from stemma.store.settings import Settings

USE_NOTED_EVERY: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class _KnownKey:
    id: UUID
    role: str
    scopes: list[str]
    signed_only: bool
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    secret_hmac: bytes


def authenticate(database: Database, settings: Settings, text: str) -> Principal:
    """The principal of a key as it was shown to its holder.

    Raises Unauthenticated with code `key_malformed`, `key_unknown` (also for a wrong secret), `key_revoked`,
    `key_expired` or `signature_required`; Unavailable with code `pepper_lost`.
    """
    key_id, secret = parse_key(text)
    key = database.read(lambda connection: _find(connection, key_id))
    if key is None or not hmac.compare_digest(secret_hmac(_pepper(settings), key_id, secret), key.secret_hmac):
        raise Unauthenticated("key_unknown", "This API key is not known.", hint="`stemma keys create` makes one.")
    now = datetime.now(UTC)
    _require_in_force(key, now)
    if key.signed_only:
        what = "This key is for signed requests only and is not taken as a bearer token."
        raise Unauthenticated("signature_required", what, hint="Sign the request by RFC 9421.")
    _note_use(database, key, now)
    return Principal(f"key:{key.id}", Role(key.role), frozenset(key.scopes), key.id)


def _find(connection: Connection, key_id: UUID) -> _KnownKey | None:
    with connection.cursor(row_factory=class_row(_KnownKey)) as cursor:
        return cursor.execute(
            """
            SELECT id, role, scopes, signed_only, expires_at, revoked_at, last_used_at, secret_hmac
            FROM api_keys WHERE id = %s
            """,
            (key_id,),
        ).fetchone()


def _pepper(settings: Settings) -> bytes:
    pepper = read_pepper(settings)
    if pepper is None:
        raise pepper_lost("is gone")
    return pepper


def _require_in_force(key: _KnownKey, now: datetime) -> None:
    if key.revoked_at is not None:
        raise Unauthenticated("key_revoked", "This API key was revoked.", hint="Ask for a new one.")
    if key.expires_at is not None and key.expires_at <= now:
        what = f"This API key expired at {key.expires_at.astimezone(UTC).isoformat(timespec='seconds')}."
        raise Unauthenticated("key_expired", what, hint="Ask for a new one.")


def _note_use(database: Database, key: _KnownKey, now: datetime) -> None:
    """Write when the key was used last, unless that was done within the minute or is being done."""
    if key.last_used_at is not None and now - key.last_used_at < USE_NOTED_EVERY:
        return
    with database.transaction() as connection:
        # Nothing is lost with the last second of it, and the request need not wait for the disk.
        connection.execute("SET LOCAL synchronous_commit = off")
        connection.execute(
            """
            UPDATE api_keys SET last_used_at = %(now)s WHERE id = (
                SELECT id FROM api_keys
                WHERE id = %(id)s AND (last_used_at IS NULL OR last_used_at <= %(before)s) FOR UPDATE SKIP LOCKED
            )
            """,
            {"id": key.id, "now": now, "before": now - USE_NOTED_EVERY},
        )
