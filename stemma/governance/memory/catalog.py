"""Reading what is remembered: snapshots, scorecards and drift of a node, the newest day first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final, LiteralString, TypeVar

from psycopg.rows import dict_row

from stemma.errors import InvalidInput
from stemma.governance import nodes
from stemma.governance.memory.windows import Features, features_on
from stemma.registry.references import check_name
from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection

T = TypeVar("T")
_LAST: Final = "9999-12-31"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a day taught, as counts and in words. `sha256` is what a decision's context names it by."""

    node: str
    day: date
    sha256: str
    text: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scorecard:
    """How the variants of each policy (`name@version`) stood at the end of a day."""

    node: str
    day: date
    policies: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DriftReport:
    """The distributions of a day's last days beside those before them."""

    node: str
    day: date
    alarmed: bool
    content: Mapping[str, Any]


def find_features(connection: Connection, node: str, entity: str, day: date | None = None) -> Features:
    """What is known of an entity at the end of a day (UTC), by default of the last that is made.

    Raises NotFound for an unknown node; an entity of which nothing is known has no features but counts of nothing.
    """
    check_name(node, field="node")
    known = nodes.load(connection, node)
    return features_on(connection, known, entity, day or _last_made(connection, node))


def list_snapshots(connection: Connection, node: str, *, cursor: str | None = None, limit: int = 50) -> Page[Snapshot]:
    """The snapshots of a node; raises InvalidInput(field="cursor")."""
    query: LiteralString = """
        SELECT node, day, encode(sha256, 'hex') AS sha256, text, content FROM knowledge_snapshots
        WHERE node = %(node)s AND day < %(before)s ORDER BY day DESC LIMIT %(limit)s
    """
    return _page(connection, "snapshots", query, node, cursor, limit, lambda row: Snapshot(**row))


def list_scorecards(
    connection: Connection, node: str, *, cursor: str | None = None, limit: int = 50
) -> Page[Scorecard]:
    """The scorecards of a node; raises InvalidInput(field="cursor")."""
    query: LiteralString = """
        SELECT node, day, content -> 'policies' AS policies FROM scorecards
        WHERE node = %(node)s AND day < %(before)s ORDER BY day DESC LIMIT %(limit)s
    """
    return _page(connection, "scorecards", query, node, cursor, limit, lambda row: Scorecard(**row))


def list_drift(
    connection: Connection, node: str, *, alarmed: bool | None = None, cursor: str | None = None, limit: int = 50
) -> Page[DriftReport]:
    """The drift reports of a node, or those of them that alarm; raises InvalidInput(field="cursor")."""
    query: LiteralString = """
        SELECT node, day, alarmed, content FROM drift_reports
        WHERE node = %(node)s AND day < %(before)s AND (%(alarmed)s::boolean IS NULL OR alarmed = %(alarmed)s)
        ORDER BY day DESC LIMIT %(limit)s
    """
    return _page(connection, "drift", query, node, cursor, limit, lambda row: DriftReport(**row), alarmed=alarmed)


def _page(
    connection: Connection,
    listing: str,
    query: LiteralString,
    node: str,
    cursor: str | None,
    limit: int,
    make: Callable[[dict[str, Any]], T],
    **more: Any,
) -> Page[T]:
    before = _day(decode_cursor(listing, cursor, str)[0]) if cursor else _LAST
    check_name(node, field="node")
    nodes.load(connection, node)
    wanted = {"node": node, "before": before, "limit": limit + 1, **more}
    rows = connection.cursor(row_factory=dict_row).execute(query, wanted).fetchall()
    page = cut_page(rows, limit, lambda last: encode_cursor(listing, str(last["day"])))
    return Page(tuple(make(row) for row in page.data), page.next_cursor)


def _day(key: int | str) -> str:
    try:
        return str(date.fromisoformat(str(key)))
    except ValueError as error:
        raise InvalidInput("cursor_invalid", "This cursor does not belong to this list.", field="cursor") from error


def _last_made(connection: Connection, node: str) -> date:
    row = connection.execute("SELECT max(day) FROM entity_features WHERE node = %s", (node,)).fetchone()
    return row[0] if row and row[0] else datetime.now(UTC).date()
