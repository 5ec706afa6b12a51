"""The embedding pipeline against one bare `SentenceTransformer.encode` call on the same chunks.

Same model, precision and batch size. The pipeline also reads the texts from Postgres and writes the vectors back.
Single runs on a shared machine spread widely, so the two take turns and the median of the paired ratios counts.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from benchmarks.studio import Measure, Studio, console, ingest, publish, scratch_studio
from stemma.knowledge.embedding import Embedder, load_model, sync_embeddings
from stemma.knowledge.sources import INSTALLED

_CHUNKS = 512
_PAIRS = 7
_BAR = 0.9


def main() -> bool:
    """Run the benchmark; True when the bar is met."""
    with scratch_studio("throughput") as studio:
        texts = _keep_some_chunks(studio)
        embedder = load_model(studio.settings)
        embedder.encode(texts[:64])
        ratios, rates = [], []
        for number in range(_PAIRS):
            if number % 2:
                bare = _bare(embedder, texts)
                pipeline = _pipeline(studio, embedder)
            else:
                pipeline = _pipeline(studio, embedder)
                bare = _bare(embedder, texts)
            ratios.append(bare / pipeline)
            rates.append(len(texts) / pipeline)
            console.print(
                f"pair {number + 1}: bare {bare:.2f} s, pipeline {pipeline:.2f} s, ratio {bare / pipeline:.3f}"
            )
    measures = [
        Measure("pipeline over bare encode, median ratio", statistics.median(ratios), bar=_BAR),
        Measure("pipeline", statistics.median(rates), "chunks/s"),
    ]
    return publish(
        "embedding_throughput", measures, ratios=ratios, precision=embedder.spec.precision, chunks=len(texts)
    )


def _keep_some_chunks(studio: Studio) -> list[str]:
    """Ingest the installed documentation and keep a fixed sample of chunks; returns their texts in sample order."""
    ingest(studio, INSTALLED)
    with studio.database.transaction() as connection:
        connection.execute(
            """
            DELETE FROM chunks WHERE id NOT IN (
                SELECT min(id) FROM chunks GROUP BY embed_sha256 ORDER BY min(embed_sha256) LIMIT %s)
            """,
            (_CHUNKS,),
        )
        rows = connection.execute(
            r"SELECT concat_ws(E'\n', nullif(context, ''), text) FROM chunks ORDER BY embed_sha256"
        ).fetchall()
    return [text for (text,) in rows]


def _bare(embedder: Embedder, texts: list[str]) -> float:
    started = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=embedder.spec.precision == "bf16"):
        embedder.model.encode(texts, batch_size=embedder.batch_size, normalize_embeddings=True, show_progress_bar=False)
    return time.perf_counter() - started


def _pipeline(studio: Studio, embedder: Embedder) -> float:
    with studio.database.transaction() as connection:
        connection.execute("TRUNCATE embedding_cache")
    started = time.perf_counter()
    report = sync_embeddings(studio.database, None, embedder)
    elapsed = time.perf_counter() - started
    assert report.embedded == report.distinct > 0
    return elapsed


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
