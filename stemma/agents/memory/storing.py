"""Every change of what agents remember: what a call leaves, what people give, pins, and forgetting.

Whatever is stored was redacted before. The ledger is told what people do to memories, never what is in them; that a
call was remembered is no entry of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4, uuid5

from psycopg.types.json import Jsonb

from stemma.access.principal import Principal
from stemma.agents.memory.catalog import count, count_given, count_pinned, get_memory
from stemma.agents.memory.model import MAX_TEXT, MOST_GIVEN, MOST_PINNED, GivenTier, Remembered
from stemma.agents.memory.vectors import Encoder
from stemma.agents.model import Agent, Exchange, Tier
from stemma.errors import Conflict, InvalidInput
from stemma.ledger.change import Change
from stemma.ledger.entries import NewEntry
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.redaction import redact
from stemma.store.database import Connection, database_time

_ASKED: Final = 600
_ANSWERED: Final = 1_400
_SUMMARY: Final = 500
_AT_ONCE: Final = 100

_INSERT: Final = """
    INSERT INTO agent_memories (id, agent, owner, tier, text, source, origins, created_by, created_at, expires_at,
        pinned_by, pinned_at, model_key, embedding)
    VALUES (%(id)s, %(agent)s, %(owner)s, %(tier)s, %(text)s, %(source)s, %(origins)s, %(created_by)s, %(created_at)s,
        %(expires_at)s, %(pinned_by)s, %(pinned_at)s, %(model_key)s, %(embedding)s::vector)
    ON CONFLICT (id) DO NOTHING
"""
_KEEP_TURNS: Final = """
    DELETE FROM agent_memories WHERE agent = %(agent)s AND owner = %(owner)s AND tier = 'short_term'
        AND pinned_at IS NULL AND position NOT IN (
            SELECT position FROM agent_memories WHERE agent = %(agent)s AND owner = %(owner)s AND tier = 'short_term'
            ORDER BY position DESC LIMIT %(turns)s)
"""
_EXPIRE: Final = """
    DELETE FROM agent_memories WHERE id IN (
        SELECT id FROM agent_memories WHERE expires_at < now() AND pinned_at IS NULL LIMIT %s FOR UPDATE SKIP LOCKED)
"""
# What was distilled from something goes with it, and is not distilled again out of what is left of its day.
_FORGET: Final = """
    WITH gone AS (
        DELETE FROM agent_memories AS m USING (
            SELECT id, agent, owner FROM agent_memories
            WHERE agent = %(agent)s AND owner IS NOT DISTINCT FROM %(owner)s
                AND (%(id)s::uuid IS NULL OR id = %(id)s) AND (%(tier)s::text IS NULL OR tier = %(tier)s)
        ) AS named
        WHERE m.id = named.id
            OR (m.agent = named.agent AND m.owner IS NOT DISTINCT FROM named.owner AND m.origins @> ARRAY[named.id])
        RETURNING m.tier, coalesce(m.day, (m.created_at AT TIME ZONE 'UTC')::date) AS day
    )
    UPDATE agent_memory_days SET closed = true WHERE agent = %(agent)s AND owner = %(owner)s
        AND day IN (SELECT day FROM gone WHERE tier IN ('episodic', 'semantic'))
"""


@dataclass(frozen=True, slots=True)
class Given:
    """What somebody gives an agent to remember; `shared` with all who call it, for `days` or until it is forgotten."""

    text: str
    tier: GivenTier = "semantic"
    shared: bool = False
    pinned: bool = False
    days: int | None = None


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was forgotten: whose, of which tier where not of all, and how many; what they led to is not counted."""

    agent: str
    owner: str | None
    tier: Tier | None
    memories: int


def remember_call(
    connection: Connection, agent: Agent, principal: Principal, exchange: Exchange, at: datetime, encoder: Encoder
) -> None:
    """Keep what a call leaves with its agent, for its caller alone: its words and a summary, by the agent's file.

    The connection's transaction decides; the same call again changes nothing.
    """
    profile, owner = agent.memory, principal.actor
    asked, answered = redact(exchange.asked).text, redact(exchange.answered).text
    source = {"kind": "call", "job": str(exchange.job_id), "request": exchange.request_id}
    # Whole days, so that none is distilled anew from a part of its calls.
    until = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=profile.days + 1)
    turn = f"Asked: {_cut(asked, _ASKED)}\nAnswered: {_cut(answered, _ANSWERED)}"
    texts: dict[Tier, str] = {
        "short_term": turn if profile.turns else "",
        "episodic": _summary(asked, answered, len(exchange.citations)),
    }
    for tier, text in texts.items():
        if tier in profile.tiers and text:
            made = uuid5(exchange.job_id, tier)
            memory = Remembered(made, agent.name, owner, tier, text, source, (), owner, at, until, None, None)
            connection.execute(_INSERT, _row(memory, encoder))
    connection.execute(_KEEP_TURNS, {"agent": agent.name, "owner": owner, "turns": profile.turns})
    connection.execute(_EXPIRE, (_AT_ONCE,))


def give(
    connection: Connection, principal: Principal, agent: str, given: Given, encoder: Encoder
) -> Change[Remembered]:
    """Have an agent remember something, for the principal's own calls or, shared, for everybody's.

    Raises Forbidden; InvalidInput for text that is blank or too long, Conflict where it remembers too much already.
    """
    principal.require("agents:remember")
    if given.shared:
        principal.require("agents:operate")
    owner = None if given.shared else principal.actor
    text = _checked(given.text)
    if count_given(connection, agent, owner, given.tier) >= MOST_GIVEN:
        what = f"{agent} was given {MOST_GIVEN:,} memories of this tier already."
        raise Conflict("memory_full", what, hint="Have it forget some of them.")
    now = database_time(connection)
    if given.pinned:
        _require_room(connection, agent, owner)
    memory = Remembered(
        uuid4(),
        agent,
        owner,
        given.tier,
        text,
        {"kind": "person"},
        (),
        principal.actor,
        now,
        None if given.days is None else now + timedelta(days=given.days),
        principal.actor if given.pinned else None,
        now if given.pinned else None,
    )
    insert = Statement(_INSERT, _row(memory, encoder), rows=1)
    meta = {"tier": memory.tier, "shared": given.shared, "pinned": given.pinned, "days": given.days}
    return Change(_audited(principal, "given", memory, meta), (insert,), lambda _: memory)


def pin(
    connection: Connection, principal: Principal, agent: str, memory_id: UUID, *, pinned: bool
) -> Change[Remembered]:
    """Say that a memory stays and is recalled first, or that it need not any more.

    Raises NotFound for one that is not there or another's, Forbidden, Conflict for one pin too many.
    """
    principal.require("agents:remember")
    memory = get_memory(connection, principal, agent, memory_id)
    require_own(principal, memory)
    if pinned and not memory.pinned:
        _require_room(connection, agent, memory.owner)
    now = database_time(connection) if pinned else None
    by = principal.actor if pinned else None
    missing = Conflict("memory_forgotten", "It was forgotten meanwhile.", field="id")
    update = Statement(
        "UPDATE agent_memories SET pinned_by = %s, pinned_at = %s WHERE id = %s", (by, now, memory.id), 1, missing
    )

    def read(_: object) -> Remembered:
        return Remembered(**{**_fields(memory), "pinned_by": by, "pinned_at": now})

    return Change(
        _audited(principal, "pinned" if pinned else "unpinned", memory, {"tier": memory.tier}), (update,), read
    )


def forget(connection: Connection, principal: Principal, agent: str, memory_id: UUID) -> Change[Forgotten]:
    """Have an agent forget a memory, with all that was distilled from it.

    Raises NotFound for one that is not there or another's, Forbidden for a shared one without `agents:operate`.
    """
    memory = get_memory(connection, principal, agent, memory_id)
    require_own(principal, memory)
    wanted = {"agent": agent, "owner": memory.owner, "id": memory.id, "tier": None}
    entries = _audited(principal, "forgotten", memory, {"tier": memory.tier})
    forgotten = Forgotten(agent, memory.owner, memory.tier, 1)
    return Change(entries, (Statement(_FORGET, wanted),), lambda _: forgotten)


def forget_all(
    connection: Connection, principal: Principal, agent: str, *, owner: str | None, tier: Tier | None = None
) -> Change[Forgotten]:
    """Have an agent forget all of an owner, None for what is shared, or one tier of it; raises Forbidden."""
    if owner != principal.actor:
        principal.require("agents:operate")
    wanted = {"agent": agent, "owner": owner, "id": None, "tier": tier}
    forgotten = Forgotten(agent, owner, tier, count(connection, agent, owner, tier))
    meta = {"owner": owner, "tier": tier, "memories": forgotten.memories}
    entries = audited(principal, "memory.forgotten", resource=f"agent:{agent}", meta=meta, critical=True)
    return Change(entries, (Statement(_FORGET, wanted),), lambda _: forgotten)


def expire(connection: Connection) -> int:
    """Delete what has expired; returns how much that was."""
    return connection.execute(_EXPIRE, (None,)).rowcount


def require_own(principal: Principal, memory: Remembered) -> None:
    """Raises Forbidden for a memory that is shared, or another's, unless the principal may operate agents."""
    if memory.owner != principal.actor:
        principal.require("agents:operate")


def _require_room(connection: Connection, agent: str, owner: str | None) -> None:
    if count_pinned(connection, agent, owner) >= MOST_PINNED:
        what = f"{MOST_PINNED} memories are pinned already."
        raise Conflict("too_many_pins", what, hint="Unpin one of them first.")


def _checked(text: str) -> str:
    if not text.strip():
        raise InvalidInput("memory_empty", "There is nothing to remember.", field="text")
    if len(text) > MAX_TEXT:
        raise InvalidInput("memory_too_long", f"It has more than {MAX_TEXT:,} characters.", field="text")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        what = "It holds U+0000 or half a surrogate pair, which is no text."
        raise InvalidInput("text_invalid", what, field="text", hint="Remove that character.")
    return redact(text.strip()).text


def _summary(asked: str, answered: str, citations: int) -> str:
    """A call in a few lines: what was asked, how the answer began, and on how much it rested."""
    rested = f"\nIt cited {citations} passage{'' if citations == 1 else 's'}." if citations else ""
    return f"{_cut(asked, _SUMMARY)}\n{_cut(answered, _SUMMARY)}{rested}"


def _cut(text: str, length: int) -> str:
    """At most so much of a text, ending where a sentence or at least a word does."""
    text = text.strip().replace("\0", "\ufffd").encode(errors="replace").decode()
    if len(text) <= length:
        return text
    cut = text[:length]
    sentence = max(cut.rfind(mark) for mark in (". ", "! ", "? ", ".\n"))
    return cut[: sentence + 1] if sentence > length // 2 else f"{cut.rpartition(' ')[0] or cut} …"


def _row(memory: Remembered, encoder: Encoder) -> dict[str, Any]:
    # What is recalled for being the last needs no vector.
    vector = None if memory.tier == "short_term" else encoder.encode(memory.text)
    return {
        **_fields(memory),
        "source": Jsonb(dict(memory.source)),
        "origins": list(memory.origins),
        "model_key": None if vector is None else encoder.model_key,
        "embedding": None if vector is None else str(vector.tolist()),
    }


def _fields(memory: Remembered) -> dict[str, Any]:
    return {name: getattr(memory, name) for name in Remembered.__slots__}


def _audited(principal: Principal, what: str, memory: Remembered, meta: dict[str, Any]) -> tuple[NewEntry, ...]:
    named = {"memory": str(memory.id), "owner": memory.owner, **meta}
    return audited(
        principal, f"memory.{what}", resource=f"agent:{memory.agent}", meta=named, critical=what == "forgotten"
    )
