"""API keys: what they are, and the changes that create, rotate and revoke them.

A key is given a role and scopes within those of its creator. How a request proves that it holds a key belongs to
`authentication`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid4

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
from stemma.errors import InvalidInput
from stemma.ledger.change import Change
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.store.database import Connection
from stemma.store.settings import Settings

LONGEST_NAME: Final = 100
MOST_SCOPES: Final = 64


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as listed; of its secret nothing is known."""

    id: UUID
    name: str
    role: Role
    scopes: tuple[str, ...]
    signed_only: bool
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    rotated_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key at the one moment at which its secrets are shown.

    `key` is sent as a bearer token; `signing_secret` (base64) signs requests by RFC 9421.
    """

    api_key: ApiKey
    key: str
    signing_secret: str


@dataclass(frozen=True, slots=True)
class NewKey:
    """What is asked for. With `signed_only` its requests have to be signed."""

    name: str
    role: str
    scopes: Sequence[str]
    expires_at: datetime | None = None
    signed_only: bool = False


def create_key(connection: Connection, principal: Principal, wanted: NewKey, settings: Settings) -> Change[IssuedKey]:
    """Create a key.

    Raises InvalidInput for a name, role, scope or expiry that is none, Forbidden for more power than `principal` has,
    Unavailable with code `pepper_lost` where keys are in use and what they are checked with is gone.
    """
    role = _checked_role(wanted.role)
    scopes = _checked_scopes(wanted.scopes)
    principal.require_within(role, scopes)
    now = datetime.now(UTC)
    if wanted.expires_at is not None and wanted.expires_at <= now:
        raise InvalidInput("expiry_past", "The key would have expired already.", field="expires_at")
    key = ApiKey(
        uuid4(), _checked_name(wanted.name), role, scopes, wanted.signed_only, principal.actor, now, wanted.expires_at,
        None, None, None,
    )  # fmt: skip
    issued, kept = _issue(key, _pepper(connection, settings))
    insert = Statement(
        """
        INSERT INTO api_keys (id, name, role, scopes, signed_only, created_by, created_at, expires_at, secret_hmac)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (key.id, key.name, role, list(scopes), key.signed_only, key.created_by, now, key.expires_at, kept),
        rows=1,
    )
    meta = {
        "name": key.name,
        "role": role,
        "scopes": list(scopes),
        "signed_only": key.signed_only,
        "expires_at": key.expires_at.astimezone(UTC).isoformat() if key.expires_at else None,
    }
    entries = audited(principal, "key.created", resource=resource(key.id), meta=meta, critical=True)
    return Change(entries, (insert,), lambda _: issued)


def resource(key_id: UUID) -> str:
    """How audit entries name a key."""
    return f"key/{key_id}"


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
    in_use = connection.execute(
        "SELECT EXISTS (SELECT FROM api_keys WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()))"
    ).fetchone()
    if in_use == (True,):
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


def _checked_scopes(scopes: Sequence[str]) -> tuple[str, ...]:
    if not 0 < len(scopes) <= MOST_SCOPES:
        what = f"A key has 1 to {MOST_SCOPES} scopes."
        raise InvalidInput(
            "scopes_invalid", what, field="scopes", hint="Write scopes such as search:* or ingest:write."
        )
    for scope in scopes:
        if scope not in PERMISSIONS and scope not in {f"{capability}:*" for capability in SCOPES}:
            hint = f"Write one of {', '.join(PERMISSIONS)}, or a capability's all: {', '.join(SCOPES)} with `:*`."
            raise InvalidInput("scope_unknown", f"{scope!r} is no scope.", field="scopes", hint=hint)
    return tuple(dict.fromkeys(scopes))
