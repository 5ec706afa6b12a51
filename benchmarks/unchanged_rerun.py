"""What it costs to read, chunk, embed and index the installed documentation again when nothing changed."""

from __future__ import annotations

import sys
import time

from benchmarks.studio import Measure, Studio, ingest, publish, scratch_studio
from stemma.knowledge.embedding import EmbeddingsReport, load_model, sync_embeddings
from stemma.knowledge.generations import GenerationReport, build_generation
from stemma.knowledge.sources import INSTALLED

_BAR = 0.05


def main() -> bool:
    """Run the benchmark; True when the bars are met."""
    with scratch_studio("rerun") as studio:
        first, embeddings, _ = _run(studio)
        again, unchanged, generation = _run(studio)
    assert embeddings.embedded == embeddings.distinct
    measures = [
        Measure("chunks", embeddings.chunks),
        Measure("first run", first, "s"),
        Measure("unchanged run", again, "s"),
        Measure("unchanged over first", again / first, bar=_BAR, at_least=False),
        Measure("chunks embedded again", unchanged.embedded, bar=0, at_least=False),
        Measure("indexes built again", int(generation.built), bar=0, at_least=False),
    ]
    return publish("unchanged_rerun", measures)


def _run(studio: Studio) -> tuple[float, EmbeddingsReport, GenerationReport]:
    started = time.perf_counter()
    ingest(studio, INSTALLED)
    embedder = load_model(studio.settings)
    embeddings = sync_embeddings(studio.database, INSTALLED.name, embedder)
    generation = build_generation(studio.database, studio.settings, embedder)
    return time.perf_counter() - started, embeddings, generation


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
