"""Publishing a version: once, for good, and upwards.

Versions of one name grow within their major: what is published after 1.3.0 and 2.0.0 may be 1.3.1 or 2.0.1, not 1.2.9.
So an older major can be mended while a newer one is in use, and an alias never moves back. To return to what an older
version said, publish its content under a new version.
"""

from __future__ import annotations

from datetime import UTC, datetime

from psycopg import sql

from stemma.access.principal import Principal
from stemma.errors import Conflict, NotFound
from stemma.ledger.change import Change
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.redaction import redact
from stemma.registry.catalog import find, newest_of_major
from stemma.registry.model import Draft, Kind, Published, content_hash
from stemma.registry.references import Reference
from stemma.store.database import Connection


def publish(connection: Connection, principal: Principal, kind: Kind, draft: Draft) -> Change[Published]:
    """Publish a version, or find it published with this very content, which changes nothing but the audit.

    Raises Forbidden; InvalidInput that names the field, TooLarge; Conflict where the version has other content, or does
    not exceed the newest of its major.
    """
    principal.require(kind.permission)
    canonical = draft.canonical()
    sha256 = content_hash(canonical)
    resource = f"{kind.name}/{draft.name}@{draft.version}"
    existing = _existing(connection, kind, draft)
    if existing is not None:
        _require_same(existing, sha256)
        entries = audited(principal, f"{kind.name}.republished", resource=resource, meta={"sha256": sha256})
        return Change(entries, (), lambda _: existing)
    newest = newest_of_major(connection, kind, draft.name, draft.version.major)
    if newest is not None and not draft.version > newest:
        what = f"{draft.name} {draft.version} does not exceed {newest}, the newest of its major."
        hint = "Publish what you have under a higher version."
        raise Conflict("version_not_higher", what, field="version", hint=hint)
    published = Published(
        name=draft.name,
        version=str(draft.version),
        sha256=sha256,
        changelog=draft.changelog,
        published_by=principal.actor,
        published_at=datetime.now(UTC),
        content=draft.content,
    )
    told = redact(draft.changelog).text
    facts = {"sha256": sha256, "changelog": told, "replaces": str(newest) if newest else None}
    entries = audited(principal, f"{kind.name}.published", resource=resource, meta=facts, critical=True)
    return Change(entries, (_insert(kind, draft, published, canonical, newest),), lambda _: published)


def _existing(connection: Connection, kind: Kind, draft: Draft) -> Published | None:
    try:
        return find(connection, kind, Reference(draft.name, draft.version))
    except NotFound:
        return None


def _require_same(existing: Published, sha256: str) -> None:
    if existing.sha256 != sha256:
        what = f"{existing.reference} is published already, with other content."
        hint = "A published version never changes: raise the version."
        raise Conflict("version_taken", what, field="version", hint=hint)


def _insert(kind: Kind, draft: Draft, published: Published, canonical: bytes, newest: object | None) -> Statement:
    """The row, unless another version of this major came meanwhile: the chains' locks make these inserts take turns."""
    query = sql.SQL("""
        INSERT INTO {table} (name, version, major, minor, patch, stable, content, content_sha256, changelog,
                             published_by, published_at)
        SELECT %(name)s, %(version)s, %(major)s, %(minor)s, %(patch)s, %(stable)s, %(content)s, %(sha256)s,
               %(changelog)s, %(published_by)s, %(published_at)s
        WHERE (SELECT version FROM {table} WHERE name = %(name)s AND major = %(major)s ORDER BY position DESC LIMIT 1)
            IS NOT DISTINCT FROM %(newest)s::text
    """).format(table=sql.Identifier(kind.table))
    parameters = {
        "name": published.name,
        "version": published.version,
        "major": draft.version.major,
        "minor": draft.version.minor,
        "patch": draft.version.patch,
        "stable": draft.version.is_stable,
        "content": canonical,
        "sha256": bytes.fromhex(published.sha256),
        "changelog": published.changelog,
        "published_by": published.published_by,
        "published_at": published.published_at,
        "newest": str(newest) if newest is not None else None,
    }
    what = f"Another version of {published.name} was published at the same time."
    refusal = Conflict("version_raced", what, field="version", hint="Look at it, and publish again.")
    return Statement(query, parameters, rows=1, refusal=refusal)
