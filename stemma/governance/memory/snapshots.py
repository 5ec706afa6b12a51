"""What a day taught a node, in words: counted from its events, decisions and outcomes, redacted, embedded.

A snapshot tells of its own day alone. Entities are counted, never named; what members of events say is told where it
is said most often, and everything is redacted before it is kept.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

import rfc8785
from psycopg.types.json import Jsonb

from stemma.errors import InvalidInput
from stemma.governance.memory.days import Made, Product, Report, bring_up
from stemma.governance.memory.features import by_node
from stemma.governance.memory.inputs import Key, Span, day_hashes, hashed, published_nodes
from stemma.governance.memory.versions import SNAPSHOTS
from stemma.governance.nodes import Node
from stemma.knowledge.embedding import Vectors, load_model
from stemma.knowledge.onnx_query import QueryEncoder, open_query_encoder
from stemma.redaction import redact, redact_value
from stemma.store.database import Connection, Database
from stemma.store.settings import Settings

DIMENSIONS: Final = 384
_MOST: Final = 2
_THREADS: Final = 4
_MAX_SAID: Final = 100

_EVENTS: Final = """
    SELECT (occurred_at AT TIME ZONE 'UTC')::date AS day, type, count(*), count(DISTINCT entity)
    FROM events WHERE type = ANY (%(types)s) AND occurred_at >= %(since)s AND occurred_at < %(until)s
        AND (occurred_at AT TIME ZONE 'UTC')::date = ANY (%(days)s)
    GROUP BY 1, 2 ORDER BY 1, 2
"""
_SAID: Final = """
    SELECT (e.occurred_at AT TIME ZONE 'UTC')::date AS day, m.name, left(e.data ->> m.name, %(max_said)s), count(*)
    FROM events AS e JOIN jsonb_to_recordset(%(members)s) AS m (type text, name text) ON m.type = e.type
    WHERE e.occurred_at >= %(since)s AND e.occurred_at < %(until)s
        AND (e.occurred_at AT TIME ZONE 'UTC')::date = ANY (%(days)s) AND jsonb_typeof(e.data -> m.name) = 'string'
    GROUP BY 1, 2, 3
"""
_DECISIONS: Final = """
    SELECT (occurred_at AT TIME ZONE 'UTC')::date AS day, verdict, level, coalesce(effect, 'waiting'), variant, count(*)
    FROM decisions WHERE node = %(node)s AND occurred_at >= %(since)s AND occurred_at < %(until)s
        AND (occurred_at AT TIME ZONE 'UTC')::date = ANY (%(days)s)
    GROUP BY 1, 2, 3, 4, 5
"""
_REASONS: Final = """
    SELECT (d.occurred_at AT TIME ZONE 'UTC')::date AS day, r ->> 'rule', left(r ->> 'text', 1000), count(*)
    FROM decisions AS d CROSS JOIN jsonb_array_elements(d.reasons) AS r
    WHERE d.node = %(node)s AND d.occurred_at >= %(since)s AND d.occurred_at < %(until)s
        AND (d.occurred_at AT TIME ZONE 'UTC')::date = ANY (%(days)s)
    GROUP BY 1, 2, 3
"""
_OUTCOMES: Final = """
    SELECT (o.observed_at AT TIME ZONE 'UTC')::date AS day,
        CASE o.success WHEN true THEN 'success' WHEN false THEN 'failure' ELSE 'neither' END, count(*)
    FROM outcomes AS o JOIN decisions AS d ON d.id = o.decision_id
    WHERE d.node = %(node)s AND o.observed_at >= %(since)s AND o.observed_at < %(until)s
        AND (o.observed_at AT TIME ZONE 'UTC')::date = ANY (%(days)s)
    GROUP BY 1, 2
"""
_METRICS: Final = """
    SELECT (o.observed_at AT TIME ZONE 'UTC')::date AS day, m.key, count(*),
        sum(CASE jsonb_typeof(m.value) WHEN 'number' THEN m.value::numeric
                 WHEN 'boolean' THEN m.value::boolean::int END)::float8
    FROM outcomes AS o JOIN decisions AS d ON d.id = o.decision_id CROSS JOIN jsonb_each(o.metrics) AS m
    WHERE d.node = %(node)s AND o.observed_at >= %(since)s AND o.observed_at < %(until)s
        AND (o.observed_at AT TIME ZONE 'UTC')::date = ANY (%(days)s)
        AND jsonb_typeof(m.value) IN ('number', 'boolean')
    GROUP BY 1, 2
"""


@dataclass(slots=True)
class _Day:
    """What was counted of a day."""

    events: dict[str, dict[str, int]] = field(default_factory=dict)
    said: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    verdicts: Counter[str] = field(default_factory=Counter)
    levels: Counter[str] = field(default_factory=Counter)
    effects: Counter[str] = field(default_factory=Counter)
    variants: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """The same as JSON, with what was most often said and given as reason."""
        return {
            "events": self.events,
            # Values stand beside their counts, since names of members are not redacted.
            "said": {
                name: [{"value": value, "count": count} for value, count in _most(counts)]
                for name, counts in sorted(self.said.items())
            },
            "decisions": {
                "verdicts": dict(sorted(self.verdicts.items())),
                "levels": dict(sorted(self.levels.items())),
                "effects": dict(sorted(self.effects.items())),
                "variants": dict(sorted(self.variants.items())),
            },
            "reasons": [{"rule": rule, "text": text, "count": count} for (rule, text), count in _most(self.reasons)],
            "outcomes": dict(sorted(self.outcomes.items())),
            "metrics": self.metrics,
        }


def inputs(connection: Connection, known: Sequence[Node], span: Span) -> dict[Key, bytes]:
    """What the snapshot of each day is made of: what happened, and which members of events are looked at."""
    looked_at = {node.name: rfc8785.dumps(_members(node)) for node in known}
    return {
        (name, day): hashed([SNAPSHOTS.encode(), looked_at[name], digest])
        for (name, day), digest in day_hashes(connection, known, span).items()
    }


def sync_snapshots(database: Database, settings: Settings, span: Span) -> Report:
    """Bring the snapshots of a span of days up to what happened; those of another model are embedded again.

    Raises Unavailable where the model's query graph was not exported, InvalidInput for one whose vectors do not fit.
    """
    model_key = load_model(settings).key
    with database.transaction() as connection:
        known = published_nodes(connection)
        by_name = {node.name: node for node in known}
        wanted = inputs(connection, known, span)

        def make(connection: Connection, anew: Collection[Key]) -> Mapping[Key, Made]:
            encoder = _opened(settings, model_key)
            made: dict[Key, Made] = {}
            for name, days in by_node(anew).items():
                gone = [day for day in days if (name, day) not in wanted]
                connection.execute("DELETE FROM knowledge_snapshots WHERE node = %s AND day = ANY (%s)", (name, gone))
                there = [day for day in days if (name, day) in wanted]
                if there:
                    made |= _distil(connection, by_name[name], there, model_key, encoder)
            return made

        other_model = connection.execute(
            "SELECT node, day FROM knowledge_snapshots WHERE model_key <> %s AND day BETWEEN %s AND %s",
            (model_key, span.first, span.last),
        ).fetchall()
        return bring_up(connection, Product.SNAPSHOTS, span, wanted, make, also=other_model)


def _opened(settings: Settings, model_key: str) -> QueryEncoder:
    encoder = open_query_encoder(settings, model_key)
    if encoder.dimensions != DIMENSIONS:
        what = f"Snapshots have vectors of {DIMENSIONS} dimensions; the model makes {encoder.dimensions}."
        raise InvalidInput("model_dimensions", what, field="STEMMA_EMBEDDING_MODEL")
    return encoder


def _distil(
    connection: Connection, node: Node, days: list[date], model_key: str, encoder: QueryEncoder
) -> dict[Key, Made]:
    told = {
        day: (redact_value(seen.content()), redact(_in_words(node, day, seen)).text)
        for day, seen in _count(connection, node, days).items()
    }
    vectors = _encoded(encoder, sorted({text for _, text in told.values()}))
    rows, made = [], {}
    for day, (content, text) in told.items():
        digest = hashed([rfc8785.dumps(content), text.encode()])
        rows.append((node.name, day, Jsonb(content), text, digest, model_key, vectors[text]))
        made[node.name, day] = Made(hashed([digest, model_key.encode()]), 1)
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO knowledge_snapshots (node, day, content, text, sha256, model_key, embedding)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (node, day) DO UPDATE SET content = excluded.content,"
            " text = excluded.text, sha256 = excluded.sha256, model_key = excluded.model_key,"
            " embedding = excluded.embedding",
            rows,
        )
    return made


def _encoded(encoder: QueryEncoder, texts: Sequence[str]) -> dict[str, Vectors]:
    """The graph runs outside of the interpreter's lock, on one core for each text."""
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        return dict(zip(texts, threads.map(encoder.encode, texts), strict=True))


def _count(connection: Connection, node: Node, days: list[date]) -> dict[date, _Day]:
    wanted = {
        **Span(min(days), max(days)).parameters,
        "node": node.name,
        "days": days,
        "types": sorted(node.events),
        "members": Jsonb(_members(node)),
        "max_said": _MAX_SAID,
    }
    seen = {day: _Day() for day in days}
    for day, kind, count, entities in connection.execute(_EVENTS, wanted).fetchall():
        seen[day].events[kind] = {"count": count, "entities": entities}
    for day, name, said, count in connection.execute(_SAID, wanted).fetchall():
        seen[day].said[name][said] += count
    for day, verdict, level, effect, variant, count in connection.execute(_DECISIONS, wanted).fetchall():
        told = seen[day]
        for counts, value in (
            (told.verdicts, verdict),
            (told.levels, level),
            (told.effects, effect),
            (told.variants, variant),
        ):
            counts[value] += count
    for day, rule, text, count in connection.execute(_REASONS, wanted).fetchall():
        seen[day].reasons[rule, text] += count
    for day, how, count in connection.execute(_OUTCOMES, wanted).fetchall():
        seen[day].outcomes[how] += count
    for day, name, count, total in connection.execute(_METRICS, wanted).fetchall():
        seen[day].metrics[name] = {"known": count, "sum": total, "mean": total / count}
    return seen


def _members(node: Node) -> list[dict[str, str]]:
    return [{"type": kind, "name": name} for kind, deciding in sorted(node.events.items()) for name in deciding.text]


def _most(counts: Counter[Any]) -> list[tuple[Any, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST]


def _in_words(node: Node, day: date, seen: _Day) -> str:
    events = [f"{told['count']} {kind} of {told['entities']} entities" for kind, told in seen.events.items()]
    lines = [f"{node.name} on {day}: {', '.join(events) or 'no events'}."]
    said = [
        f"{name.replace('_', ' ')} {', '.join(f'{value} ({count})' for value, count in _most(counts))}"
        for name, counts in sorted(seen.said.items())
    ]
    if said:
        lines.append(f"Most often: {'; '.join(said)}.")
    if decided := seen.verdicts.total():
        verdicts, levels = (
            ", ".join(f"{count} {value}" for value, count in sorted(counts.items()))
            for counts in (seen.verdicts, seen.levels)
        )
        lines.append(f"{decided} decided: {verdicts}; {levels}.")
        lines += [f"{count} times: {text}" for (_, text), count in _most(seen.reasons)]
    if seen.outcomes:
        how = ", ".join(f"{count} {value}" for value, count in sorted(seen.outcomes.items()))
        lines.append(f"Outcomes: {how}.")
    lines += [
        f"{name}: {told['sum']:g} in {told['known']:g}, {told['mean']:.4g} each."
        for name, told in sorted(seen.metrics.items())
    ]
    return "\n".join(lines)


def unredacted(connection: Connection, span: Span) -> tuple[str, ...]:
    """What is wrong with the snapshots of some days: personal data in them, or another content than their hash says."""
    problems = []
    for node, day, content, text, digest in connection.execute(
        "SELECT node, day, content, text, sha256 FROM knowledge_snapshots WHERE day BETWEEN %s AND %s ORDER BY day",
        (span.first, span.last),
    ).fetchall():
        if redact(text).findings or redact_value(content) != content:
            problems.append(f"{node} {day}: it holds what redaction takes out")
        if hashed([rfc8785.dumps(content), text.encode()]) != bytes(digest):
            problems.append(f"{node} {day}: it does not match its hash")
    return tuple(problems[:20])
