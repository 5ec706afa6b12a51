"""What each day adds to the features of each entity: one row per node, day and entity, worked out in SQL for many days
at once.

Sums are exact decimals. `windows` adds rows up to what is asked for; how they were worked out is checked by `recount`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Final

from psycopg.types.json import Jsonb

from stemma.governance.memory.days import Made, Product, Report, bring_up
from stemma.governance.memory.inputs import Key, Span, day_hashes, hashed, published_nodes, types_of
from stemma.governance.memory.versions import FEATURES
from stemma.governance.memory.windows import event_types, feature_key
from stemma.governance.nodes import Node
from stemma.rules.language import MAX_NUMBER, MAX_TEXT
from stemma.store.database import Connection, Database

_NOTHING: Final = hashed(())

_SUM_UP: Final = """
    WITH wanted AS (
        SELECT * FROM jsonb_to_recordset(%(features)s)
            AS f (key text, aggregate text, source text, path text[], events text[])
    ), facts AS (
        SELECT 'event' AS source, id, type, entity, occurred_at AS at, data AS content
        FROM events
        WHERE entity IS NOT NULL AND type = ANY (%(types)s) AND occurred_at >= %(since)s AND occurred_at < %(until)s
        UNION ALL
        SELECT 'decision', id, event_type, entity, occurred_at, jsonb_build_object('approved', effect = 'approve')
        FROM decisions
        WHERE entity IS NOT NULL AND node = %(node)s AND occurred_at >= %(since)s AND occurred_at < %(until)s
        UNION ALL
        SELECT 'outcome', d.id, d.event_type, d.entity, o.observed_at,
            jsonb_build_object('metrics', o.metrics, 'success', o.success, 'failure', NOT o.success)
        FROM outcomes AS o JOIN decisions AS d ON d.id = o.decision_id
        WHERE d.entity IS NOT NULL AND d.node = %(node)s AND o.observed_at >= %(since)s AND o.observed_at < %(until)s
    ), dated AS (
        SELECT *, (at AT TIME ZONE 'UTC')::date AS day FROM facts
    ), found AS (
        SELECT f.key, f.aggregate, x.day, x.entity, x.at, x.id, x.content #> f.path AS value
        FROM dated AS x JOIN wanted AS f ON f.source = x.source AND x.type = ANY (f.events)
        WHERE x.day = ANY (%(days)s)
    ), typed AS (
        SELECT *, jsonb_typeof(value) AS kind,
            CASE jsonb_typeof(value) WHEN 'number' THEN value::numeric END AS number,
            CASE jsonb_typeof(value) WHEN 'boolean' THEN value::boolean END AS truth
        FROM found
    ), known AS (
        SELECT *, CASE WHEN abs(number) <= %(max_number)s THEN number END AS bounded FROM typed
    ), states AS (
        SELECT key, day, entity, CASE aggregate
            WHEN 'count' THEN jsonb_build_object('n', count(*))
            WHEN 'sum' THEN jsonb_build_object('sum', sum(bounded))
            WHEN 'mean' THEN jsonb_build_object('sum', sum(bounded), 'n', count(bounded))
            WHEN 'min' THEN jsonb_build_object('min', min(bounded))
            WHEN 'max' THEN jsonb_build_object('max', max(bounded))
            WHEN 'share' THEN jsonb_build_object('known', count(truth), 'true', count(*) FILTER (WHERE truth))
            WHEN 'distinct' THEN jsonb_build_object('values',
                jsonb_agg(DISTINCT left(encode(sha256(convert_to(value::text, 'UTF8')), 'hex'), 32))
                    FILTER (WHERE aggregate = 'distinct'))
            ELSE (array_agg(jsonb_build_object(
                    'at', to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'id', id, 'value', value
                ) ORDER BY at DESC, id DESC) FILTER (WHERE aggregate = 'last'))[1]
        END AS state
        FROM known
        WHERE CASE aggregate
            WHEN 'count' THEN true
            WHEN 'distinct' THEN kind <> 'null'
            WHEN 'share' THEN truth IS NOT NULL
            WHEN 'last' THEN coalesce(truth IS NOT NULL OR bounded IS NOT NULL
                OR kind = 'string' AND length(value #>> '{}') <= %(max_text)s, false)
            ELSE bounded IS NOT NULL
        END
        GROUP BY key, aggregate, day, entity
    )
    INSERT INTO entity_features (node, day, entity, features)
    SELECT %(node)s, day, entity, jsonb_object_agg(key, state) FROM states GROUP BY day, entity
"""
_MADE: Final = """
    SELECT day, count(*),
        sha256(string_agg(sha256(convert_to(entity || E'\\n' || features::text, 'UTF8')), ''::bytea ORDER BY entity))
    FROM entity_features WHERE node = %s AND day = ANY (%s) GROUP BY day
"""


def inputs(connection: Connection, known: Sequence[Node], span: Span) -> dict[Key, bytes]:
    """What the features of each day are made of: what happened, and how the features are defined."""
    defined = {node.name: json.dumps(wanted_of(node), sort_keys=True).encode() for node in known}
    return {
        (name, day): hashed([FEATURES.encode(), defined[name], digest])
        for (name, day), digest in day_hashes(connection, [node for node in known if node.features], span).items()
    }


def sync_features(database: Database, span: Span) -> Report:
    """Bring the features of a span of days up to what happened; days of which nothing changed are left alone."""
    with database.transaction() as connection:
        known = published_nodes(connection)
        by_name = {node.name: node for node in known}

        def make(connection: Connection, anew: Collection[Key]) -> Mapping[Key, Made]:
            made: dict[Key, Made] = {}
            for name, days in by_node(anew).items():
                connection.execute("DELETE FROM entity_features WHERE node = %s AND day = ANY (%s)", (name, days))
                if name in by_name:
                    made |= _sum_up(connection, by_name[name], days)
            return made

        return bring_up(connection, Product.FEATURES, span, inputs(connection, known, span), make)


def wanted_of(node: Node) -> list[dict[str, Any]]:
    """A node's features as they are summed up: of what, where it is found, and of which types of events."""
    wanted = []
    for name, feature in sorted(node.features.items()):
        source, *path = (feature.of or "/event").removeprefix("/").split("/")
        # What is looked into is the event's data; what is left of a decision's and an outcome's pointer is the path.
        path = [part.replace("~1", "/").replace("~0", "~") for part in (path[1:] if source == "event" else path)]
        wanted.append(
            {
                "key": feature_key(node, name),
                "aggregate": feature.aggregate,
                "source": source,
                "path": path,
                "events": event_types(node, feature),
            }
        )
    return wanted


def by_node(keys: Iterable[Key]) -> dict[str, list[date]]:
    """The days of each node."""
    days: dict[str, list[date]] = defaultdict(list)
    for name, day in keys:
        days[name].append(day)
    return days


def _sum_up(connection: Connection, node: Node, days: list[date]) -> dict[Key, Made]:
    span = Span(min(days), max(days))
    parameters = {
        **span.parameters,
        "node": node.name,
        "days": days,
        "features": Jsonb(wanted_of(node)),
        "types": sorted(types_of(node)),
        "max_number": MAX_NUMBER,
        "max_text": MAX_TEXT,
    }
    connection.execute(_SUM_UP, parameters)
    found = connection.execute(_MADE, (node.name, days)).fetchall()
    made = {(node.name, day): Made(bytes(digest), rows) for day, rows, digest in found}
    return {(node.name, day): Made(_NOTHING, 0) for day in days} | made
