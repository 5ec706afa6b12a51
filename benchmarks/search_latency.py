"""Hybrid search at 10,000 and 100,000 chunks: latency beside LanceDB's hybrid in one run, and recall under filters.

Both engines hold the same texts and vectors, embed each query with the same encoder and answer ten rows; they take
turns query by query. Each gets its own indexes: HNSW and tantivy here, IVF-HNSW-SQ and its full-text index there.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus import Corpus, real_chunks, write_corpus
from benchmarks.studio import Measure, Studio, console, percentile, publish, scratch_studio
from stemma.knowledge.embedding import Embedder, Vectors, load_model
from stemma.knowledge.generations import active, build_generation
from stemma.knowledge.onnx_query import QueryEncoder, open_query_encoder
from stemma.knowledge.search import Searcher

SIZES = (10_000, 100_000)
_QUERIES = 200
_RECALL_QUERIES = 100
_WARM_UP = 20
_K = 10
_P50_BAR_MS = 11.0
_RECALL_BAR = 0.99
_FILTERED_RECALL_BAR = 0.97


def main() -> bool:
    """Run the benchmark; True when every bar is met."""
    measures: list[Measure] = []
    with scratch_studio("latency") as studio:
        embedder = load_model(studio.settings)
        real = real_chunks(studio, embedder)
        queries = _queries(real.texts)
        for size in SIZES:
            corpus = write_corpus(studio, embedder, real, size)
            report = build_generation(studio.database, studio.settings, embedder)
            console.print(f"{size:,} chunks: index built in {report.seconds:.1f} s")
            measures.append(Measure(f"{size:,}: index build", report.seconds, "s"))
            measures += _recall(studio, embedder, corpus, queries[:_RECALL_QUERIES], size)
            measures += _latency(studio, embedder, corpus, queries, size)
    return publish("search_latency", measures)


def _queries(texts: Sequence[str]) -> list[str]:
    """Distinct runs of words from real chunks, three to nine words long."""
    rng = np.random.default_rng(11)
    found: dict[str, None] = {}
    while len(found) < _QUERIES + _WARM_UP:
        words = texts[rng.integers(len(texts))].split()
        length = int(rng.integers(3, 10))
        if len(words) > length:
            at = int(rng.integers(len(words) - length))
            found[" ".join(words[at : at + length])[:200]] = None
    return list(found)


def _recall(studio: Studio, embedder: Embedder, corpus: Corpus, queries: list[str], size: int) -> list[Measure]:
    """Share of the true ten nearest that the dense leg finds, over all rows and under each filter."""
    encoder = open_query_encoder(studio.settings, embedder.key)
    searcher = Searcher(studio.database, studio.settings)
    sources = np.array(corpus.sources)
    ids = np.array(corpus.chunk_ids)
    measures = []
    for name, chosen, bar in (
        ("no filter", None, _RECALL_BAR),
        ("10 % filter", ("middle",), _FILTERED_RECALL_BAR),
        ("1 % filter", ("narrow",), _FILTERED_RECALL_BAR),
    ):
        rows = np.arange(size) if chosen is None else np.flatnonzero(np.isin(sources, chosen))
        recalls, shortest = [], _K
        with studio.database.snapshot() as connection:
            generation = active(connection)
            assert generation is not None
            for query in queries:
                found = searcher.rank(connection, generation, query, mode="dense", sources=chosen)[:_K]
                true = _nearest(encoder.encode(query), corpus.vectors[rows], ids[rows])
                recalls.append(len(true & {candidate.chunk_id for candidate in found}) / _K)
                shortest = min(shortest, len(found))
        measures.append(Measure(f"{size:,}: recall@10, {name}", float(np.mean(recalls)), bar=bar))
        measures.append(Measure(f"{size:,}: fewest rows, {name}", shortest, bar=_K))
    searcher.close()
    return measures


def _nearest(query: Vectors, vectors: Vectors, ids: Any) -> set[int]:
    return set(ids[np.argsort(-(vectors @ query), kind="stable")[:_K]].tolist())


def _latency(studio: Studio, embedder: Embedder, corpus: Corpus, queries: list[str], size: int) -> list[Measure]:
    searcher = Searcher(studio.database, studio.settings)
    with tempfile.TemporaryDirectory() as folder:
        table = _lancedb_table(Path(folder), corpus)
        encoder = open_query_encoder(studio.settings, embedder.key)
        peer_recall = _lancedb_recall(table, corpus, encoder, queries[:_RECALL_QUERIES])

        def peer(query: str) -> list[Any]:
            search = table.search(query_type="hybrid").vector(encoder.encode(query)).text(query)
            return list(search.distance_type("cosine").limit(_K).to_list())

        ours, theirs = [], []
        for number, query in enumerate(queries):
            pair = [(ours, lambda text: searcher.search(text, k=_K).hits), (theirs, peer)]
            for times, ask in pair if number % 2 else reversed(pair):
                started = time.perf_counter()
                rows = ask(query)
                elapsed = (time.perf_counter() - started) * 1000
                assert len(rows) == _K
                if number >= _WARM_UP:
                    times.append(elapsed)
    searcher.close()
    return [
        Measure(f"{size:,}: hybrid p50", percentile(ours, 0.5), "ms", bar=_P50_BAR_MS, at_least=False),
        Measure(f"{size:,}: hybrid p95", percentile(ours, 0.95), "ms"),
        Measure(f"{size:,}: LanceDB hybrid p50", percentile(theirs, 0.5), "ms"),
        Measure(f"{size:,}: LanceDB hybrid p95", percentile(theirs, 0.95), "ms"),
        Measure(f"{size:,}: p50 over LanceDB's", percentile(ours, 0.5) / percentile(theirs, 0.5)),
        Measure(f"{size:,}: LanceDB recall@10, no filter", peer_recall),
    ]


def _lancedb_table(folder: Path, corpus: Corpus) -> Any:
    """A LanceDB table with both its indexes."""
    import lancedb
    import pyarrow as pa
    from lancedb.index import FTS, HnswSq

    table = lancedb.connect(folder).create_table(
        "chunks",
        pa.table({
            "chunk_id": pa.array(corpus.chunk_ids, pa.int64()),
            "source": corpus.sources,
            "text": corpus.texts,
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(corpus.vectors.ravel()), corpus.vectors.shape[1]
            ),
        }),
    )  # fmt: skip
    table.create_index("vector", config=HnswSq(distance_type="cosine"))
    table.create_index("text", config=FTS())
    return table


def _lancedb_recall(table: Any, corpus: Corpus, encoder: QueryEncoder, queries: Sequence[str]) -> float:
    """What its vector index finds of the true ten nearest, so that latencies can be read at their recall."""
    ids = np.array(corpus.chunk_ids)
    shares = []
    for query in queries:
        vector = encoder.encode(query)
        found = table.search(vector).distance_type("cosine").limit(_K).to_list()
        true = _nearest(vector, corpus.vectors, ids)
        shares.append(len(true & {row["chunk_id"] for row in found}) / _K)
    return float(np.mean(shares))


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
