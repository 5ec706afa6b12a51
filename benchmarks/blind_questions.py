"""How well the installed documentation answers questions that were written and judged without the index.

The ten questions of `samples/` show that the index works; these, many more and harder, say how well. There is no bar:
the figure is for comparing one way of ranking with another.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.studio import Measure, Studio, ingest, publish, scratch_studio
from stemma.knowledge import golden, sources
from stemma.knowledge.embedding import load_model, sync_embeddings
from stemma.knowledge.generations import build_generation
from stemma.knowledge.search import Searcher

QUESTIONS = Path(__file__).with_name("blind_questions.yaml")


def main() -> bool:
    """Run the benchmark; it has no bar to miss."""
    with scratch_studio("blind_questions") as studio:
        ingest(studio, sources.INSTALLED)
        embedder = load_model(studio.settings)
        sync_embeddings(studio.database, sources.INSTALLED.name, embedder)
        build_generation(studio.database, studio.settings, embedder)
        answers = golden.ask(Searcher(studio.database, studio.settings), _present(studio))
    score = golden.score(answers)
    reciprocal = sum(1 / answer.rank for answer in answers if answer.rank) / len(answers)
    measures = [
        Measure("questions", score.questions),
        Measure("answered by the first hit", score.hit_at_1),
        Measure("within three hits", score.hit_at_3),
        Measure("mean reciprocal rank in ten", reciprocal),
    ]
    return publish("blind_questions", measures)


def _present(studio: Studio) -> list[golden.Question]:
    """The questions whose answers are all installed here."""
    with studio.database.snapshot() as connection:
        uris = {uri for (uri,) in connection.execute("SELECT uri FROM documents WHERE NOT removed")}
    return [q for q in golden.load_questions(QUESTIONS) if all(passage.uri in uris for passage in q.answers)]


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
