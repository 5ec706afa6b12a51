"""Blocking checks on the knowledge products: a product that fails its invariants stops what is built on it."""

import dagster as dg

from assets.knowledge import KNOWLEDGE_SOURCES, chunks
from resources.store import StoreResource
from stemma.knowledge.chunks import reconcile_chunks


@dg.asset_check(asset=chunks, blocking=True, partitions_def=KNOWLEDGE_SOURCES, description="Every span quotes its document exactly; none is missing or double.")
def spans_quote_exactly(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Compare every current chunk with its document."""
    with store.database.snapshot() as connection:
        problems = reconcile_chunks(connection, context.partition_key)
    return dg.AssetCheckResult(passed=not problems, description="; ".join(problems[:3]) or None, metadata={"problems": len(problems)})
