"""Notebooks that a served studio runs: plans that consist of them, and their runs, asked for and followed over HTTP.

`python -m benchmarks.notebooks RUN_ID` carries out a run where no Dagster does.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import psutil
import psycopg
from psycopg.types.json import Jsonb

from benchmarks.serving import Serving
from resources.instance import PROCESS_TAG
from stemma.access.principal import local_principal
from stemma.ledger.service import Ledger
from stemma.papers.runs import lifecycle
from stemma.papers.runs.catalog import get_run
from stemma.papers.runs.execution import Studio, carry_out
from stemma.store.database import Database
from stemma.store.files import FileStore
from stemma.store.settings import REPOSITORY, Settings, load_settings

LAST: Final = frozenset({"run_complete", "run_error", "run_cancelled"})

_BASE: Final = re.compile(r"(/\S*/stemma-run-[a-z0-9_]+)/")
_GROUP: Final = re.compile(r":(/\S*stemma-[0-9a-f]{32})")
_KERNEL: Final = "ipykernel"


@dataclass(frozen=True, slots=True)
class Asked:
    """A run that was asked for, and the paper that it belongs to."""

    id: str
    paper_id: str


@dataclass(frozen=True, slots=True)
class Event:
    """An event as a client read it, and when (seconds since the epoch)."""

    seq: int
    type: str
    data: Any
    at: float

    @property
    def is_last(self) -> bool:
        """Whether no other follows."""
        return self.type == "stage_update" and self.data["stage"] in LAST


@dataclass(frozen=True, slots=True)
class Traces:
    """What an executing run has on this machine: its worker and all below it, its notebook's folder, control groups."""

    worker: psutil.Process
    processes: tuple[psutil.Process, ...]
    folders: tuple[Path, ...]

    @property
    def kernel(self) -> psutil.Process:
        """The process that executes the cells."""
        return next(process for process in self.processes if _is_kernel(process))

    def left(self) -> list[str]:
        """Which of them are still there."""
        alive = [f"process {each.pid}" for each in self.processes if _lives(each)]
        return alive + [str(folder) for folder in self.folders if folder.exists()]


def ask(served: Serving, *cells: str, **changed: Any) -> Asked:
    """Ask for a run, by Dagster, of a plan that consists of these cells, of a paper of its own."""
    paper_id, plan_id = _store(served, cells, changed)
    answer = served.api.post(f"/plans/{plan_id}/run")
    answer.raise_for_status()
    return Asked(str(answer.json()["run_id"]), str(paper_id))


@contextlib.contextmanager
def begin(served: Serving, *cells: str) -> Iterator[Asked]:
    """A run of such a plan by a process of its own, which has ended when the block is left."""
    paper_id, plan_id = _store(served, cells, {})
    with _studio(served.settings, served.database) as studio:
        run = studio.commit(lambda connection: lifecycle.create(connection, local_principal(), plan_id))
    command = [sys.executable, "-m", "benchmarks.notebooks", str(run.id)]
    with subprocess.Popen(command, env=os.environ | served.environment, cwd=REPOSITORY):
        yield Asked(str(run.id), str(paper_id))


def _store(served: Serving, cells: tuple[str, ...], changed: dict[str, Any]) -> tuple[UUID, UUID]:
    paper_id, plan_id, now = uuid4(), uuid4(), datetime.now(UTC)
    target = {
        "claim": str(uuid4()), "metric": "accuracy", "split": "test", "label": "accuracy", "claimed": 0.5,
        "printed": "0.5", "decimals": 1, "unit": None, "tolerance": 0.1, "page": 1, "box": [0, 0, 1, 1], "quote": "0.5",
    }  # fmt: skip
    document = {
        "title": "A benchmark",
        "targets": [target],
        "dataset": {"name": "none", "package": "numpy", "loader": "none"},
        "method": {"name": "none", "description": "Nothing"},
        "environment": {"packages": []},
        "notebook": [{"source": cell} for cell in cells],
        **changed,
    }
    with served.database.transaction() as connection:
        connection.execute(
            """
            INSERT INTO p2n.papers (id, sha256, title, kind, source, source_ref, file_key, bytes, pages, status,
                created_at, created_by, updated_at)
            VALUES (%s, '', 'A benchmark', 'claim_sheet', 'sample', 'a.pdf', 'a.pdf', 1, 1, 'planned', %s, 't', %s)
            """,
            (paper_id, now, now),
        )
        connection.execute(
            """
            INSERT INTO p2n.plans (id, paper_id, version, document, sha256, origin, created_at, created_by)
            VALUES (%s, %s, 1, %s, '', 'person', %s, 'benchmark')
            """,
            (plan_id, paper_id, Jsonb(document), now),
        )
    return paper_id, plan_id


@contextlib.contextmanager
def _studio(settings: Settings, database: Database) -> Iterator[Studio]:
    with Ledger(database.urls, settings) as ledger:

        def commit(prepare: Callable[[Any], Any]) -> Any:
            return ledger.commit(database.read(prepare)).result()

        yield Studio(settings, database, FileStore.open_default(settings), commit)


@contextlib.contextmanager
def follow(served: Serving, asked: Asked, after: int = 0) -> Iterator[Iterator[Event]]:
    """A run's events as they come, until its last."""
    resumed = {"Last-Event-ID": str(after)} if after else {}
    with served.api.stream("GET", f"/runs/{asked.id}/events", headers=resumed) as stream:
        stream.raise_for_status()
        yield _events(stream.iter_lines())


def traces(served: Serving, asked: Asked) -> Traces:
    """Those of a run that a worker of Dagster's executes."""
    run = served.database.read(lambda connection: get_run(connection, UUID(asked.id)))
    with psycopg.connect(served.database.urls.dagster) as connection:
        query = "SELECT value FROM run_tags WHERE run_id = %s AND key = %s"
        (tag,) = connection.execute(query, (run.dagster_run_id, PROCESS_TAG)).fetchone() or ("",)
    worker = psutil.Process(int(tag.partition(":")[0]))
    processes = [worker, *worker.children(recursive=True)]
    folders: set[Path] = set()
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            folders |= {Path(found) for found in _BASE.findall(" ".join(process.cmdline()) + " ")}
            for group in _GROUP.findall(Path(f"/proc/{process.pid}/cgroup").read_text()):
                folders |= set(Path("/sys/fs/cgroup").glob(f"**/{Path(group).name}"))
    return Traces(worker, tuple(processes), tuple(folders))


def run_processes(served: Serving) -> list[psutil.Process]:
    """The template of runs and all that is below it: runs, and what watches over them and their notebooks."""
    template = psutil.Process(served.pids["run-template"])
    return [template, *template.children(recursive=True)]


def load() -> float:
    """How many processes have waited for the processors during the last minute."""
    return os.getloadavg()[0]


def _events(lines: Iterator[str]) -> Iterator[Event]:
    facts: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            facts[name] = value
        elif "data" in facts:
            yield Event(int(facts["id"]), facts["event"], json.loads(facts["data"]), time.time())
            facts = {}


def _is_kernel(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.name().startswith("python") and _KERNEL in "".join(process.cmdline())
    return False


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def main() -> None:
    """Carry out the run named on the command line."""
    settings = load_settings()
    with Database.open(settings) as database, _studio(settings, database) as studio:
        carry_out(studio, UUID(sys.argv[1]))


if __name__ == "__main__":
    main()
