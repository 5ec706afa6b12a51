"""How well claims are read from the claim sheets and from two papers, beside what a person found in the same pages.

Labelled (`tests/papers/labelled.json`) are the coefficients of fitted models and the accuracies that each prints; test
statistics, measures of fit and standard errors are not. The rules were written with these files in view, so that the
figures say what is read of papers of this kind, not of any. The two papers lie in `../shared/data/papers` and are left
out where that is absent.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.studio import Measure, publish
from stemma.papers.claims.reading import read_claims
from stemma.papers.claims.scoring import Label, Score, score
from stemma.papers.pages import read_pages
from stemma.store.settings import REPOSITORY, Settings

_LABELS = REPOSITORY / "tests" / "papers" / "labelled.json"
_SHEETS = REPOSITORY / "samples" / "papers"
_PAPERS = REPOSITORY.parent / "shared" / "data" / "papers"
_ROUNDS = 5
_PRECISION = 0.8
_RECALL = 0.9


def main() -> bool:
    """Run the benchmark; True when the bars are met."""
    labelled = {
        name: [Label(value, metric, tuple(pages)) for value, metric, pages in labels]
        for name, labels in json.loads(_LABELS.read_text()).items()
    }
    measures = [*_measures("sheets", _SHEETS, labelled), *_measures("papers", _PAPERS, labelled)]
    return publish("paper_claims", measures, labels=sum(map(len, labelled.values())))


def _measures(what: str, folder: Path, labelled: dict[str, list[Label]]) -> Iterable[Measure]:
    files = [folder / name for name in labelled if (folder / name).is_file()]
    if not files:
        print(f"The {what} are left out: {folder.name} is absent.")
        return
    total, milliseconds = Score(0, 0, 0), []
    for file in files:
        data, settings = file.read_bytes(), Settings()
        for _ in range(_ROUNDS):
            began = time.process_time()
            pages = read_pages(data, settings)
            found = read_claims(pages)
            milliseconds.append((time.process_time() - began) * 1000 / len(pages))
        total += score(found, labelled[file.name])
    yield Measure(f"precision on the {what}", total.precision, bar=_PRECISION)
    yield Measure(f"recall on the {what}", total.recall, bar=_RECALL)
    yield Measure(f"claims in the {what}", total.there)
    yield Measure(f"a page of the {what}, median", statistics.median(milliseconds), "ms")


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
