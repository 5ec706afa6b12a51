"""Reading published versions: one by reference, and lists."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from psycopg import sql
from psycopg.rows import dict_row

from stemma.errors import NotFound
from stemma.registry.model import Kind, Published, Summary
from stemma.registry.references import Reference
from stemma.registry.semver import Version, parse_version
from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection

_SUMMARY: Final = "name, version, encode(content_sha256, 'hex') AS sha256, changelog, published_by, published_at"
_NEWEST: Final = 2**63 - 1
# Within one name and major, versions are published in the order of their precedence.
_RESOLVE: Final = """
    SELECT {columns}, content FROM {table}
    WHERE name = %(name)s AND (
        version = %(version)s
        OR (%(version)s::text IS NULL AND stable
            AND (%(major)s::bigint IS NULL OR major = %(major)s)
            AND (%(minor)s::bigint IS NULL OR minor = %(minor)s)))
    ORDER BY major DESC, position DESC LIMIT 1
"""
_NAMES: Final = """
    SELECT DISTINCT ON (name) {columns} FROM {table} WHERE name > %(after)s
    ORDER BY name, stable DESC, major DESC, position DESC LIMIT %(limit)s
"""
_VERSIONS: Final = """
    SELECT {columns}, position FROM {table} WHERE name = %(name)s AND position < %(before)s
    ORDER BY position DESC LIMIT %(limit)s
"""


def find(connection: Connection, kind: Kind, reference: Reference) -> Published:
    """What a reference resolves to now; raises NotFound."""
    wanted = {
        "name": reference.name,
        "version": str(reference.version) if reference.version else None,
        "major": reference.major,
        "minor": reference.minor,
    }
    row = connection.cursor(row_factory=dict_row).execute(_query(_RESOLVE, kind), wanted).fetchone()
    if row is None:
        hint = "An alias finds stable versions alone; name a pre-release by its full version."
        raise NotFound(f"{kind.name}_unknown", f"There is no {kind.name} {reference}.", field="reference", hint=hint)
    return Published(**{**row, "content": json.loads(bytes(row["content"]))})


def list_newest(connection: Connection, kind: Kind, *, cursor: str | None = None, limit: int = 50) -> Page[Summary]:
    """Of each name what `latest` is, or the newest pre-release where there is nothing stable; by name.

    Raises InvalidInput(field="cursor").
    """
    listing = f"{kind.table}.names"
    (after,) = decode_cursor(listing, cursor, str) if cursor else ("",)
    rows = connection.cursor(row_factory=dict_row).execute(_query(_NAMES, kind), {"after": after, "limit": limit + 1})
    page = cut_page(rows.fetchall(), limit, lambda last: encode_cursor(listing, last["name"]))
    return Page(tuple(_summary(row) for row in page.data), page.next_cursor)


def list_versions(
    connection: Connection, kind: Kind, name: str, *, cursor: str | None = None, limit: int = 50
) -> Page[Summary]:
    """The versions of a name, the last published first; raises InvalidInput(field="cursor"), NotFound."""
    listing = f"{kind.table}.versions"
    (before,) = decode_cursor(listing, cursor, int) if cursor else (_NEWEST,)
    rows = connection.cursor(row_factory=dict_row).execute(
        _query(_VERSIONS, kind), {"name": name, "before": before, "limit": limit + 1}
    )
    page = cut_page(rows.fetchall(), limit, lambda last: encode_cursor(listing, last["position"]))
    if not page.data and cursor is None:
        raise NotFound(f"{kind.name}_unknown", f"There is no {kind.name} {name[:100]!r}.", field="name")
    return Page(tuple(_summary(row) for row in page.data), page.next_cursor)


def newest_of_major(connection: Connection, kind: Kind, name: str, major: int) -> Version | None:
    """The version that the next one of this major has to exceed; None where there is none."""
    query = sql.SQL("SELECT version FROM {table} WHERE name = %s AND major = %s ORDER BY position DESC LIMIT 1").format(
        table=sql.Identifier(kind.table)
    )
    row = connection.execute(query, (name, major)).fetchone()
    return parse_version(row[0]) if row else None


def _query(text: Any, kind: Kind) -> sql.Composed:
    return sql.SQL(text).format(columns=sql.SQL(_SUMMARY), table=sql.Identifier(kind.table))


def _summary(row: Mapping[str, Any]) -> Summary:
    return Summary(**{name: row[name] for name in Summary.__slots__})
