"""Making facts of what was talked about: a day's episodes of one owner come to a few sentences that stand in them.

Nothing is written anew: a fact is a sentence of an episode, named with the episodes that say the same. No model is
asked, so that the same episodes always come to the same facts, and none obeys what it reads there.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final
from uuid import UUID, uuid5

from psycopg.types.json import Jsonb

from stemma.agents.memory.storing import expire
from stemma.agents.memory.vectors import Encoder
from stemma.agents.memory.versions import DISTILLING
from stemma.errors import Unavailable
from stemma.knowledge.embedding import Vectors
from stemma.store.database import Connection, Database

MOST_FACTS: Final = 8
"""Facts of one day and owner."""
SAME: Final = 0.8
"""Cosine from which two sentences count as saying the same."""
_MOST_SENTENCES: Final = 300
_SHORTEST, _LONGEST = 20, 400
_LOCK: Final = 0x61676D65
_FACTS: Final = UUID("6f2ad2f0-52b1-4b8c-8f6e-0d1f3f7c9a51")
_SENTENCE: Final = re.compile(r"(?<=[.!?…])\s+|\n+")

_EPISODES: Final = """
    SELECT agent, owner, (created_at AT TIME ZONE 'UTC')::date, id, text FROM agent_memories
    WHERE tier = 'episodic' AND owner IS NOT NULL AND created_at >= %(since)s AND created_at < %(until)s
    ORDER BY agent, owner, created_at, id
"""
_INSERT: Final = """
    INSERT INTO agent_memories (id, agent, owner, tier, text, source, origins, day, created_by, created_at, model_key,
        embedding)
    VALUES (%(id)s, %(agent)s, %(owner)s, 'semantic', %(text)s, %(source)s, %(origins)s, %(day)s, 'studio',
        clock_timestamp(), %(model_key)s, %(embedding)s::vector)
    ON CONFLICT (id) DO UPDATE SET origins = excluded.origins, source = excluded.source
"""
_LACKING: Final = """
    SELECT id, text FROM agent_memories
    WHERE tier <> 'short_term' AND model_key IS DISTINCT FROM %s ORDER BY position DESC LIMIT 2000
"""

Key = tuple[str, str, date]
"""An agent, an owner, and a day."""


@dataclass(frozen=True, slots=True)
class Episode:
    """The summary of a call."""

    id: UUID
    text: str


@dataclass(frozen=True, slots=True)
class Fact:
    """A sentence, and the episodes that say it."""

    text: str
    origins: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Day:
    """What a day of all agents and owners came to; `made` counts those that were distilled anew."""

    version: str
    facts: int
    made: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a run over some days did: each day on which there is anything, what expired, and what was embedded anew."""

    days: Mapping[date, Day]
    expired: int
    embedded: int

    @property
    def facts(self) -> int:
        """Facts of all days."""
        return sum(day.facts for day in self.days.values())


def sync_facts(database: Database, encoder: Encoder, first: date, last: date) -> Report:
    """Distil the days from `first` to `last` of which the episodes changed; the others are left alone.

    Raises Unavailable where the model's query graph was not exported.
    """
    with database.transaction() as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        expired, embedded = expire(connection), _embed_lacking(connection, encoder)
        made: set[Key] = set()
        for key, episodes in _stale(connection, first, last).items():
            _replace(connection, key, episodes, distil(episodes, [_vectors(encoder, one) for one in episodes]), encoder)
            made.add(key)
        return Report(_days(connection, first, last, made), expired, embedded)


def distil(episodes: Sequence[Episode], vectors: Sequence[Mapping[str, Vectors]]) -> list[Fact]:
    """The sentences that most episodes say, and among those the ones nearest to all that was said; a pure function.

    `vectors` has, for each episode, the vector of each of its `sentences`.
    """
    said = [
        (text, episode.id, vector) for episode, of in zip(episodes, vectors, strict=True) for text, vector in of.items()
    ]
    said = said[:_MOST_SENTENCES]
    groups: list[list[tuple[str, UUID, Vectors]]] = []
    for one in said:
        near = next((group for group in groups if float(group[0][2] @ one[2]) >= SAME), None)
        if near is None:
            groups.append([one])
        else:
            near.append(one)

    def weight(group: list[tuple[str, UUID, Vectors]]) -> tuple[int, float, str]:
        centrality = sum(float(group[0][2] @ vector) for _, _, vector in said) / len(said)
        return -len({origin for _, origin, _ in group}), -round(centrality, 4), group[0][0]

    best = sorted(groups, key=weight)[:MOST_FACTS]
    return [Fact(group[0][0], tuple(dict.fromkeys(origin for _, origin, _ in group))) for group in best]


def sentences(text: str) -> list[str]:
    """The statements in a text: no questions, nothing too short to say anything or cut off."""
    found = (part.strip() for part in _SENTENCE.split(text))
    return list(dict.fromkeys(one for one in found if _SHORTEST <= len(one) <= _LONGEST and one[-1] in ".!"))


def ungrounded(connection: Connection) -> tuple[str, ...]:
    """What is wrong with the facts that were distilled: one without origins, of another's, or that nobody said."""
    rows = connection.execute(
        """
        SELECT f.id, f.agent, f.day, cardinality(f.origins),
            EXISTS (SELECT FROM agent_memories AS e WHERE e.id = ANY (f.origins)
                AND (e.owner IS DISTINCT FROM f.owner OR e.agent <> f.agent)),
            (SELECT count(*) = cardinality(f.origins) AND NOT bool_or(position(f.text IN e.text) > 0)
                FROM agent_memories AS e WHERE e.id = ANY (f.origins))
        FROM agent_memories AS f WHERE f.day IS NOT NULL
        """
    ).fetchall()
    problems = []
    for fact, agent, day, origins, foreign, unsaid in rows:
        if not origins:
            problems.append(f"{agent} {day}: fact {fact} names no episode")
        elif foreign:
            problems.append(f"{agent} {day}: fact {fact} comes from another's episode")
        elif unsaid:
            problems.append(f"{agent} {day}: fact {fact} stands in none of its episodes")
    return tuple(problems[:20])


def _stale(connection: Connection, first: date, last: date) -> dict[Key, list[Episode]]:
    """The days whose episodes are not those that were distilled, without those of which something was forgotten."""
    since = datetime.combine(first, time(), UTC)
    until = datetime.combine(last, time(), UTC) + timedelta(days=1)
    found: dict[Key, list[Episode]] = defaultdict(list)
    for agent, owner, day, episode, text in connection.execute(_EPISODES, {"since": since, "until": until}).fetchall():
        found[agent, owner, day].append(Episode(episode, text))
    kept = {
        (agent, owner, day): (bytes(digest), closed)
        for agent, owner, day, digest, closed in connection.execute(
            "SELECT agent, owner, day, input_sha256, closed FROM agent_memory_days WHERE day BETWEEN %s AND %s",
            (first, last),
        ).fetchall()
    }
    unmade: tuple[bytes | None, bool] = (None, False)
    return {
        key: episodes
        for key, episodes in found.items()
        if not kept.get(key, unmade)[1] and kept.get(key, unmade)[0] != _input(episodes)
    }


def _input(episodes: Iterable[Episode]) -> bytes:
    return _hashed((DISTILLING, *(f"{one.id} {one.text}" for one in episodes)))


def _hashed(parts: Iterable[str]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part.encode()).digest())
    return digest.digest()


def _vectors(encoder: Encoder, episode: Episode) -> dict[str, Vectors]:
    return {text: _encoded(encoder, text) for text in sentences(episode.text)}


def _encoded(encoder: Encoder, text: str) -> Vectors:
    vector = encoder.encode(text)
    if vector is None:
        hint = "Run `stemma materialize knowledge/search_index`."
        raise Unavailable("query_encoder_unavailable", "The query encoder of the model is not there.", hint=hint)
    return vector


def _replace(
    connection: Connection, key: Key, episodes: Sequence[Episode], facts: Sequence[Fact], encoder: Encoder
) -> None:
    agent, owner, day = key
    rows: list[dict[str, Any]] = [
        {
            "id": uuid5(_FACTS, f"{agent}\n{owner}\n{day}\n{fact.text}"),
            "agent": agent,
            "owner": owner,
            "text": fact.text,
            "source": Jsonb({"kind": "day", "day": day.isoformat(), "version": DISTILLING}),
            "origins": list(fact.origins),
            "day": day,
            "model_key": encoder.model_key,
            "embedding": str(_encoded(encoder, fact.text).tolist()),
        }
        for fact in facts
    ]
    connection.execute(
        "DELETE FROM agent_memories WHERE agent = %s AND owner = %s AND day = %s AND pinned_at IS NULL"
        " AND NOT id = ANY (%s)",
        (agent, owner, day, [row["id"] for row in rows]),
    )
    with connection.cursor() as cursor:
        cursor.executemany(_INSERT, rows)
    content = _hashed(f"{fact.text} {sorted(map(str, fact.origins))}" for fact in facts)
    connection.execute(
        "INSERT INTO agent_memory_days (agent, owner, day, input_sha256, content_sha256, facts)"
        " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (agent, owner, day) DO UPDATE SET"
        " input_sha256 = excluded.input_sha256, content_sha256 = excluded.content_sha256, facts = excluded.facts,"
        " made_at = now()",
        (*key, _input(episodes), content, len(facts)),
    )


def _embed_lacking(connection: Connection, encoder: Encoder) -> int:
    """Make the vectors that the model in force has not made yet."""
    rows = [
        (encoder.model_key, str(_encoded(encoder, text).tolist()), memory)
        for memory, text in connection.execute(_LACKING, (encoder.model_key,)).fetchall()
    ]
    with connection.cursor() as cursor:
        cursor.executemany("UPDATE agent_memories SET model_key = %s, embedding = %s::vector WHERE id = %s", rows)
    return len(rows)


def _days(connection: Connection, first: date, last: date, made: set[Key]) -> dict[date, Day]:
    parts: dict[date, list[str]] = defaultdict(list)
    facts: dict[date, int] = defaultdict(int)
    for agent, owner, day, digest, count in connection.execute(
        "SELECT agent, owner, day, content_sha256, facts FROM agent_memory_days WHERE day BETWEEN %s AND %s"
        " ORDER BY day, agent, owner",
        (first, last),
    ).fetchall():
        parts[day].append(f"{agent} {owner} {bytes(digest).hex()}")
        facts[day] += count
    anew = [day for _, _, day in made]
    return {day: Day(_hashed(parts[day]).hex(), facts[day], anew.count(day)) for day in sorted(parts)}
