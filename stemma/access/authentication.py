"""Who sent a request: from its key to the principal, looked up each time, so that revocation acts at once.

A request bears its key, is signed with it (`signatures`) or belongs to a session that the key was traded for
(`sessions`). What the principal may do is decided where a permission is asked for.
"""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from psycopg.rows import class_row

from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.access.sessions import USE_NOTED_EVERY, require_session_in_force
from stemma.access.tokens import parse_key, pepper_in_use, secret_hmac
from stemma.errors import Unauthenticated
from stemma.store.database import Connection, Database
from stemma.store.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KnownKey:
    """What is kept of a key to recognise it by."""

    id: UUID
    role: str
    scopes: list[str]
    signed_only: bool
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    secret_hmac: bytes

    @property
    def principal(self) -> Principal:
        """Who acts with it."""
        return Principal(f"key:{self.id}", Role(self.role), frozenset(self.scopes), self.id)

    def require_in_force(self, now: datetime) -> None:
        """Raises Unauthenticated with code `key_revoked` or `key_expired`."""
        if self.revoked_at is not None:
            logger.warning("a revoked key was used: %s", self.id)
            raise Unauthenticated("key_revoked", "This API key was revoked.", hint="Ask for a new one.")
        if self.expires_at is not None and self.expires_at <= now:
            logger.warning("an expired key was used: %s", self.id)
            what = f"This API key expired at {self.expires_at.astimezone(UTC).isoformat(timespec='seconds')}."
            raise Unauthenticated("key_expired", what, hint="Ask for a new one.")


def authenticate(database: Database, settings: Settings, text: str) -> Principal:
    """The principal of a request that bears this key; raises what `recognise` does."""
    return recognise(database, settings, text).principal


def recognise(database: Database, settings: Settings, text: str) -> KnownKey:
    """The key that somebody holds.

    Raises Unauthenticated with code `key_malformed`, `key_unknown` (also for a wrong secret), `key_revoked`,
    `key_expired` or `signature_required`; Unavailable with code `pepper_lost`.
    """
    key_id, secret = parse_key(text)
    key = find_key(database, key_id)
    if not hmac.compare_digest(secret_hmac(pepper_in_use(settings), key_id, secret), key.secret_hmac):
        raise key_unknown()
    now = datetime.now(UTC)
    key.require_in_force(now)
    if key.signed_only:
        what = "This key is for signed requests and is not taken as a bearer token."
        raise Unauthenticated("signature_required", what, hint="Sign the request by RFC 9421, without sending the key.")
    note_use(database, key, now)
    return key


def find_key(database: Database, key_id: UUID) -> KnownKey:
    """The key with this id; raises Unauthenticated with code `key_unknown`."""
    return database.glance(lambda connection: find_key_in(connection, key_id))


def require_in_force(connection: Connection, principal: Principal) -> None:
    """Ask again for who is answered over a long time; raises Unauthenticated once their key or session is over."""
    if principal.session_id is not None:
        require_session_in_force(connection, principal.session_id)
    elif principal.key_id is not None:
        find_key_in(connection, principal.key_id).require_in_force(datetime.now(UTC))


def find_key_in(connection: Connection, key_id: UUID) -> KnownKey:
    """The key with this id, in the caller's transaction; raises Unauthenticated with code `key_unknown`."""
    with connection.cursor(row_factory=class_row(KnownKey)) as cursor:
        key = cursor.execute(
            """
            SELECT id, role, scopes, signed_only, expires_at, revoked_at, last_used_at, secret_hmac
            FROM api_keys WHERE id = %s
            """,
            (key_id,),
        ).fetchone()
    if key is None:
        raise key_unknown()
    return key


def key_unknown() -> Unauthenticated:
    """The error for a key that is not there, and for one whose secret is another: which of both is told to nobody."""
    return Unauthenticated("key_unknown", "This API key is not known.", hint="`stemma keys create` makes one.")


def note_use(database: Database, key: KnownKey, now: datetime) -> None:
    """Write when the key was used last, unless that was done within the minute or is being done."""
    if key.last_used_at is not None and now - key.last_used_at < USE_NOTED_EVERY:
        return
    with database.transaction() as connection:
        # A crash may take the last use with it: the request need not wait for the disk.
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
