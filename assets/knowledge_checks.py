"""Blocking checks on the knowledge products: a product that fails its invariants stops what is built on it."""

from typing import Any

import dagster as dg

from assets.knowledge import chunks, documents, embeddings, search_index
from resources.store import StoreResource

_PARTITION = "dagster/partition"


@dg.asset_check(
    asset=documents, blocking=True, description="Texts match their hashes; headings and pages lie inside them"
)
def texts_are_whole(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Look at every current document of the run's source, or of all sources outside a partitioned run."""
    from stemma.knowledge.documents import reconcile_documents

    with store.database.snapshot() as connection:
        return _none_of(reconcile_documents(connection, context.run.tags.get(_PARTITION)))


@dg.asset_check(
    asset=chunks, blocking=True, description="Every span quotes its document exactly; none is missing or double"
)
def spans_quote_exactly(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Compare every current chunk of the run's source with its document."""
    from stemma.knowledge.chunks import reconcile_chunks

    with store.database.snapshot() as connection:
        return _none_of(reconcile_chunks(connection, context.run.tags.get(_PARTITION)))


@dg.asset_check(
    asset=embeddings, blocking=True, description="Every distinct text has one vector of the model's dimensions"
)
def no_vector_is_missing(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Compare the texts of the run's source with the vectors kept for the model in force."""
    from stemma.knowledge.embedding import load_model, reconcile_embeddings

    key = load_model(store.settings).key
    with store.database.snapshot() as connection:
        return _none_of(reconcile_embeddings(connection, key, context.run.tags.get(_PARTITION)))


def _none_of(problems: list[str]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=not problems,
        description="; ".join(problems[:3]) or None,
        metadata={
            "problems": len(problems),
            "first": dg.MetadataValue.md("\n".join(f"- {p}" for p in problems[:20]) or "none"),
        },
    )


def _index_check(name: str, description: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=search_index, name=name, blocking=True, description=description)
    def run(store: StoreResource) -> dg.AssetCheckResult:
        from stemma.knowledge import checks

        with store.database.snapshot() as connection:
            result = checks.INDEX_CHECKS[name](connection)
        return dg.AssetCheckResult(
            passed=result.passed, description=result.description, metadata=_shown(result.metadata)
        )

    return run


def _shown(metadata: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if value is not None}


_INDEX_CHECKS = {
    "vectors_match_chunks": (
        "Each current chunk has exactly one visible vector, made from its own text, and there is no other vector"
    ),
    "vectors_have_dimensions": "Every visible vector has as many dimensions as its model",
    "vectors_have_unit_length": "Every visible vector has length 1, so that cosine and inner product agree",
    "hnsw_finds_neighbours": "Recall@10 of the vector index against an exact scan, stored vectors being the queries",
    "rows_reconcile": "Documents, chunks, texts and vectors add up for each source",
}
index_checks = [_index_check(name, description) for name, description in _INDEX_CHECKS.items()]
