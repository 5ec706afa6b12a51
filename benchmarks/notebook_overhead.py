"""How long a notebook of 20 cells takes in the sandbox, and by papermill, which has none: they take turns.

Both execute the same cells with the same Python, packages and environment; the sandbox is the strongest that the
machine allows. Either is measured from the notebook in memory or in a file until nothing of its kernel is left.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import papermill

from benchmarks.studio import Measure, console, publish
from stemma.papers.notebooks import building
from stemma.papers.notebooks.execution import Conditions, execute
from stemma.papers.notebooks.telling import Told
from stemma.papers.notebooks.variables import variables
from stemma.papers.plan import Cell
from stemma.papers.sandbox import levels
from stemma.papers.sandbox.limits import Limits
from stemma.store.settings import load_settings

PAIRS = 9
RATIO = 1.0

_SECONDS = 300
# With the cell that seeds there are twenty.
_CELLS = (
    "import json\nimport numpy as np\nfrom sklearn import datasets",
    "from sklearn.discriminant_analysis import LinearDiscriminantAnalysis",
    "from sklearn.neighbors import KNeighborsClassifier\nfrom sklearn.preprocessing import StandardScaler",
    "from sklearn.model_selection import LeaveOneOut, cross_val_score",
    "wine = datasets.load_wine()\nprint(wine.data.shape)",
    "scaled = StandardScaler().fit_transform(wine.data)",
    "scaled.mean(axis=0).round(6)",
    "np.bincount(wine.target)",
    "np.corrcoef(scaled.T).round(2)",
    "def accuracy(model, data):\n    return float(cross_val_score(model, data, wine.target, cv=5).mean())",
    "lda = accuracy(LinearDiscriminantAnalysis(), wine.data)\nprint('lda', lda)",
    "near = accuracy(KNeighborsClassifier(1), wine.data)\nprint('nearest', near)",
    "near_scaled = accuracy(KNeighborsClassifier(1), scaled)\nprint('nearest, scaled', near_scaled)",
    "for neighbours in (3, 5, 7):\n    print(neighbours, accuracy(KNeighborsClassifier(neighbours), scaled))",
    "values, vectors = np.linalg.eigh(np.cov(scaled.T))",
    "values[::-1].round(3)",
    "plane = scaled @ vectors[:, -2:]\nplane[:3].round(3)",
    "print('in a plane', accuracy(LinearDiscriminantAnalysis(), plane))",
    "with open('events.jsonl', 'a') as events:\n"
    "    metric = {'type': 'metric_update', 'metric': 'accuracy', 'split': 'test', 'value': lda}\n"
    "    events.write(json.dumps(metric) + '\\n')",
)


def main() -> bool:
    """Run the benchmark; True when the bar is met."""
    settings = load_settings()
    limits = Limits(
        memory_bytes=settings.papers_memory_bytes,
        tasks=settings.papers_tasks,
        disk_bytes=settings.papers_disk_bytes,
        scratch_bytes=settings.papers_scratch_bytes,
    )
    conditions = Conditions(levels.in_force(settings), limits, _SECONDS)
    notebook = building.assemble(tuple(Cell(source=source) for source in _CELLS), 7)
    assert len(notebook.cells) == 20
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _same_environment(folder)
        nbformat.write(notebook, folder / "given.ipynb")
        _ours(notebook, conditions), _papermill(folder)
        pairs = []
        for _ in range(PAIRS):
            pairs.append((_seconds(lambda: _ours(notebook, conditions)), _seconds(lambda: _papermill(folder))))
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    measures = [
        Measure("20 cells, in the sandbox", ours, "s"),
        Measure("20 cells, by papermill", theirs, "s"),
        Measure("sandbox over papermill", ours / theirs, "×", bar=RATIO, at_least=False),
        Measure("median of the pairs' ratios", statistics.median(one / other for one, other in pairs), "×"),
        Measure("the worst pair's", max(one / other for one, other in pairs), "×"),
    ]
    facts = {"level": conditions.level.value, "load": [load, os.getloadavg()[0]]}
    console.print(facts)
    return publish("notebook_overhead", measures, pairs=pairs, **facts)


def _same_environment(folder: Path) -> None:
    """Papermill's kernel has this process's environment; of the sandbox's, it gets all but the folders."""
    ours = variables(folder, folder)
    os.environ.update({name: value for name, value in ours.items() if str(folder) not in value and name != "PATH"})


def _ours(notebook: nbformat.NotebookNode, conditions: Conditions) -> None:
    executed = execute(nbformat.from_dict(notebook), conditions, tell=_unheard, stop=threading.Event())
    assert executed.ending == "done", (executed.code, executed.message)


def _papermill(folder: Path) -> None:
    given, done = str(folder / "given.ipynb"), str(folder / "done.ipynb")
    papermill.execute_notebook(given, done, cwd=str(folder), progress_bar=False, kernel_name="python3")


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _unheard(told: Told) -> None:
    """Papermill hands nothing on either."""


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
