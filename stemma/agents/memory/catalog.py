"""Reading what agents remember: one memory, pages, and all of an owner for taking it elsewhere.

Everybody sees their own and what is shared; whoever may operate agents sees everybody's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import UUID

from psycopg.rows import dict_row

from stemma.access.principal import Principal
from stemma.agents.memory.model import Remembered
from stemma.agents.model import Tier
from stemma.errors import NotFound
from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection

COLUMNS: Final = """
    id, agent, owner, tier, text, source, origins, created_by, created_at, expires_at, pinned_by, pinned_at
"""
LIVING: Final = "(expires_at IS NULL OR expires_at > now() OR pinned_at IS NOT NULL)"
_LIST: Final = f"""
    SELECT position, {COLUMNS} FROM agent_memories
    WHERE agent = %(agent)s AND position < %(before)s AND {LIVING}
        AND (owner = %(owner)s OR (%(shared)s AND owner IS NULL))
        AND (%(tier)s::text IS NULL OR tier = %(tier)s)
        AND (NOT %(pinned)s OR pinned_at IS NOT NULL)
    ORDER BY position DESC LIMIT %(limit)s
"""
_NEWEST: Final = 2**63 - 1
AT_ONCE: Final = 500
"""Memories that one statement reads at most."""


def get_memory(connection: Connection, principal: Principal, agent: str, memory_id: UUID) -> Remembered:
    """One memory; raises NotFound, also for another's, unless the principal may operate agents."""
    row = (
        connection.cursor(row_factory=dict_row)
        .execute(f"SELECT {COLUMNS} FROM agent_memories WHERE id = %s AND agent = %s AND {LIVING}", (memory_id, agent))
        .fetchone()
    )
    if row is None or not (row["owner"] in (None, principal.actor) or principal.may("agents:operate")):
        hint = f"`stemma memory list {agent}` shows those that there are."
        raise NotFound("memory_unknown", f"{agent} has no memory {memory_id}.", field="id", hint=hint)
    return remembered(row)


def list_memories(
    connection: Connection,
    principal: Principal,
    agent: str,
    *,
    owner: str | None = None,
    tier: Tier | None = None,
    pinned: bool = False,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Remembered]:
    """The newest first: the principal's own and shared ones, or another `owner`'s, which takes `agents:operate`.

    Raises Forbidden, InvalidInput(field="cursor").
    """
    if owner not in (None, principal.actor):
        principal.require("agents:operate")
    (before,) = decode_cursor("agent_memories", cursor, int) if cursor else (_NEWEST,)
    wanted = {
        "agent": agent,
        "owner": owner or principal.actor,
        "shared": owner is None,
        "tier": tier,
        "pinned": pinned,
        "before": before,
        "limit": limit + 1,
    }
    rows = connection.cursor(row_factory=dict_row).execute(_LIST, wanted).fetchall()
    page = cut_page(rows, limit, lambda last: encode_cursor("agent_memories", last["position"]))
    return Page(tuple(remembered(row) for row in page.data), page.next_cursor)


def each_memory(connection: Connection, principal: Principal, agent: str, owner: str) -> Iterator[Remembered]:
    """All that an agent remembers for an owner, the newest first; raises Forbidden for another's."""
    cursor: str | None = None
    while True:
        page = list_memories(connection, principal, agent, owner=owner, cursor=cursor, limit=AT_ONCE)
        yield from page.data
        if (cursor := page.next_cursor) is None:
            return


def count(connection: Connection, agent: str, owner: str | None, tier: Tier | None) -> int:
    """How many memories of an owner there are, or of one tier."""
    return _count(connection, "(%s::text IS NULL OR tier = %s)", agent, owner, tier, tier)


def count_given(connection: Connection, agent: str, owner: str | None, tier: Tier) -> int:
    """How many memories of a tier people gave an agent for an owner."""
    return _count(connection, "tier = %s AND source ->> 'kind' = 'person'", agent, owner, tier)


def count_pinned(connection: Connection, agent: str, owner: str | None) -> int:
    """How many of an owner's memories are pinned."""
    return _count(connection, "pinned_at IS NOT NULL", agent, owner)


def _count(connection: Connection, condition: str, agent: str, owner: str | None, *values: str | None) -> int:
    row = connection.execute(
        f"SELECT count(*) FROM agent_memories WHERE agent = %s AND owner IS NOT DISTINCT FROM %s AND {LIVING}"
        f" AND {condition}",
        (agent, owner, *values),
    ).fetchone()
    return int(row[0]) if row else 0


def remembered(row: Mapping[str, Any]) -> Remembered:
    """The memory that a row with `COLUMNS` is."""
    return Remembered(**{name: row[name] for name in Remembered.__slots__} | {"origins": tuple(row["origins"])})
