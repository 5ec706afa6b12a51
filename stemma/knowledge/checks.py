"""Invariants of the active index generation, each a function from a connection to a verdict.

They look at what is served now, so they also find what went wrong after a build. What a document's own chunks must
satisfy is checked in `chunks`; what a generation must satisfy before it is served, in `generations`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from psycopg import sql

from stemma.errors import Unavailable
from stemma.knowledge.generations import CURRENT_CHUNKS, LEAST_RECALL, RECALL_SAMPLE, Generation, active, hnsw_recall
from stemma.store.database import Connection

_NORM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A verdict, one sentence that says why, and the figures behind it."""

    passed: bool
    description: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What became of the documents of one source, counted at each step."""

    source: str
    documents: int
    documents_without_chunks: int
    chunks: int
    distinct_texts: int
    embedded_texts: int
    vectors: int

    @property
    def balanced(self) -> bool:
        """Every chunk has a vector and every distinct text an embedding."""
        return self.chunks == self.vectors and self.distinct_texts == self.embedded_texts


Check = Callable[[Connection], CheckResult]


def vectors_match_chunks(connection: Connection) -> CheckResult:
    """Each current chunk has exactly one visible vector, made from its own text, and there is no other vector."""
    generation = _served(connection)
    missing = _count(
        connection,
        generation,
        f"""
        SELECT count(*) FROM {CURRENT_CHUNKS} AND NOT EXISTS (
            SELECT FROM {{table}} v WHERE v.chunk_id = c.id AND v.text_sha256 = c.embed_sha256 AND {{visible}})
    """,
    )
    orphans = _count(
        connection,
        generation,
        """
        SELECT count(*) FROM {table} v WHERE {visible} AND NOT EXISTS (
            SELECT FROM chunks c JOIN documents d ON d.id = c.document_id
            WHERE c.id = v.chunk_id AND NOT c.retired AND NOT d.removed)
    """,
    )
    doubles = _count(
        connection,
        generation,
        """
        SELECT count(*) FROM (SELECT FROM {table} WHERE {visible} GROUP BY chunk_id HAVING count(*) > 1) d
    """,
    )
    return CheckResult(
        passed=not missing and not orphans and not doubles,
        description=f"{missing:,} chunks without a vector, {orphans:,} vectors without a chunk, {doubles:,} doubled.",
        metadata={"missing": missing, "orphans": orphans, "doubled": doubles, "vectors": generation.chunks},
    )


def vectors_have_dimensions(connection: Connection) -> CheckResult:
    """Every visible vector has as many dimensions as its model."""
    generation = _served(connection)
    wrong = _count(
        connection,
        generation,
        "SELECT count(*) FROM {table} WHERE {visible} AND vector_dims(embedding) <> {dimensions}",
    )
    return CheckResult(
        passed=wrong == 0,
        description=f"{wrong:,} of {generation.chunks:,} vectors do not have {generation.dimensions} dimensions.",
        metadata={"wrong": wrong, "dimensions": generation.dimensions, "model": generation.model_name},
    )


def vectors_have_unit_length(connection: Connection) -> CheckResult:
    """Every visible vector has length 1, so that cosine and inner product agree."""
    generation = _served(connection)
    wrong = _count(
        connection,
        generation,
        "SELECT count(*) FROM {table} WHERE {visible} AND NOT abs(vector_norm(embedding) - 1) < {tolerance}",
    )
    return CheckResult(
        passed=wrong == 0,
        description=f"{wrong:,} of {generation.chunks:,} vectors are not of unit length.",
        metadata={"wrong": wrong, "tolerance": _NORM_TOLERANCE},
    )


def hnsw_finds_neighbours(connection: Connection) -> CheckResult:
    """Recall@10 of the vector index against an exact scan, stored vectors being the queries."""
    generation = _served(connection)
    with connection.transaction():
        recall = hnsw_recall(connection, generation)
    described = (
        "The index is empty." if recall is None else f"Recall@10 is {recall:.1%}; the bar is {LEAST_RECALL:.0%}."
    )
    return CheckResult(
        passed=recall is None or recall >= LEAST_RECALL,
        description=described,
        metadata={"recall_at_10": recall, "bar": LEAST_RECALL, "sample": min(RECALL_SAMPLE, generation.chunks)},
    )


def rows_reconcile(connection: Connection) -> CheckResult:
    """Documents, chunks, texts and vectors add up for each source."""
    ledger = row_ledger(connection)
    unbalanced = [row.source for row in ledger if not row.balanced]
    described = f"The counts of {', '.join(unbalanced)} do not add up." if unbalanced else "All counts add up."
    return CheckResult(
        passed=not unbalanced, description=described, metadata={"ledger": [asdict(row) for row in ledger]}
    )


def row_ledger(connection: Connection) -> tuple[LedgerRow, ...]:
    """One row per source that has documents or vectors, by name. Raises Unavailable before the first generation."""
    generation = _served(connection)
    rows = connection.execute(
        sql.SQL("""
            WITH current_chunks AS (
                SELECT d.source, d.id AS document_id, c.id, c.embed_sha256 FROM chunks c
                JOIN documents d ON d.id = c.document_id WHERE NOT c.retired AND NOT d.removed
            ), chunked AS (
                SELECT source, count(*) AS chunks, count(DISTINCT embed_sha256) AS texts,
                    count(DISTINCT embed_sha256) FILTER (WHERE EXISTS (
                        SELECT FROM embedding_cache e WHERE e.model_key = {key} AND e.text_sha256 = embed_sha256
                    )) AS embedded
                FROM current_chunks GROUP BY source
            ), read AS (
                SELECT source, count(*) AS documents, count(*) FILTER (WHERE NOT EXISTS (
                    SELECT FROM current_chunks c WHERE c.document_id = d.id)) AS without
                FROM documents d WHERE NOT removed GROUP BY source
            ), served AS (SELECT source, count(*) AS vectors FROM {table} WHERE {visible} GROUP BY source)
            SELECT source, coalesce(documents, 0), coalesce(without, 0), coalesce(chunks, 0), coalesce(texts, 0),
                coalesce(embedded, 0), coalesce(vectors, 0)
            FROM read FULL JOIN chunked USING (source) FULL JOIN served USING (source) ORDER BY source
        """).format(key=sql.Literal(generation.model_key), table=generation.table, visible=generation.visible)
    ).fetchall()
    return tuple(LedgerRow(*row) for row in rows)


INDEX_CHECKS: dict[str, Check] = {
    "vectors_match_chunks": vectors_match_chunks,
    "vectors_have_dimensions": vectors_have_dimensions,
    "vectors_have_unit_length": vectors_have_unit_length,
    "hnsw_finds_neighbours": hnsw_finds_neighbours,
    "rows_reconcile": rows_reconcile,
}


def _served(connection: Connection) -> Generation:
    generation = active(connection)
    if generation is None:
        raise Unavailable(
            "index_missing", "There is no index to check yet.", hint="Run `stemma materialize knowledge/search_index`."
        )
    return generation


def _count(connection: Connection, generation: Generation, query: str) -> int:
    row = connection.execute(
        sql.SQL(query).format(
            table=generation.table,
            visible=generation.visible,
            dimensions=sql.Literal(generation.dimensions),
            tolerance=sql.Literal(_NORM_TOLERANCE),
        )
    ).fetchone()
    assert row is not None
    return int(row[0])
