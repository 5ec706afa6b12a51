"""Who may send us webhooks: sources, each with its secret and with the kind of job that it asks for.

Adding, rotating and removing are changes on the audit chain. What a webhook sets off is `reception`'s business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from psycopg.rows import dict_row

from stemma.access.principal import Principal
from stemma.errors import Conflict, InvalidInput, NotFound
from stemma.jobs import kinds
from stemma.ledger.change import Change
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.notify.source_secrets import Sealing
from stemma.notify.standard_webhooks import new_secret, secret_bytes
from stemma.store.database import Connection
from stemma.store.settings import Settings

OVERLAP: Final = timedelta(hours=24)
"""For how long the secret before a rotation is taken as well."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_POINTER = re.compile(r"(/([^~/\x00-\x1f]|~[01])*)*")
_COLUMNS = "name, job_kind, input_pointer, created_by, created_at, rotated_at, previous_until"


@dataclass(frozen=True, slots=True)
class Source:
    """A source as listed. What `input_pointer` (RFC 6901) points at in the body is the input of the job; "": all of it.

    Until `previous_until` the secret before the last rotation is taken as well.
    """

    name: str
    job_kind: str
    input_pointer: str
    created_by: str
    created_at: datetime
    rotated_at: datetime | None
    previous_until: datetime | None


@dataclass(frozen=True, slots=True)
class IssuedSource:
    """A source at the one moment at which its secret is shown."""

    source: Source
    secret: str = field(repr=False)


def add(
    connection: Connection, principal: Principal, settings: Settings, *, name: str, job_kind: str, input_pointer: str
) -> Change[IssuedSource]:
    """Add a source. Raises InvalidInput for a name, kind or pointer that is none, Conflict for a name that is taken."""
    principal.require("admin:notify")
    if not _NAME.fullmatch(name):
        what = "A source's name has up to 63 lower-case letters, digits, `_` and `-`."
        raise InvalidInput("source_name_invalid", what, field="name")
    if len(input_pointer) > 200 or not _POINTER.fullmatch(input_pointer):
        hint = "Write /data/document, or leave it out to take the whole body."
        raise InvalidInput("pointer_invalid", "This is no JSON Pointer.", field="input", hint=hint)
    kinds.find(job_kind)
    taken = Conflict("source_exists", f"There is a webhook source {name!r} already.", field="name")
    if connection.execute("SELECT FROM webhook_sources WHERE name = %s", (name,)).fetchone() is not None:
        raise taken
    now = datetime.now(UTC)
    source = Source(name, job_kind, input_pointer, principal.actor, now, None, None)
    secret, sealed = _new_secret(Sealing.ensure(connection, settings), name)
    insert = Statement(
        "INSERT INTO webhook_sources (name, job_kind, input_pointer, secret, created_by, created_at)"
        " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (name, job_kind, input_pointer, sealed, principal.actor, now),
        rows=1,
        refusal=taken,
    )
    meta = {"job_kind": job_kind, "input_pointer": input_pointer}
    entries = audited(principal, "webhook.added", resource=_resource(name), meta=meta, critical=True)
    return Change(entries, (insert,), lambda _: IssuedSource(source, secret))


def rotate(
    connection: Connection, principal: Principal, settings: Settings, name: str, *, at_once: bool = False
) -> Change[IssuedSource]:
    """Give a source a new secret; the old one is taken for `OVERLAP` more, or with `at_once` no longer.

    Raises NotFound, Conflict where another rotation was first.
    """
    principal.require("admin:notify")
    source = get(connection, name)
    now = datetime.now(UTC)
    rotated = replace(source, rotated_at=now, previous_until=None if at_once else now + OVERLAP)
    secret, sealed = _new_secret(Sealing.open(settings), name)
    update = Statement(
        "UPDATE webhook_sources SET previous = CASE WHEN %(until)s::timestamptz IS NOT NULL THEN secret END,"
        " previous_until = %(until)s, secret = %(secret)s, rotated_at = %(now)s"
        " WHERE name = %(name)s AND rotated_at IS NOT DISTINCT FROM %(seen)s::timestamptz",
        {"until": rotated.previous_until, "secret": sealed, "now": now, "name": name, "seen": source.rotated_at},
        rows=1,
    )
    entries = audited(principal, "webhook.rotated", resource=_resource(name), meta={"at_once": at_once}, critical=True)
    return Change(entries, (update,), lambda _: IssuedSource(rotated, secret))


def remove(connection: Connection, principal: Principal, name: str) -> Change[Source]:
    """Take nothing from a source any more, from the commit on; raises NotFound."""
    principal.require("admin:notify")
    source = get(connection, name)
    delete = Statement("DELETE FROM webhook_sources WHERE name = %s", (name,), rows=1)
    entries = audited(principal, "webhook.removed", resource=_resource(name), meta={}, critical=True)
    return Change(entries, (delete,), lambda _: source)


def get(connection: Connection, name: str) -> Source:
    """One source; raises NotFound."""
    found = [source for source in list_sources(connection) if source.name == name]
    if not found:
        hint = "`stemma webhooks list` lists them."
        raise NotFound("source_unknown", f"There is no webhook source {name!r}.", field="name", hint=hint)
    return found[0]


def list_sources(connection: Connection) -> tuple[Source, ...]:
    """Every source, by name."""
    rows = connection.cursor(row_factory=dict_row).execute(f"SELECT {_COLUMNS} FROM webhook_sources ORDER BY name")
    return tuple(Source(**row) for row in rows)


def _new_secret(sealing: Sealing, name: str) -> tuple[str, bytes]:
    secret = new_secret()
    return secret, sealing.seal(name, secret_bytes(secret))


def _resource(name: str) -> str:
    return f"webhook/{name}"
