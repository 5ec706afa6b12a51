"""The vectors by which similar cases are found, filled in where a decision has none of the model in force.

Whoever decides keeps the vector with the decision, so that usually nothing is missing: this is for decisions that were
made without an encoder, and for another model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from stemma.errors import Unavailable
from stemma.governance.decisions.similar import Vector, Vectors, text_of
from stemma.governance.memory.days import Made, Product, Report, bring_up
from stemma.governance.memory.features import by_node
from stemma.governance.memory.inputs import Key, Span, hashed, published_nodes
from stemma.governance.nodes import Node
from stemma.store.database import Connection, Database
from stemma.store.settings import Settings

_DECIDED: Final = """
    SELECT node, (occurred_at AT TIME ZONE 'UTC')::date, sha256(string_agg(uuid_send(id), ''::bytea ORDER BY id))
    FROM decisions WHERE occurred_at >= %(since)s AND occurred_at < %(until)s GROUP BY 1, 2
"""
_LACKING: Final = """
    SELECT d.id, d.node, (d.occurred_at AT TIME ZONE 'UTC')::date, d.event_type, d.occurred_at, e.data
    FROM decisions AS d JOIN events AS e ON e.id = d.event_id
    WHERE d.occurred_at >= %(since)s AND d.occurred_at < %(until)s AND NOT EXISTS (
        SELECT FROM decision_embeddings WHERE decision_id = d.id AND model_key = %(model_key)s)
    ORDER BY d.occurred_at, d.id
"""
_FILL: Final = """
    INSERT INTO decision_embeddings (decision_id, model_key, node, text_sha256, embedding, occurred_at)
    VALUES (%s, %s, %s, %s, %s::vector, %s) ON CONFLICT DO NOTHING
"""
_MADE: Final = """
    SELECT node, (occurred_at AT TIME ZONE 'UTC')::date, count(*),
        sha256(string_agg(uuid_send(decision_id) || text_sha256 || sha256(vector_send(embedding)), ''::bytea
            ORDER BY decision_id))
    FROM decision_embeddings
    WHERE occurred_at >= %(since)s AND occurred_at < %(until)s AND model_key = %(model_key)s GROUP BY 1, 2
"""


def sync_embeddings(database: Database, settings: Settings, span: Span) -> Report:
    """Give each decision of a span of days a vector of the model in force; those of other models are removed.

    Raises Unavailable where the model's query graph was not exported.
    """
    vectors = Vectors(settings)
    with database.transaction() as connection:
        known = {node.name: node for node in published_nodes(connection)}
        parameters = {**span.parameters, "model_key": vectors.model_key}
        wanted = inputs(connection, list(known.values()), span, vectors.model_key)
        lacking = _lacking(connection, known, parameters)

        def make(connection: Connection, anew: Collection[Key]) -> Mapping[Key, Made]:
            rows = []
            for decision, node, _, kind, occurred_at, data in lacking:
                vector = _vector(connection, vectors, text_of(known[node], kind, data))
                rows.append((decision, vector.model_key, node, vector.text_sha256, vector.literal, occurred_at))
            with connection.cursor() as cursor:
                cursor.executemany(_FILL, rows)
            for name, days in by_node(anew).items():
                connection.execute(
                    "DELETE FROM decision_embeddings WHERE node = %s AND model_key <> %s"
                    " AND (occurred_at AT TIME ZONE 'UTC')::date = ANY (%s)",
                    (name, vectors.model_key, days),
                )
            found = connection.execute(_MADE, parameters).fetchall()
            made = {(node, day): Made(bytes(digest), rows) for node, day, rows, digest in found}
            return {key: made.get(key, Made(hashed(()), 0)) for key in anew}

        also = {(node, day) for _, node, day, *_ in lacking}
        return bring_up(connection, Product.EMBEDDINGS, span, wanted, make, also=also)


def inputs(connection: Connection, known: Sequence[Node], span: Span, model_key: str) -> dict[Key, bytes]:
    """What the vectors of each day are made of: its decisions, and the model."""
    names = {node.name for node in known}
    return {
        (name, day): hashed([model_key.encode(), digest])
        for name, day, digest in connection.execute(_DECIDED, span.parameters).fetchall()
        if name in names
    }


def _lacking(connection: Connection, known: Mapping[str, Node], parameters: Mapping[str, Any]) -> list[Any]:
    """Decisions without a vector of the model, about events that their node still decides."""
    rows = connection.execute(_LACKING, parameters).fetchall()
    return [row for row in rows if row[1] in known and row[3] in known[row[1]].events]


def _vector(connection: Connection, vectors: Vectors, text: str) -> Vector:
    (vector,) = vectors.of(connection, [text])
    if vector is None:
        hint = "Run `stemma materialize knowledge/search_index`."
        raise Unavailable("query_encoder_unavailable", "The query encoder of the model is not there.", hint=hint)
    return vector
