"""Secrets of agents: sealed in the database, opened for a tool alone. What is told of one is its name, never its value.

What seals them is the business of `master_keys`. A secret is set only under the key that `vault_key` names, and a
rotation seals every one anew in one transaction, or conflicts with what was set meanwhile.
"""

from __future__ import annotations

import base64
import html
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, quote_plus

from psycopg.rows import class_row
from pydantic import SecretStr

from stemma.access.principal import Principal
from stemma.agents import roster
from stemma.agents.vault.master_keys import MasterKeys, make_key
from stemma.errors import Conflict, InvalidInput, NotFound
from stemma.ledger.change import Change
from stemma.ledger.entries import NewEntry
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.store.database import Connection
from stemma.store.settings import Settings

PERMISSION: Final = "admin:vault"
MAX_VALUE_BYTES: Final = 16_384

_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
# What Markdown escapes, into which pages are converted.
_SPECIAL: Final = re.compile(r"[\\`*_{}\[\]()#+!|<>~-]")
_COLUMNS: Final = "agent, name, set_by, created_at, set_at"
# A key that is lost seals nothing any more once every secret is removed.
_BEGIN: Final = """
    INSERT INTO vault_key (key_id) VALUES (%(key)s)
    ON CONFLICT (single) DO UPDATE SET key_id = excluded.key_id WHERE NOT EXISTS (SELECT FROM agent_secrets)
"""
_REPLACE: Final = """
    INSERT INTO vault_key (key_id) VALUES (%(after)s)
    ON CONFLICT (single) DO UPDATE SET key_id = excluded.key_id WHERE vault_key.key_id = %(before)s
"""
_IN_USE: Final = "SELECT FROM vault_key WHERE key_id = %(key)s FOR SHARE"
_SET: Final = """
    INSERT INTO agent_secrets (agent, name, sealed, key_id, set_by, created_at, set_at)
    VALUES (%(agent)s, %(name)s, %(sealed)s, %(key)s, %(set_by)s, %(at)s, %(at)s)
    ON CONFLICT (agent, name) DO UPDATE
    SET sealed = excluded.sealed, key_id = excluded.key_id, set_by = excluded.set_by, set_at = excluded.set_at
"""


@dataclass(frozen=True, slots=True)
class Secret:
    """What is told of a secret: whose it is, its name, who set it, when first and when last."""

    agent: str
    name: str
    set_by: str
    created_at: datetime
    set_at: datetime


@dataclass(frozen=True, slots=True)
class Rotation:
    """A new key that seals everything: its id, and how many secrets it sealed."""

    key_id: str
    sealed: int


def set_secret(
    connection: Connection, principal: Principal, settings: Settings, agent: str, name: str, value: SecretStr
) -> Change[Secret]:
    """Give an agent a secret, in place of one of the same name. The first makes the key that seals.

    Raises Forbidden; NotFound for an agent that has no file; InvalidInput that names the field and repeats no value;
    Unavailable (`vault_key_lost`); Conflict where the key was rotated meanwhile.
    """
    principal.require(PERMISSION)
    _check(agent, name)
    _check_value(value)
    keys = MasterKeys.open(settings)
    key_id = _key_in_use(connection)
    if key_id is None or not (keys.holds(key_id) or list_secrets(connection)):
        key_id = keys.preferred or make_key(settings)
        keys = MasterKeys.open(settings)
    known = _one(connection, agent, name)
    now = datetime.now(UTC)
    made = Secret(agent, name, principal.actor, known.created_at if known else now, now)
    row = {
        "agent": agent,
        "name": name,
        "sealed": keys.seal(key_id, _place(agent, name), value.get_secret_value()),
        "key": key_id,
        "set_by": principal.actor,
        "at": now,
    }
    statements = (Statement(_BEGIN, {"key": key_id}), _require_in_use(key_id), Statement(_SET, row, rows=1))
    return Change(_told(principal, "vault.secret-set", agent, name), statements, lambda _: made)


def remove_secret(connection: Connection, principal: Principal, agent: str, name: str) -> Change[Secret]:
    """Take a secret from an agent; gives what it was. Raises Forbidden, NotFound; Conflict where it changed."""
    principal.require(PERMISSION)
    found = _one(connection, agent, name)
    if found is None:
        raise NotFound("secret_not_found", f"The agent {agent[:32]!r} has no secret {name[:63]!r}.", field="name")
    query = "DELETE FROM agent_secrets WHERE (agent, name, set_at) = (%s, %s, %s)"
    statement = Statement(query, (agent, name, found.set_at), 1, _changed())
    return Change(_told(principal, "vault.secret-removed", agent, name), (statement,), lambda _: found)


def rotate(connection: Connection, principal: Principal, settings: Settings) -> Change[Rotation]:
    """Seal everything anew: under the first key of `STEMMA_VAULT_KEY`, or under a new one in `STEMMA_HOME/keys`.

    What the old key sealed stays in backups, which `drop_other_keys` does not reach. Raises Forbidden; InvalidInput
    where `STEMMA_VAULT_KEY` names no other key first; Unavailable (`vault_key_lost`); Conflict.
    """
    principal.require(PERMISSION)
    keys = MasterKeys.open(settings)
    before = _key_in_use(connection)
    if before is not None and before == keys.preferred:
        what = "The first key of STEMMA_VAULT_KEY seals the vault already."
        hint = "Put a new key in front of it, separated by a comma, and rotate again."
        raise InvalidInput("vault_key_in_use", what, field="STEMMA_VAULT_KEY", hint=hint)
    after = keys.preferred or make_key(settings)
    keys = MasterKeys.open(settings)
    rows = connection.execute("SELECT agent, name, sealed, key_id FROM agent_secrets ORDER BY agent, name").fetchall()
    statements = [Statement(_REPLACE, {"before": before, "after": after}, 1, _changed())]
    for agent, name, sealed, key_id in rows:
        value = keys.opened(key_id, _place(agent, name), bytes(sealed))
        anew = {"agent": agent, "name": name, "old": sealed, "key": after}
        anew["sealed"] = keys.seal(after, _place(agent, name), value)
        query = (
            "UPDATE agent_secrets SET sealed = %(sealed)s, key_id = %(key)s"
            " WHERE (agent, name, sealed) = (%(agent)s, %(name)s, %(old)s)"
        )
        statements.append(Statement(query, anew, 1, _changed()))
    complete = "SELECT 1 WHERE NOT EXISTS (SELECT FROM agent_secrets WHERE key_id <> %(after)s)"
    statements.append(Statement(complete, {"after": after}, 1, _changed()))
    told = audited(principal, "vault.rotated", resource="vault", meta={"sealed": len(rows)}, critical=True)
    return Change(told, tuple(statements), lambda _: Rotation(after, len(rows)))


def list_secrets(connection: Connection, agent: str | None = None) -> tuple[Secret, ...]:
    """What is told of every secret, or of an agent's, by agent and name."""
    with connection.cursor(row_factory=class_row(Secret)) as rows:
        query = f"SELECT {_COLUMNS} FROM agent_secrets WHERE %(agent)s::text IS NULL OR agent = %(agent)s"
        return tuple(rows.execute(f"{query} ORDER BY agent, name", {"agent": agent}))


def open_secret(connection: Connection, settings: Settings, agent: str, name: str) -> SecretStr:
    """The value of an agent's secret, for a tool that sends it where it belongs.

    Raises NotFound; Unavailable with code `vault_key_lost` or `vault_damaged`.
    """
    query = "SELECT sealed, key_id FROM agent_secrets WHERE (agent, name) = (%s, %s)"
    row = connection.execute(query, (agent, name)).fetchone()
    if row is None:
        raise NotFound("secret_not_found", f"The agent {agent[:32]!r} has no secret {name[:63]!r}.", field="name")
    sealed, key_id = row
    return SecretStr(MasterKeys.open(settings).opened(key_id, _place(agent, name), bytes(sealed)))


def hidden(text: str, *values: SecretStr) -> str:
    """The text with these values replaced, for what came back from where they were sent: as they are, and as JSON,
    HTML, URLs and Base64 write them, in capitals or not.
    """
    forms = {form for value in values for form in _forms(value.get_secret_value())}
    if not forms:
        return text
    # The longest first: one form may begin as another does.
    pattern = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
    return re.sub(pattern, "[secret]", text, flags=re.IGNORECASE)


def _forms(value: str) -> set[str]:
    encoded = base64.b64encode(value.encode()).decode()
    urls = (quote(value, safe=""), quote(value), quote_plus(value), base64.urlsafe_b64encode(value.encode()).decode())
    texts = (json.dumps(value)[1:-1], html.escape(value), _SPECIAL.sub(r"\\\g<0>", value))
    return {value, encoded.rstrip("="), *(url.rstrip("=") for url in urls), *texts}


def _one(connection: Connection, agent: str, name: str) -> Secret | None:
    with connection.cursor(row_factory=class_row(Secret)) as rows:
        query = f"SELECT {_COLUMNS} FROM agent_secrets WHERE (agent, name) = (%s, %s)"
        return rows.execute(query, (agent, name)).fetchone()


def _key_in_use(connection: Connection) -> str | None:
    row = connection.execute("SELECT key_id FROM vault_key").fetchone()
    return row[0] if row else None


def _require_in_use(key_id: str) -> Statement:
    return Statement(_IN_USE, {"key": key_id}, 1, _changed())


def _changed() -> Conflict:
    return Conflict("vault_changed", "The vault was changed meanwhile.", hint="Try again.")


def _place(agent: str, name: str) -> str:
    return f"{agent}/{name}"


def _told(principal: Principal, action: str, agent: str, name: str) -> tuple[NewEntry, ...]:
    resource = f"secret/{agent}/{name}"
    return audited(principal, action, resource=resource, meta={}, critical=True)


def _check(agent: str, name: str) -> None:
    roster.load().find(agent)
    if not _NAME.fullmatch(name):
        what = "A secret's name has 1 to 63 capital letters, digits and underscores, and begins with a letter."
        raise InvalidInput("secret_name_invalid", what, field="name", hint="Write GITHUB_TOKEN.")


def _check_value(value: SecretStr) -> None:
    text = value.get_secret_value()
    encodable = not any("\ud800" <= letter <= "\udfff" for letter in text) and "\0" not in text
    if not encodable or not 8 <= len(text.encode()) <= MAX_VALUE_BYTES:
        what = f"A secret is text of 8 to {MAX_VALUE_BYTES:,} bytes."
        raise InvalidInput("secret_invalid", what, field="value")
