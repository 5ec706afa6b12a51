"""Sign-in links: made by whoever can run `stemma` on this machine, each good for one sign-in within 15 minutes.

They all stand for one key, made for them and shown to nobody, so that revoking it ends what they began as with any
other key; the next link then has a new one.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from stemma.access import sessions
from stemma.access.authentication import find_key_in
from stemma.access.catalog import read_key
from stemma.access.keys import NewKey, create_key, revoke_key
from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.access.sessions import KEPT_FOR, OpenedSession
from stemma.access.tokens import new_secret, parse_token, pepper_in_use, token_hmac, token_text
from stemma.errors import Conflict, Unauthenticated
from stemma.ledger.change import Change
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.store.database import Connection
from stemma.store.settings import Settings

VALID_FOR: Final = timedelta(minutes=15)
KEY_NAME: Final = "local"

_AGAIN: Final = "`stemma sign-in` prints a new one."


@dataclass(frozen=True, slots=True)
class SignInLink:
    """A link at the one moment at which it is shown."""

    id: UUID
    url: str
    expires_at: datetime


def nobody_has_signed_in(connection: Connection) -> bool:
    """Whether there never was a session."""
    return connection.execute("SELECT FROM sessions LIMIT 1").fetchone() is None


def make_link(connection: Connection, principal: Principal, settings: Settings) -> Change[SignInLink]:
    """Make a link that signs in with the role and scopes of `principal`.

    Raises Unavailable with code `pepper_lost`.
    """
    key_id, before = _link_key(connection, principal, settings)
    link_id, secret, now = uuid4(), new_secret(), datetime.now(UTC)
    url = f"{settings.api_url}/sign-in/{token_text('stl', link_id, secret)}"
    link = SignInLink(link_id, url, now + VALID_FOR)
    insert = Statement(
        "INSERT INTO sign_in_links (id, key_id, token_hmac, created_at, expires_at) VALUES (%s, %s, %s, %s, %s)",
        (link_id, key_id, token_hmac(pepper_in_use(settings), "stl", link_id, secret), now, link.expires_at),
    )
    forget = Statement("DELETE FROM sign_in_links WHERE expires_at < %s", (now - KEPT_FOR,))
    meta = {"key": str(key_id), "expires_at": link.expires_at.isoformat()}
    entries = audited(principal, "link.created", resource=f"link/{link_id}", meta=meta)
    made = Change(entries, (insert, forget), lambda _: link)
    return replace(_in_order(*before, made), result=lambda _: link)


def redeem(connection: Connection, settings: Settings, text: str) -> Change[OpenedSession]:
    """Trade a link for a session, once.

    Raises Unauthenticated with code `link_unknown`, `link_used` or `link_expired`, or what is wrong with its key;
    Unavailable with code `pepper_lost`.
    """
    now = datetime.now(UTC)
    link_id, key_id = _usable(connection, settings, text, now)
    key = find_key_in(connection, key_id)
    key.require_in_force(now)
    use = Statement(
        "UPDATE sign_in_links SET used_at = %s WHERE id = %s AND used_at IS NULL",
        (now, link_id),
        rows=1,
        refusal=_refused("link_used", "This sign-in link was used already."),
    )
    used = audited(key.principal, "link.used", resource=f"link/{link_id}", meta={"key": str(key.id)})
    return sessions.begin(key, settings).joined(Change(used, (use,), lambda _: None))


def _usable(connection: Connection, settings: Settings, text: str, now: datetime) -> tuple[UUID, UUID]:
    """The ids of a link that may be used and of its key."""
    unknown = _refused("link_unknown", "This sign-in link is not known.")
    parsed = parse_token("stl", text)
    if parsed is None:
        raise unknown
    link_id, secret = parsed
    row = connection.execute(
        "SELECT key_id, token_hmac, expires_at, used_at FROM sign_in_links WHERE id = %s", (link_id,)
    ).fetchone()
    if row is None:
        raise unknown
    key_id, kept, expires_at, used_at = row
    if not hmac.compare_digest(token_hmac(pepper_in_use(settings), "stl", link_id, secret), kept):
        raise unknown
    if used_at is not None:
        raise _refused("link_used", "This sign-in link was used already.")
    if expires_at <= now:
        raise _refused("link_expired", "This sign-in link has expired.")
    return link_id, key_id


def _refused(code: str, what: str) -> Unauthenticated:
    return Unauthenticated(code, what, hint=_AGAIN)


def _link_key(connection: Connection, principal: Principal, settings: Settings) -> tuple[UUID, list[Change[Any]]]:
    """The key that links stand for, and what has to come before its use: a new one where it may do something else."""
    before: list[Change[Any]] = []
    found = connection.execute("SELECT id FROM api_keys WHERE for_links AND revoked_at IS NULL").fetchone()
    if found is not None:
        key = read_key(connection, found[0])
        if Role(key.role) is principal.role and principal.scopes == set(key.scopes):
            return key.id, before
        before.append(revoke_key(connection, principal, key.id))
    created = create_key(connection, principal, NewKey(KEY_NAME, principal.role, sorted(principal.scopes)), settings)
    # What is made has its id only in its result, which needs no entries.
    key_id = created.result(()).api_key.id
    mark = Statement(
        """
        UPDATE api_keys SET for_links = true
        WHERE id = %s AND NOT EXISTS (SELECT FROM api_keys WHERE for_links AND revoked_at IS NULL)
        """,
        (key_id,),
        rows=1,
        refusal=Conflict("link_in_making", "Another sign-in link is being made.", hint="Try again."),
    )
    return key_id, [*before, created, Change((), (mark,), lambda _: None)]


def _in_order(*changes: Change[Any]) -> Change[Any]:
    """All of them, so that they commit together, in this order."""
    first, *rest = changes
    for change in rest:
        first = first.joined(change)
    return first
