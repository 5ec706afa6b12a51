"""Creating, rotating and revoking API keys, as changes that are on the audit chain.

Nobody is given more than its creator has: a key's role and scopes stay within those of whoever asks, and so do those of
a key whose new secret is shown to another. How a request proves that it holds a key belongs to `authentication`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

from stemma.access.catalog import ApiKey, read_key, some_in_force
from stemma.access.permissions import PERMISSIONS, SCOPES, Role
from stemma.access.principal import Principal
from stemma.access.tokens import (
    as_text,
    key_text,
    make_pepper,
    new_secret,
    pepper_lost,
    read_pepper,
    secret_hmac,
    signing_secret,
)
from stemma.errors import Conflict, InvalidInput
from stemma.ledger.change import Change
from stemma.ledger.entries import NewEntry
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.store.database import Connection
from stemma.store.settings import Settings

LONGEST_NAME: Final = 100
MOST_SCOPES: Final = 64


@dataclass(frozen=True, slots=True)
class NewKey:
    """What is asked for. With `signed_only`, the key is not taken as a bearer token: its requests are signed."""

    name: str
    role: str
    scopes: Sequence[str]
    expires_at: datetime | None = None
    signed_only: bool = False


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key at the one moment at which its secrets are shown.

    `key` is sent as a bearer token; `signing_secret` (base64) signs requests by RFC 9421.
    """

    api_key: ApiKey
    key: str
    signing_secret: str


def create_key(connection: Connection, principal: Principal, wanted: NewKey, settings: Settings) -> Change[IssuedKey]:
    """Create a key.

    Raises InvalidInput for a name, role, scope or expiry that is none, Forbidden for more power than `principal` has,
    Unavailable with code `pepper_lost` where keys are in use and what they are checked with is gone.
    """
    now = datetime.now(UTC)
    key = ApiKey(
        id=uuid4(),
        name=_checked_name(wanted.name),
        role=_checked_role(wanted.role),
        scopes=_checked_scopes(wanted.scopes),
        signed_only=wanted.signed_only,
        created_by=principal.actor,
        created_at=now,
        expires_at=_checked_expiry(wanted.expires_at, now),
        rotated_at=None,
        revoked_at=None,
        last_used_at=None,
    )
    principal.require_within(Role(key.role), key.scopes)
    issued, kept = _issue(key, _pepper(connection, settings))
    insert = Statement(
        """
        INSERT INTO api_keys (id, name, role, scopes, signed_only, created_by, created_at, expires_at, secret_hmac)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (key.id, key.name, key.role, key.scopes, key.signed_only, key.created_by, now, key.expires_at, kept),
        rows=1,
    )
    meta = {
        "role": key.role,
        "scopes": key.scopes,
        "signed_only": key.signed_only,
        "expires_at": key.expires_at.astimezone(UTC).isoformat() if key.expires_at else None,
    }
    return Change(_entries(principal, "key.created", key, meta), (insert,), lambda _: issued)


def rotate_key(connection: Connection, principal: Principal, key_id: UUID, settings: Settings) -> Change[IssuedKey]:
    """Give a key a new secret; the old one dies at once.

    Raises NotFound, Conflict where the key is revoked or expired, Forbidden where it is another's and may do what
    `principal` may not, Unavailable with code `pepper_lost`.
    """
    key = read_key(connection, key_id)
    now = datetime.now(UTC)
    state = key.state(now)
    if state != "active":
        what = f"This key is {state} and cannot be rotated."
        raise Conflict(f"key_{state}", what, hint="Create a new one.")
    if key.id != principal.key_id:
        principal.require("admin:keys")
        principal.require_within(Role(key.role), key.scopes)
    issued, kept = _issue(replace(key, rotated_at=now), _pepper(connection, settings))
    update = Statement(
        """
        UPDATE api_keys SET secret_hmac = %s, rotated_at = %s
        WHERE id = %s AND revoked_at IS NULL AND rotated_at IS NOT DISTINCT FROM %s
        """,
        (kept, now, key.id, key.rotated_at),
        rows=1,
    )
    return Change(_entries(principal, "key.rotated", key, {}), (update,), lambda _: issued)


def revoke_key(connection: Connection, principal: Principal, key_id: UUID) -> Change[ApiKey]:
    """End a key for ever; requests that bear it are refused from the commit on.

    Raises NotFound, Conflict where it is revoked already, Forbidden where it is another's and `principal` lacks
    admin:keys.
    """
    key = read_key(connection, key_id)
    if key.revoked_at is not None:
        raise Conflict("key_revoked", "This key is revoked already.")
    if key.id != principal.key_id:
        principal.require("admin:keys")
    revoked = replace(key, revoked_at=datetime.now(UTC))
    update = Statement(
        "UPDATE api_keys SET revoked_at = %s WHERE id = %s AND revoked_at IS NULL",
        (revoked.revoked_at, key.id),
        rows=1,
    )
    return Change(_entries(principal, "key.revoked", key, {}), (update,), lambda _: revoked)


def _entries(principal: Principal, action: str, key: ApiKey, meta: Mapping[str, Any]) -> tuple[NewEntry, ...]:
    return audited(principal, action, resource=f"key/{key.id}", meta={"name": key.name, **meta}, critical=True)


def _issue(key: ApiKey, pepper: bytes) -> tuple[IssuedKey, bytes]:
    """The key with a new secret, and what is kept of that."""
    secret = new_secret()
    kept = secret_hmac(pepper, key.id, secret)
    return IssuedKey(key, key_text(key.id, secret), as_text(signing_secret(pepper, key.id, kept))), kept


def _pepper(connection: Connection, settings: Settings) -> bytes:
    """The pepper; a new one is made only where no key in use would die of it."""
    pepper = read_pepper(settings)
    if pepper is not None:
        return pepper
    if some_in_force(connection):
        raise pepper_lost("is gone")
    return make_pepper(settings)


def _checked_name(name: str) -> str:
    name = name.strip()
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        what = f"A key's name has 1 to {LONGEST_NAME} characters, all of them printable."
        raise InvalidInput("name_invalid", what, field="name")
    return name


def _checked_role(role: str) -> Role:
    try:
        return Role(role)
    except ValueError as error:
        hint = f"The roles are {', '.join(Role)}."
        raise InvalidInput("role_unknown", f"{role!r} is no role.", field="role", hint=hint) from error


def _checked_scopes(scopes: Sequence[str]) -> list[str]:
    if not 0 < len(scopes) <= MOST_SCOPES:
        what, hint = f"A key has 1 to {MOST_SCOPES} scopes.", "Write scopes such as search:* or ingest:write."
        raise InvalidInput("scopes_invalid", what, field="scopes", hint=hint)
    for scope in scopes:
        if scope not in PERMISSIONS and scope not in {f"{capability}:*" for capability in SCOPES}:
            hint = f"Write one of {', '.join(PERMISSIONS)}, or all of a capability: {', '.join(SCOPES)} with `:*`."
            raise InvalidInput("scope_unknown", f"{scope!r} is no scope.", field="scopes", hint=hint)
    return list(dict.fromkeys(scopes))


def _checked_expiry(at: datetime | None, now: datetime) -> datetime | None:
    if at is not None and at <= now:
        raise InvalidInput("expiry_past", "The key would have expired already.", field="expires_at")
    return at
