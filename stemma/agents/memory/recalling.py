"""What a call is reminded of: pins first, then what is near to what was asked, then the last turns; within a budget.

Everything is the caller's own or shared. Nearness is the cosine of vectors, worked out for each of the owner's memories
and not by an index: a graph over everybody's misses most of one owner's, and an exact answer takes microseconds for
each. What could grow without end, the summaries of calls, is looked at as far back as `MOST_EPISODES`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from psycopg.rows import dict_row

from stemma.access.principal import Principal
from stemma.agents.memory.catalog import COLUMNS, LIVING, remembered
from stemma.agents.memory.model import MOST_PINNED, Remembered
from stemma.agents.memory.vectors import Encoder
from stemma.agents.model import Agent, Recollection
from stemma.store.database import Connection

LEAST_NEARNESS: Final = 0.25
"""Cosine below which a memory has nothing to do with a question."""
MOST_EPISODES: Final = 10_000
"""Summaries of calls, the newest of one owner, among which the near ones are looked for; of facts and passages, all."""
_CHARACTERS_PER_TOKEN: Final = 4
_PER_MEMORY: Final = 8
"""Tokens that a memory's source and frame take."""

_OWN: Final = f"agent = %(agent)s AND (owner = %(owner)s OR owner IS NULL) AND tier = ANY (%(tiers)s) AND {LIVING}"
_PINNED: Final = (
    f"SELECT {COLUMNS} FROM agent_memories WHERE {_OWN} AND pinned_at IS NOT NULL ORDER BY position LIMIT %(limit)s"
)
_LAST: Final = f"""
    SELECT {COLUMNS} FROM agent_memories WHERE {_OWN} AND tier = 'short_term' AND pinned_at IS NULL
    ORDER BY position DESC LIMIT %(limit)s
"""
_ANY_NEAR: Final = f"SELECT EXISTS (SELECT FROM agent_memories WHERE {_OWN} AND embedding IS NOT NULL)"
_EPISODES: Final = "agent = %(agent)s AND owner = %(owner)s AND tier = 'episodic'"
_SEEN: Final = f"""
    SELECT {COLUMNS}, position, embedding <=> %(vector)s::vector AS distance FROM agent_memories
    WHERE model_key = %(model_key)s AND pinned_at IS NULL
"""
_NEAR: Final = f"""
    SELECT {COLUMNS} FROM (
        {_SEEN} AND {_OWN} AND tier IN ('semantic', 'vector')
        UNION ALL
        {_SEEN} AND tier = ANY (%(tiers)s) AND {LIVING} AND position = ANY (ARRAY(
            SELECT position FROM agent_memories WHERE {_EPISODES} ORDER BY position DESC LIMIT %(episodes)s
        ))
        OFFSET 0
    ) AS known
    WHERE distance <= %(farthest)s ORDER BY distance, position DESC LIMIT %(limit)s
"""


def recall(
    connection: Connection, agent: Agent, principal: Principal, text: str, budget: int, encoder: Encoder
) -> list[Recollection]:
    """What helps to answer `text`, within `budget` tokens: pins and facts first, then turns, the oldest of each first.

    What is near takes at most half of what pins leave, so that there is room for the last turns.
    """
    wanted: dict[str, Any] = {"agent": agent.name, "owner": principal.actor, "tiers": list(agent.memory.tiers)}
    pins, budget = _fitting(_rows(connection, _PINNED, wanted, MOST_PINNED * 2), budget)
    near, unused = _fitting(_near(connection, wanted, text, agent.memory.top, encoder), budget // 2, besides=pins)
    turns, _ = _fitting(_rows(connection, _LAST, wanted, agent.memory.turns), budget - budget // 2 + unused)
    return [Recollection(one.id, one.tier, one.text, one.told_source) for one in (*pins, *near, *reversed(turns))]


def _near(
    connection: Connection, wanted: dict[str, Any], text: str, count: int, encoder: Encoder
) -> Iterable[Remembered]:
    # Whoever has nothing that could be near is not made to wait for the model.
    known = connection.execute(_ANY_NEAR, wanted).fetchone()
    vector = encoder.encode(text) if count and known == (True,) else None
    if vector is None:
        return ()
    parameters = {
        **wanted,
        "vector": str(vector.tolist()),
        "model_key": encoder.model_key,
        "episodes": MOST_EPISODES,
        "farthest": 1 - LEAST_NEARNESS,
    }
    return _rows(connection, _NEAR, parameters, count)


def _rows(connection: Connection, query: str, parameters: dict[str, Any], limit: int) -> list[Remembered]:
    rows = connection.cursor(row_factory=dict_row).execute(query, {**parameters, "limit": limit})
    return [remembered(row) for row in rows]


def _fitting(
    found: Iterable[Remembered], budget: int, *, besides: Iterable[Remembered] = ()
) -> tuple[list[Remembered], int]:
    """Those that fit, each text once, and what is left of the budget."""
    kept: list[Remembered] = []
    seen = {one.text for one in besides}
    for one in found:
        cost = len(one.text) // _CHARACTERS_PER_TOKEN + _PER_MEMORY
        if cost <= budget and one.text not in seen:
            kept.append(one)
            seen.add(one.text)
            budget -= cost
    return kept, budget
