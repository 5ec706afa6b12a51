"""Sessions: a key is traded for a random cookie value of limited life, by which a browser's requests are known.

Of the value only an HMAC is kept. A session is its key's: it may what the key may, and ends with it. What a browser's
request has to show besides the cookie is the business of the API; links that sign in are `links`'.
"""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from psycopg.rows import class_row

from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.access.tokens import csrf_token, new_secret, parse_token, pepper_in_use, token_hmac, token_text
from stemma.errors import Conflict, NotFound, Unauthenticated
from stemma.ledger.change import Change
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection, Database
from stemma.store.settings import Settings

if TYPE_CHECKING:
    from stemma.access.authentication import KnownKey

logger = logging.getLogger(__name__)

USE_NOTED_EVERY: Final = timedelta(seconds=60)
KEPT_FOR: Final = timedelta(days=30)
"""How long what has expired can still be listed; the ledger goes on knowing of it."""

_SIGN_IN: Final = "Sign in again."


@dataclass(frozen=True, slots=True)
class Session:
    """The session that a request belongs to; `csrf_token` has to come with what it changes."""

    id: UUID
    key_id: UUID
    csrf_token: str
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A session at the one moment at which its cookie is known."""

    session: Session
    cookie: str


@dataclass(frozen=True, slots=True)
class KnownSession:
    """What is kept of a session, with what its key is now."""

    id: UUID
    key_id: UUID
    key_name: str
    role: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime
    ended_at: datetime | None
    key_rotated_at: datetime | None
    key_rotated_now: datetime | None
    key_revoked_at: datetime | None
    key_expires_at: datetime | None
    token_hmac: bytes

    @property
    def principal(self) -> Principal:
        """Who acts in it."""
        return Principal(f"key:{self.key_id}", Role(self.role), frozenset(self.scopes), self.key_id, self.id)

    def state(self, now: datetime, idle: timedelta | None) -> str:
        """`active`, `ended`, `expired`, `key_revoked`, `key_expired` or `key_rotated`; unused for `idle` is expired."""
        if self.ended_at is not None:
            return "ended"
        if self.key_revoked_at is not None:
            return "key_revoked"
        if self.key_rotated_now != self.key_rotated_at:
            return "key_rotated"
        if self.key_expires_at is not None and self.key_expires_at <= now:
            return "key_expired"
        unused = idle is not None and self.last_used_at + idle <= now
        return "expired" if self.expires_at <= now or unused else "active"


ENDINGS: Final = {
    "session_unknown": "This session is not known.",
    "session_ended": "This session was ended.",
    "session_expired": "This session has expired.",
    "session_key_revoked": "The key of this session was revoked.",
    "session_key_rotated": "The key of this session was rotated.",
    "session_key_expired": "The key of this session has expired.",
}
"""Why a session is not taken any more, by the code of the error."""

_SELECT: Final = """
    SELECT s.id, s.key_id, k.name AS key_name, k.role, k.scopes, s.created_at, s.expires_at, s.last_used_at,
        s.ended_at, s.key_rotated_at, k.rotated_at AS key_rotated_now, k.revoked_at AS key_revoked_at,
        k.expires_at AS key_expires_at, s.token_hmac
    FROM sessions AS s JOIN api_keys AS k ON k.id = s.key_id
"""


def authenticate_session(database: Database, settings: Settings, cookie: str) -> tuple[Principal, Session]:
    """The principal of a request with this cookie, and its session.

    Raises Unauthenticated with one of the codes of `ENDINGS`; Unavailable with code `pepper_lost`.
    """
    parsed = parse_token("sts", cookie)
    if parsed is None:
        raise session_over("session_unknown")
    session_id, secret = parsed
    known = database.read(lambda connection: _find(connection, session_id))
    pepper = pepper_in_use(settings)
    if known is None or not hmac.compare_digest(token_hmac(pepper, "sts", session_id, secret), known.token_hmac):
        raise session_over("session_unknown")
    now = datetime.now(UTC)
    _require_active(known, now, timedelta(seconds=settings.session_idle_seconds))
    _note_use(database, known, now)
    token = csrf_token(pepper, session_id, secret)
    return known.principal, Session(known.id, known.key_id, token, known.created_at, known.expires_at)


def require_session_in_force(connection: Connection, session_id: UUID) -> None:
    """Ask again for who is answered over a long time, however long ago they last asked for something.

    Raises Unauthenticated with one of the codes of `ENDINGS`.
    """
    known = _find(connection, session_id)
    if known is None:
        raise session_over("session_unknown")
    _require_active(known, datetime.now(UTC), None)


def begin(key: KnownKey, settings: Settings) -> Change[OpenedSession]:
    """Begin a session of a key that has been recognised; it never outlasts that key.

    Raises Unavailable with code `pepper_lost`. The change raises Conflict where the key was revoked, rotated or
    expired in between.
    """
    session_id, secret, now = uuid4(), new_secret(), datetime.now(UTC)
    pepper = pepper_in_use(settings)
    expires_at = now + timedelta(seconds=settings.session_lifetime_seconds)
    if key.expires_at is not None:
        expires_at = min(expires_at, key.expires_at)
    insert = Statement(
        """
        INSERT INTO sessions (id, key_id, key_rotated_at, token_hmac, created_at, expires_at, last_used_at)
        SELECT %(id)s, id, rotated_at, %(kept)s, %(now)s, %(expires_at)s, %(now)s FROM api_keys
        WHERE id = %(key)s AND secret_hmac = %(secret_hmac)s AND revoked_at IS NULL
        """,
        {
            "id": session_id,
            "kept": token_hmac(pepper, "sts", session_id, secret),
            "now": now,
            "expires_at": expires_at,
            "key": key.id,
            "secret_hmac": key.secret_hmac,
        },
        rows=1,
        refusal=Conflict("key_changed", "The key was revoked or rotated at this moment.", hint=_SIGN_IN),
    )
    entries = audited(
        key.principal,
        "session.started",
        resource=f"session/{session_id}",
        meta={"key": str(key.id), "expires_at": expires_at.astimezone(UTC).isoformat()},
    )
    session = Session(session_id, key.id, csrf_token(pepper, session_id, secret), now, expires_at)
    forget = Statement("DELETE FROM sessions WHERE expires_at < %s", (now - KEPT_FOR,))
    return Change(entries, (insert, forget), lambda _: OpenedSession(session, token_text("sts", session_id, secret)))


def end(connection: Connection, principal: Principal, session_id: UUID) -> Change[KnownSession]:
    """End a session at once: one of one's own key, or anybody's with `admin:keys`.

    Raises NotFound, Conflict where it is ended already, Forbidden.
    """
    known = _find(connection, session_id)
    if known is None:
        hint = "`stemma sessions list` lists them."
        raise NotFound("session_not_found", f"There is no session {session_id}.", hint=hint)
    if known.key_id != principal.key_id:
        principal.require("admin:keys")
    ended = Conflict("session_ended", "This session is ended already.")
    if known.ended_at is not None:
        raise ended
    update = Statement(
        "UPDATE sessions SET ended_at = %s WHERE id = %s AND ended_at IS NULL",
        (datetime.now(UTC), session_id),
        rows=1,
        refusal=ended,
    )
    meta = {"key": str(known.key_id)}
    entries = audited(principal, "session.ended", resource=f"session/{session_id}", meta=meta)
    return Change(entries, (update,), lambda _: known)


def list_sessions(
    connection: Connection, *, key_id: UUID | None = None, cursor: str | None = None, limit: int = 50
) -> Page[KnownSession]:
    """Sessions, those that are over too, the newest first; raises InvalidInput for a bad cursor."""
    before = decode_cursor("sessions", cursor, str)[0] if cursor is not None else None
    with connection.cursor(row_factory=class_row(KnownSession)) as rows:
        found = rows.execute(
            f"""
            {_SELECT}
            WHERE (%(key)s::uuid IS NULL OR s.key_id = %(key)s) AND (%(before)s::text IS NULL OR
                (s.created_at, s.id) < (SELECT created_at, id FROM sessions WHERE id::text = %(before)s))
            ORDER BY s.created_at DESC, s.id DESC LIMIT %(limit)s
            """,
            {"key": key_id, "before": before, "limit": limit + 1},
        ).fetchall()
    return cut_page(found, limit, lambda last: encode_cursor("sessions", str(last.id)))


def not_ended(connection: Connection) -> list[UUID]:
    """The ids of the sessions that nobody ended and that have not expired by their age, oldest first."""
    rows = connection.execute(
        "SELECT id FROM sessions WHERE ended_at IS NULL AND expires_at > now() ORDER BY created_at, id"
    ).fetchall()
    return [row[0] for row in rows]


def session_over(code: str) -> Unauthenticated:
    """The error of a session that is not taken any more; `code` is one of `ENDINGS`."""
    return Unauthenticated(code, ENDINGS[code], hint=_SIGN_IN)


def _find(connection: Connection, session_id: UUID) -> KnownSession | None:
    with connection.cursor(row_factory=class_row(KnownSession)) as cursor:
        return cursor.execute(f"{_SELECT} WHERE s.id = %s", (session_id,)).fetchone()


def _require_active(known: KnownSession, now: datetime, idle: timedelta | None) -> None:
    state = known.state(now, idle)
    if state.startswith("key_"):
        logger.warning("a session whose key is over was used: %s (%s)", known.id, state)
    if state != "active":
        raise session_over(f"session_{state}")


def _note_use(database: Database, known: KnownSession, now: datetime) -> None:
    """Write when the session was used last, unless that was done within the minute or is being done."""
    if now - known.last_used_at < USE_NOTED_EVERY:
        return
    with database.transaction() as connection:
        # A crash may take the last use with it: the request need not wait for the disk.
        connection.execute("SET LOCAL synchronous_commit = off")
        connection.execute(
            """
            UPDATE sessions SET last_used_at = %(now)s WHERE id = (
                SELECT id FROM sessions WHERE id = %(id)s AND last_used_at <= %(before)s FOR UPDATE SKIP LOCKED
            )
            """,
            {"id": known.id, "now": now, "before": now - USE_NOTED_EVERY},
        )
