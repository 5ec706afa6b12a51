"""The knowledge products: documents → chunks → embeddings by source, then one search index over all of them.

Blocking checks on each product stand in `assets/knowledge_checks.py`.
"""

from typing import TYPE_CHECKING

import dagster as dg

from assets.automation import DAILY_FRESHNESS, derived_data
from assets.product import product
from assets.shown import counted, table
from resources.progress import ProgressLog
from resources.store import StoreResource
from stemma.knowledge import versions

if TYPE_CHECKING:
    from stemma.knowledge.generations import Gate
    from stemma.knowledge.models import Source

KNOWLEDGE_SOURCES = dg.DynamicPartitionsDefinition(name="knowledge_sources")
_LEAST_GOLDEN_HITS = 8


@product(
    key=["knowledge", "documents"],
    partitions_def=KNOWLEDGE_SOURCES,
    kinds={"python", "postgres"},
    code_version="1",
    freshness_policy=DAILY_FRESHNESS,
    description=(
        "The text of every document of one source, with headings, pages and character offsets. "
        "Files that cannot be read are set aside with the reason; their last good version stays."
    ),
)
def documents(
    context: dg.AssetExecutionContext, store: StoreResource, progress: dg.ResourceParam[ProgressLog]
) -> dg.MaterializeResult[None]:
    """Read one source."""
    from stemma.knowledge import documents as document_store

    report = document_store.sync_documents(
        store.database, _source(context, store), store.settings, progress=progress.reporter(context)
    )
    touched = report.added + report.changed + report.removed
    documents_read = counted(report.documents, "document")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(report.version),
        metadata={
            "summary": f"{documents_read}, {touched:,} changed, {len(report.quarantined):,} set aside",
            "changed": bool(touched),
            "dagster/row_count": report.documents,
            "added": report.added,
            "changed_documents": report.changed,
            "unchanged": report.unchanged,
            "removed": report.removed,
            "characters": report.characters,
            "set_aside": len(report.quarantined),
            "set_aside_why": table(
                ("document", "code", "reason"), [(q.uri, q.code, q.reason) for q in report.quarantined]
            ),
        },
    )


@product(
    key=["knowledge", "chunks"],
    partitions_def=KNOWLEDGE_SOURCES,
    deps=[documents],
    kinds={"python", "postgres"},
    code_version="1",
    automation_condition=derived_data(),
    description=(
        "Spans of the documents, cut at headings and then by word pieces with overlap; "
        "each quotes its document exactly."
    ),
)
def chunks(
    context: dg.AssetExecutionContext, store: StoreResource, progress: dg.ResourceParam[ProgressLog]
) -> dg.MaterializeResult[None]:
    """Cut the changed documents of one source."""
    from stemma.knowledge import chunks as chunk_store
    from stemma.knowledge.chunking import Chunker

    report = chunk_store.sync_chunks(
        store.database,
        _source(context, store),
        Chunker.from_settings(store.settings),
        progress=progress.reporter(context),
    )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(report.version),
        metadata={
            "summary": f"{counted(report.chunks, 'chunk')}, {report.added:,} new, {report.retired:,} retired",
            "changed": bool(report.added or report.retired),
            "dagster/row_count": report.chunks,
            "added": report.added,
            "kept": report.kept,
            "retired": report.retired,
            "word_pieces": report.tokens,
        },
    )


@product(
    key=["knowledge", "embeddings"],
    partitions_def=KNOWLEDGE_SOURCES,
    deps=[chunks],
    kinds={"pytorch", "postgres"},
    code_version=versions.EMBEDDING,
    automation_condition=derived_data(),
    description="One unit vector per distinct chunk text and model; only texts never seen before are embedded.",
)
def embeddings(
    context: dg.AssetExecutionContext, store: StoreResource, progress: dg.ResourceParam[ProgressLog]
) -> dg.MaterializeResult[None]:
    """Embed the new texts of one source."""
    from stemma.knowledge import embedding

    report = embedding.sync_embeddings(
        store.database,
        context.partition_key,
        embedding.load_model(store.settings),
        progress=progress.reporter(context),
    )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(report.version),
        metadata={
            "summary": f"{report.embedded:,} embedded, {report.reused:,} reused",
            "changed": bool(report.embedded),
            "dagster/row_count": report.distinct,
            "chunks": report.chunks,
            "embedded": report.embedded,
            "reused": report.reused,
            "model_key": report.model_key,
            "seconds": report.seconds,
        },
    )


@product(
    key=["knowledge", "search_index"],
    deps=[embeddings],
    kinds={"postgres", "tantivy"},
    code_version=versions.INDEX,
    automation_condition=derived_data(),
    freshness_policy=DAILY_FRESHNESS,
    description=(
        "The generation that search answers from: pgvector HNSW and BM25 over every source. A new one is checked, "
        "then swapped in atomically; the one before stays for `stemma index rollback`."
    ),
)
def search_index(
    context: dg.AssetExecutionContext, store: StoreResource, progress: dg.ResourceParam[ProgressLog]
) -> dg.MaterializeResult[None]:
    """Build and activate a generation, or confirm the active one."""
    from stemma.knowledge import embedding, generations

    report = generations.build_generation(
        store.database,
        store.settings,
        embedding.load_model(store.settings),
        progress=progress.reporter(context),
        golden=_golden_gate(store),
    )
    store.record(generations.activated(report, actor="asset:knowledge/search_index"))
    return dg.MaterializeResult(
        data_version=dg.DataVersion(report.fingerprint),
        metadata={
            "summary": f"{counted(report.chunks, 'chunk')} in generation {report.generation}",
            "changed": report.built,
            "dagster/row_count": report.chunks,
            "generation": report.generation,
            "recall_at_10": report.recall,
            "by_source": table(("source", "chunks"), sorted(report.sources.items())),
        },
    )


def _golden_gate(store: StoreResource) -> "Gate":
    from stemma.knowledge import golden
    from stemma.knowledge.search import Searcher

    searcher = Searcher(store.database, store.settings)
    return golden.golden_gate(searcher, golden.load_questions(), least_hit_at_3=_LEAST_GOLDEN_HITS)


def _source(context: dg.AssetExecutionContext, store: StoreResource) -> "Source":
    from stemma.knowledge import sources

    with store.database.snapshot() as connection:
        return sources.get(connection, context.partition_key)
