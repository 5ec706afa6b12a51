"""How soon a run that goes wrong has ended as what it is, with what it made until then and nothing else left of it.

A served studio and runs by Dagster, each with a notebook in the sandbox. Seconds are counted from what ends the run:
the limit, the request, the line before the memory is taken, the kill.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import nbformat

from benchmarks.notebooks import Asked, Event, Traces, ask, follow, load, traces
from benchmarks.serving import Serving, serving
from benchmarks.studio import Measure, console, publish

SECONDS = 5.0

_LIMIT = 20.0
_WAIT = "print('up', flush=True)\nimport time\ntime.sleep(600)"
_BOMB = "print('up', flush=True)\nkept = [bytearray(16 << 20) for _ in range(1_000)]"
_PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class End:
    """A way in which a run ends: its cell and plan, what is done when it says `up`, and how it has to end.

    `trigger` gets the studio, the run and its traces, and says when it struck; None: the cell does it, or the limit of
    `allowed` seconds from the run's start.
    """

    name: str
    cell: str
    status: str
    code: str | None
    trigger: Callable[[Serving, Asked, Traces], float] | None = None
    plan: tuple[tuple[str, Any], ...] = ()
    allowed: float = 0.0


def main() -> bool:
    """Run the benchmark; True when the bars are met."""
    before, measures = load(), []
    with serving("run_ends") as served:
        for end in _ENDS:
            ended, cleared = _measure(served, end)
            console.print(f"{end.name}: {ended:.2f} s, {cleared:.2f} s until nothing was left")
            measures += [
                Measure(f"{end.name}: ended after", ended, "s", SECONDS, at_least=False),
                Measure(f"{end.name}: nothing left after", cleared, "s", SECONDS, at_least=False),
            ]
    facts = {"load": [before, load()]}
    console.print(facts)
    return publish("run_ends", measures, **facts)


def _measure(served: Serving, end: End) -> tuple[float, float]:
    """Seconds until a client has read how the run ended, and until nothing of it is left."""
    asked = ask(served, end.cell, **dict(end.plan))
    with follow(served, asked) as events:
        start = next(events)
        up = next(event for event in events if event.data == "up")
        found = traces(served, asked)
        assert len(found.processes) > 3, found
        began = up.at if end.trigger is None else end.trigger(served, asked, found)
        if end.allowed:
            began = start.at + end.allowed
        last = _last(events)
    while left := found.left():
        assert time.time() - began < _PATIENCE, left
        time.sleep(0.05)
    cleared = time.time()
    shown = served.api.get(f"/papers/{asked.paper_id}/runs/{asked.id}").json()
    assert (shown["status"], shown["error_code"]) == (end.status, end.code), shown
    _check_artifacts(served, shown, last)
    return last.at - began, cleared - began


def _last(events: Iterator[Event]) -> Event:
    return next(event for event in events if event.is_last)


def _check_artifacts(served: Serving, shown: dict[str, Any], last: Event) -> None:
    kept = {
        each["name"]: served.api.get(f"{served.settings.api_url}{each['url']}").raise_for_status().text
        for each in shown["artifacts"]
    }
    assert "up\n" in kept["logs.txt"]
    told = [json.loads(line) for line in kept["events.jsonl"].splitlines()]
    assert told[-1]["stage"] == last.data["stage"]
    assert json.loads(kept["metrics.json"])["run_id"] == shown["id"]
    # A worker that was killed had its notebook in memory.
    if shown["error_code"] != "E_WORKER_LOST":
        nbformat.validate(nbformat.reads(kept["notebook.ipynb"], as_version=4))


def _cancel(served: Serving, asked: Asked, _: Traces) -> float:
    began = time.time()
    served.api.post(f"/runs/{asked.id}/cancel").raise_for_status()
    return began


def _kill_kernel(_: Serving, __: Asked, found: Traces) -> float:
    began = time.time()
    found.kernel.kill()
    return began


def _kill_worker(_: Serving, __: Asked, found: Traces) -> float:
    began = time.time()
    found.worker.kill()
    return began


_ENDS = (
    End("out of time", _WAIT, "failed", "E_RUN_TIMEOUT", None, (("timeouts", {"wall_minutes": _LIMIT / 60}),), _LIMIT),
    End("cancelled", _WAIT, "cancelled", None, _cancel),
    End("out of memory", _BOMB, "failed", "E_RUN_MEMORY", plan=(("environment", {"packages": [], "memory_mb": 512}),)),
    End("kernel killed", _WAIT, "failed", "E_KERNEL_DIED", _kill_kernel),
    End("worker killed", _WAIT, "failed", "E_WORKER_LOST", _kill_worker),
)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
