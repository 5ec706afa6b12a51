"""Everything killed during a materialization, everything wiped and restored: nothing committed is lost."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import psycopg
import pytest

from resources.instance import fail_interrupted_runs, open_instance
from stemma.knowledge.embedding import Embedder
from stemma.store import embedded
from stemma.store.database import resolve_urls
from stemma.store.settings import REPOSITORY, Settings

Stemma = Callable[..., Any]

WORDS = ["river", "stone", "engine", "letter", "window", "garden", "bridge", "copper", "winter", "signal", "paper"]
VOLUMES, SECTIONS = 20, 12
QUERIES = ("how do I get rid of limescale?", "a bulb with a socket", "E27", "copper bridge in winter")


def _write_volumes(folder: Path, count: int) -> Path:
    folder.mkdir()
    random.seed(7)
    for number in range(count):
        sections = [
            f"## Part {number}.{part}\n\n{' '.join(random.choices(WORDS, k=40))} {number}x{part}.\n"
            for part in range(SECTIONS)
        ]
        (folder / f"volume-{number}.md").write_text(f"# Volume {number}\n\n" + "\n".join(sections))
    return folder


def _answers(done: Stemma) -> list[tuple[Any, ...]]:
    pages = [done("search", query, "-k", "20") for query in QUERIES]
    return [(page["generation"], page["facets"], page["hits"]) for page in pages]


def _cached(settings: Settings) -> int:
    with psycopg.connect(resolve_urls(settings).app) as connection:
        row = connection.execute("SELECT count(*) FROM embedding_cache").fetchone()
    assert row is not None
    return int(row[0])


def _materialize_until(settings: Settings, vectors: int) -> subprocess.Popen[str]:
    """Start to materialize the volumes; returns once so many vectors are committed, the rest being under way."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "materialize", "*", "-p", "volumes"],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 90
    while _cached(settings) < vectors:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    return process


def _kill_everything(settings: Settings, process: subprocess.Popen[str]) -> None:
    """SIGKILL to the command, the database's supervisor, its server and all that these started."""
    status = embedded.status(settings)
    assert status.pid and status.supervisor_pid
    heads = [psutil.Process(pid) for pid in (process.pid, status.supervisor_pid, status.pid)]
    victims = {victim.pid: victim for head in heads for victim in (head, *head.children(recursive=True))}
    for victim in victims.values():
        with contextlib.suppress(psutil.Error):
            victim.kill()


@pytest.fixture(scope="module")
def studio(
    tmp_path_factory: pytest.TempPathFactory,
    new_home: Callable[[], Path],
    write_notes: Callable[[Path], Path],
    equip: Callable[[Settings], Embedder],
) -> Iterator[Settings]:
    """A home with its own embedded server; small batches make an interrupted embedding commit often."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("STEMMA_DATABASE_URL", "STEMMA_DATABASE_OWNER_URL", "STEMMA_DAGSTER_DATABASE_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("STEMMA_HOME", str(new_home()))
        patch.setenv("STEMMA_POSTGRES_SHARED_BUFFERS", "32MB")
        patch.setenv("STEMMA_EMBEDDING_BATCH_SIZE", "4")
        settings = Settings()
        equip(settings)
        yield settings
        embedded.stop(settings, force=True)


def test_a_materialization_goes_on_after_ctrl_c_and_after_everything_was_killed(
    studio: Settings, notes: Path, tmp_path: Path, done: Stemma
) -> None:
    done("sources", "add", "notes", notes)
    done("materialize", "*", "-p", "notes")
    before, few = _answers(done), _cached(studio)

    volumes = _write_volumes(tmp_path / "volumes", VOLUMES)
    total = VOLUMES * SECTIONS
    done("sources", "add", "volumes", volumes)
    process = _materialize_until(studio, few + 1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and told.splitlines()[-1] == "interrupted" and "Traceback" not in told
    assert len(_runs(studio, dg.DagsterRunStatus.FAILURE)) == 1

    committed = _cached(studio)
    process = _materialize_until(studio, committed + 1)
    _kill_everything(studio, process)
    process.communicate()

    assert _answers(done) == before
    kept = _cached(studio)
    assert committed < kept < few + total
    started = _runs(studio, dg.DagsterRunStatus.STARTED)
    assert len(started) == 1
    assert fail_interrupted_runs(studio, resolve_urls(studio), before=time.time()) == 1
    assert set(started) < set(_runs(studio, dg.DagsterRunStatus.FAILURE))

    outcome = done("materialize", "*", "-p", "volumes")
    built = {item["asset"]: item["metadata"] for item in outcome["built"]}
    assert built["knowledge/chunks"]["dagster/row_count"] == total
    assert built["knowledge/embeddings"]["embedded"] == few + total - kept
    assert built["knowledge/search_index"]["dagster/row_count"] == few + total
    assert all(check["passed"] for check in outcome["checks"])
    last = done("search", "volume 19 part 19.11 19x11", "-k", "1")["hits"][0]
    assert "19x11" in last["text"] and _answers(done) != before


def test_a_backup_answers_as_the_studio_did(
    studio: Settings, notes: Path, tmp_path: Path, done: Stemma, stemma: Stemma
) -> None:
    before = _answers(done)
    sources, runs = done("sources", "list"), _runs(studio, dg.DagsterRunStatus.SUCCESS)
    assert runs
    archive = done("db", "backup", tmp_path / "studio.tar")
    assert Path(archive["path"]).stat().st_size == archive["size"]

    assert done("down", "--force") == {"stopped": True}
    shutil.rmtree(studio.home)
    done("sources", "add", "late", notes)
    refused = stemma("db", "restore", tmp_path / "studio.tar")
    assert refused.code == 4 and "--force" in refused.err
    assert "late" in {source["name"] for source in done("sources", "list")}
    restored = done("db", "restore", tmp_path / "studio.tar", "--force")
    assert restored["files"] == archive["files"] > 2

    assert _answers(done) == before
    assert (done("sources", "list"), _runs(studio, dg.DagsterRunStatus.SUCCESS)) == (sources, runs)
    again = done("materialize", "*", "-p", "volumes")
    assert not any(item["changed"] for item in again["built"] if item["asset"] != "knowledge/documents")


def _runs(settings: Settings, status: dg.DagsterRunStatus) -> list[str]:
    with open_instance(settings, resolve_urls(settings)) as instance:
        records = instance.get_run_records(dg.RunsFilter(statuses=[status]))
    return sorted(record.dagster_run.run_id for record in records)
