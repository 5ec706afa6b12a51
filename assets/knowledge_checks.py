"""Blocking checks on the knowledge products: a product that fails its invariants stops what is built on it."""

from collections.abc import Callable
from typing import Any

import dagster as dg

from assets.knowledge import chunks, documents, embeddings, search_index
from resources.store import StoreResource
from stemma.knowledge import checks
from stemma.knowledge.chunks import reconcile_chunks
from stemma.knowledge.documents import reconcile_documents
from stemma.knowledge.embedding import load_model, reconcile_embeddings

_PARTITION = "dagster/partition"


@dg.asset_check(
    asset=documents, blocking=True, description="Texts match their hashes; headings and pages lie inside them"
)
def texts_are_whole(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Look at every current document of the run's source, or of all sources outside a partitioned run."""
    with store.database.snapshot() as connection:
        return _none_of(reconcile_documents(connection, context.run.tags.get(_PARTITION)))


@dg.asset_check(
    asset=chunks, blocking=True, description="Every span quotes its document exactly; none is missing or double"
)
def spans_quote_exactly(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Compare every current chunk of the run's source with its document."""
    with store.database.snapshot() as connection:
        return _none_of(reconcile_chunks(connection, context.run.tags.get(_PARTITION)))


@dg.asset_check(
    asset=embeddings, blocking=True, description="Every distinct text has one vector of the model's dimensions"
)
def no_vector_is_missing(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Compare the texts of the run's source with the vectors kept for the model in force."""
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


def _index_check(check: checks.Check) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=search_index,
        name=check.__name__,
        blocking=True,
        description=(check.__doc__ or "").split("\n")[0].rstrip("."),
    )
    def run(store: StoreResource) -> dg.AssetCheckResult:
        with store.database.snapshot() as connection:
            result = check(connection)
        return dg.AssetCheckResult(
            passed=result.passed, description=result.description, metadata=_shown(result.metadata)
        )

    return run


def _shown(metadata: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if value is not None}


INDEX_CHECKS: tuple[Callable[..., Any], ...] = (
    checks.vectors_match_chunks,
    checks.vectors_have_dimensions,
    checks.vectors_have_unit_length,
    checks.hnsw_finds_neighbours,
    checks.rows_reconcile,
)
index_checks = [_index_check(check) for check in INDEX_CHECKS]
