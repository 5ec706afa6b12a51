"""Twenty runs that are asked for at once: that all succeed, how many execute at a time, and the memory that they take.

A served studio, runs by Dagster, each with a small notebook in the sandbox, executed twice. Memory is what the template
of runs has with all that is below it: workers, keepers and kernels, what they share counted once.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

import psutil

from benchmarks.notebooks import Asked, ask, load, run_processes
from benchmarks.serving import Serving, serving
from benchmarks.studio import Measure, console, publish
from stemma.papers.runs.model import FINAL

RUNS, AT_ONCE, BYTES = 20, 2, 2_000_000_000

_CELLS = (
    "from sklearn.datasets import load_wine\nfrom sklearn.discriminant_analysis import LinearDiscriminantAnalysis\n"
    "from sklearn.model_selection import cross_val_score",
    "wine = load_wine()\n"
    "accuracy = float(cross_val_score(LinearDiscriminantAnalysis(), wine.data, wine.target, cv=5).mean())",
    "report('accuracy', accuracy, 'test')",
)
_LOOK = 0.5
_PATIENCE = 3_600.0
# Whatever was told first and last of each run, and when.
_SPANS = """
    SELECT min(ts) FILTER (WHERE payload->>'stage' = 'run_start'),
        max(ts) FILTER (WHERE payload->>'stage' IN ('run_complete', 'run_error', 'run_cancelled'))
    FROM p2n.run_events WHERE type = 'stage_update' AND run_id = ANY(%s::uuid[]) GROUP BY run_id
"""
_ENDED = "SELECT count(*) FROM p2n.runs WHERE id = ANY(%s::uuid[]) AND status = ANY(%s)"


def main() -> bool:
    """Run the benchmark; True when the bars are met."""
    before = load()
    with serving("run_queue") as served, _memory(served) as seen:
        began = time.perf_counter()
        runs = [ask(served, *_CELLS) for _ in range(RUNS)]
        _wait(served, runs)
        seconds = time.perf_counter() - began
        succeeded, most = _count(served, runs, ["succeeded"]), _most_at_once(served, runs)
    measures = [
        Measure("runs that succeeded", succeeded, f"of {RUNS}", RUNS),
        Measure("most that executed at once", most, bar=AT_ONCE, at_least=False),
        Measure("most memory of all runs", max(seen) / 1e6, "MB", BYTES / 1e6, at_least=False),
        Measure("from the first request to the last end", seconds, "s"),
    ]
    facts = {"load": [before, load()]}
    console.print(facts)
    return publish("run_queue", measures, **facts)


@contextlib.contextmanager
def _memory(served: Serving) -> Iterator[list[int]]:
    """The proportional set sizes of everything that runs consist of, in bytes, seen again and again."""
    seen, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK):
            seen.append(sum(map(_proportional, run_processes(served))))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        ended.set()
        looking.join()


def _proportional(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return 0


def _wait(served: Serving, runs: list[Asked]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while _count(served, runs, [status.value for status in FINAL]) < len(runs):
        if time.monotonic() > deadline:
            raise RuntimeError("The runs do not end.")
        time.sleep(_LOOK)


def _count(served: Serving, runs: list[Asked], statuses: list[str]) -> int:
    with served.database.snapshot() as connection:
        (count,) = connection.execute(_ENDED, ([run.id for run in runs], statuses)).fetchone() or (0,)
    return int(count)


def _most_at_once(served: Serving, runs: list[Asked]) -> int:
    with served.database.snapshot() as connection:
        spans = connection.execute(_SPANS, ([run.id for run in runs],)).fetchall()
    assert len(spans) == len(runs)
    return max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
