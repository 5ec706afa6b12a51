"""A paper with a plan of its own cells, and a studio in which its runs are carried out."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.test_utils import create_run_for_test
from psycopg.types.json import Jsonb

from resources.instance import PROCESS_TAG, open_instance, prepare, tagged_process
from resources.launcher.request import listens, start_run
from stemma.jobs import kinds, launching
from stemma.jobs.model import Job
from stemma.ledger.service import Ledger
from stemma.papers.runs.execution import Studio
from stemma.store.database import Database
from stemma.store.files import FileStore
from stemma.store.settings import REPOSITORY, Settings

_PATIENCE = 120.0


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of temporary files of this test alone; its path is short, as those of sockets have to be."""
    # That of all tests must not come to lie in it.
    tmp_path_factory.getbasetemp()
    with tempfile.TemporaryDirectory(prefix="st-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.fixture
def studio(settings: Settings, database: Database) -> Studio:
    """What runs need."""

    def commit(prepare: Callable[[Any], Any]) -> Any:
        change = database.read(prepare)
        with Ledger(database.urls, settings) as ledger:
            return ledger.commit(change).result(20)

    return Studio(settings, database, FileStore.open_default(settings), commit)


@pytest.fixture
def worker(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Job], psutil.Process]]:
    """Have a job worked on by a run of Dagster's, forked from the template as in a served studio: gives its process."""
    urls = database.urls
    for name, value in prepare(settings, urls).items():
        monkeypatch.setenv(name, value)
    template = [sys.executable, "-m", "resources.launcher.template", "definitions", str(settings.dagster_home)]
    repository = ReconstructableRepository.for_module("definitions", "defs", str(REPOSITORY))
    with subprocess.Popen(template, cwd=REPOSITORY) as process, open_instance(settings, urls) as instance:

        def start(job: Job) -> psutil.Process:
            name = kinds.find(job.kind).dagster_job
            origin = repository.get_reconstructable_job(name).get_python_origin()
            run = create_run_for_test(instance, job_name=name, job_code_origin=origin, tags=launching.run_tags(job))
            _until(lambda: listens(settings.dagster_home))
            start_run(settings.dagster_home, run.run_id, patience=_PATIENCE)
            _until(lambda: PROCESS_TAG in instance.get_run_by_id(run.run_id).tags)
            found = tagged_process(instance.get_run_by_id(run.run_id))
            assert found is not None
            return found

        yield start
        process.kill()


def _until(condition: Callable[[], object]) -> None:
    deadline, pause = time.monotonic() + _PATIENCE, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        pause.wait(0.05)


@pytest.fixture
def plan(database: Database) -> Callable[..., UUID]:
    """Store a paper with a plan that consists of these cells; returns the plan's id."""

    def store(*cells: str, **changed: Any) -> UUID:
        paper_id, plan_id, now = uuid4(), uuid4(), datetime.now(UTC)
        target = {
            "claim": str(uuid4()), "metric": "accuracy", "split": "test", "label": "accuracy", "claimed": 0.5,
            "printed": "0.5", "decimals": 1, "unit": None, "tolerance": 0.1, "page": 1, "box": [0, 0, 1, 1],
            "quote": "0.5",
        }  # fmt: skip
        document = {
            "title": "A paper",
            "targets": [target],
            "dataset": {"name": "none", "package": "numpy", "loader": "none"},
            "method": {"name": "none", "description": "Nothing"},
            "environment": {"packages": []},
            "notebook": [{"source": cell} for cell in cells],
            "alternatives": [
                {"name": "other", "description": "d", "targets": ["accuracy"], "parameters": {"number": 1}}
            ],
            **changed,
        }
        with database.transaction() as connection:
            connection.execute(
                """
                INSERT INTO p2n.papers (id, sha256, title, kind, source, source_ref, file_key, bytes, pages, status,
                    created_at, created_by, updated_at)
                VALUES (%s, '', 'A paper', 'claim_sheet', 'sample', 'a.pdf', 'a.pdf', 1, 1, 'planned', %s, 't', %s)
                """,
                (paper_id, now, now),
            )
            connection.execute(
                """
                INSERT INTO p2n.plans (id, paper_id, version, document, sha256, origin, created_at, created_by)
                VALUES (%s, %s, 1, %s, '', 'person', %s, 'test')
                """,
                (plan_id, paper_id, Jsonb(document), now),
            )
        return plan_id

    return store
