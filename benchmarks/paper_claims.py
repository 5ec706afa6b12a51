"""How well claims are read from the sheets and the PDFs, beside what a person found in them, and how fast.

Labelled are the coefficients of fitted models and the accuracies that each prints, by a reader of its pages; test
statistics, measures of fit and standard errors are not. The two PDFs are not in the repository: they lie in
`../shared/data/papers` and are left out where that is missing.
Run: python -m benchmarks.paper_claims
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from stemma.papers.claims.reading import read_claims
from stemma.papers.claims.scoring import Label, Score, score
from stemma.papers.pages import read_pages
from stemma.store.settings import REPOSITORY, Settings

LABELS = REPOSITORY / "tests" / "papers" / "labelled.json"
FOLDERS = (REPOSITORY / "samples" / "papers", REPOSITORY.parent / "shared" / "data" / "papers")


def main() -> None:
    sheets = papers = Score(0, 0, 0)
    print(f"{'file':24}{'pages':>7}{'found':>7}{'right':>7}{'there':>7}{'precision':>11}{'recall':>8}{'ms/page':>9}")
    for name, labels in json.loads(LABELS.read_text()).items():
        path = next((folder / name for folder in FOLDERS if (folder / name).is_file()), None)
        if path is None:
            print(f"{name:24} is not here")
            continue
        scored, pages, seconds = measured(path, [Label(value, metric, tuple(on)) for value, metric, on in labels])
        print_row(name, scored, pages, seconds)
        if path.parent == FOLDERS[0]:
            sheets += scored
        else:
            papers += scored
    print_row("the sheets", sheets)
    print_row("the papers", papers)


def measured(path: Path, labels: list[Label]) -> tuple[Score, int, float]:
    """The score of a file, its pages, and the seconds that reading it took."""
    data, began = path.read_bytes(), time.perf_counter()
    pages = read_pages(data, Settings())
    found = read_claims(pages)
    return score(found, labels), len(pages), time.perf_counter() - began


def print_row(name: str, scored: Score, pages: int = 0, seconds: float = 0.0) -> None:
    """One line of the table."""
    figures = f"{scored.found:7}{scored.right:7}{scored.there:7}{scored.precision:11.3f}{scored.recall:8.3f}"
    of_time = f"{seconds / pages * 1000:9.1f}" if pages else ""
    print(f"{name:24}{pages or '':>7}{figures}{of_time}")


if __name__ == "__main__":
    main()
