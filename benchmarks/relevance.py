"""nDCG@10 on SciFact through the whole pipeline: document → chunks → embeddings → hybrid search.

A document's score is that of its best chunk. The collection (BEIR test split: 5,183 abstracts, 300 claims) is not
shipped; it is looked for beside the repository, in `../shared/data/ir`.
"""

from __future__ import annotations

import csv
import json
import math
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from benchmarks.studio import Measure, Studio, console, ingest, publish, scratch_studio
from stemma.knowledge.embedding import load_model, sync_embeddings
from stemma.knowledge.generations import active, build_generation
from stemma.knowledge.models import SearchMode, Source
from stemma.knowledge.search import Searcher
from stemma.store.settings import REPOSITORY

COLLECTION = REPOSITORY.parent / "shared" / "data" / "ir" / "scifact"
_BAR = 0.73
_DEPTH = 10

Judgements = dict[str, dict[str, int]]


def main() -> bool:
    """Run the benchmark; True when the bar is met or the collection is not there."""
    if not COLLECTION.is_dir():
        console.print(f"relevance: skipped, there is no collection at {COLLECTION}")
        return True
    with scratch_studio("relevance") as studio:
        load(studio)
        found = {mode: evaluate(studio, mode) for mode in ("hybrid", "dense", "lexical")}
    measures = [Measure("nDCG@10 hybrid", found["hybrid"], bar=_BAR)]
    measures += [Measure(f"nDCG@10 {mode}", found[mode]) for mode in ("dense", "lexical")]
    return publish("relevance", measures, collection="SciFact, BEIR test split")


def load(studio: Studio) -> None:
    """Bring the collection into the studio's index."""
    with tempfile.TemporaryDirectory() as folder:
        for line in (COLLECTION / "corpus.jsonl").read_text("utf-8").splitlines():
            document = json.loads(line)
            text = f"# {document['title']}\n\n{document['text']}\n"
            Path(folder, f"{document['_id']}.md").write_text(text, "utf-8")
        ingest(studio, Source("scifact", "folder", (folder,)))
    embedder = load_model(studio.settings)
    sync_embeddings(studio.database, "scifact", embedder)
    build_generation(studio.database, studio.settings, embedder)


def evaluate(studio: Studio, mode: SearchMode) -> float:
    """Mean nDCG@10 over the judged queries."""
    searcher = Searcher(studio.database, studio.settings)
    judgements = _judgements()
    gains = []
    with studio.database.snapshot() as connection:
        generation = active(connection)
        assert generation is not None
        names = dict(
            connection.execute("SELECT c.id, d.uri FROM chunks c JOIN documents d ON d.id = c.document_id").fetchall()
        )
        for line in (COLLECTION / "queries.jsonl").read_text("utf-8").splitlines():
            query = json.loads(line)
            relevant = judgements.get(query["_id"])
            if relevant:
                ranking = searcher.rank(connection, generation, query["text"], mode=mode)
                uris = dict.fromkeys(names[candidate.chunk_id] for candidate in ranking)
                gains.append(_ndcg([Path(uri).stem for uri in uris], relevant))
    searcher.close()
    return sum(gains) / len(gains)


def _judgements() -> Judgements:
    judgements: Judgements = defaultdict(dict)
    with (COLLECTION / "qrels.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            judgements[row["query-id"]][row["corpus-id"]] = int(row["score"])
    return judgements


def _ndcg(ranking: list[str], relevant: dict[str, int]) -> float:
    """Normalized discounted cumulative gain (Järvelin & Kekäläinen 2002), linear gains as in trec_eval."""
    gained = sum(relevant.get(name, 0) / math.log2(place + 1) for place, name in enumerate(ranking[:_DEPTH], start=1))
    best = sorted(relevant.values(), reverse=True)[:_DEPTH]
    return gained / sum(gain / math.log2(place + 1) for place, gain in enumerate(best, start=1))


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
