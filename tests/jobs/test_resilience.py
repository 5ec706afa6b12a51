"""Jobs while services are killed at random: each runs once or ends in error, none is lost.

It takes minutes, most of them for starting processes: `STEMMA_TEST_JOBS` says with how many jobs it runs, if at all.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from stemma import processes
from stemma.access.keys import IssuedKey
from stemma.store import embedded
from stemma.store.database import DatabaseUrls, resolve_urls
from stemma.store.settings import REPOSITORY, Settings

JOBS = int(os.environ.get("STEMMA_TEST_JOBS", "0"))
PORTS = ("STEMMA_API_PORT", "STEMMA_CODE_SERVER_PORT")
KILLED = ("daemon", "code-server", "run-template")
SECONDS_PER_JOB = 3
PAUSES = (5.0, 50.0)
"""Between two kills, in seconds. `stemma up` waits longer and longer for a service that dies again within a minute."""
_EFFECTS = """
    SELECT tags.value, count(*) FROM event_logs JOIN run_tags AS tags USING (run_id)
    WHERE tags.key = 'stemma/job_id' AND dagster_event_type = 'STEP_START' GROUP BY tags.value
"""


def _until(condition: Callable[[], object], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.5)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture
def up(new_home: Callable[[], Path], issue_key: Callable[..., IssuedKey]) -> Iterator[tuple[Settings, httpx.Client]]:
    """A served studio that runs jobs, and a client of its API."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("STEMMA_DATABASE_URL", "STEMMA_DATABASE_OWNER_URL", "STEMMA_DAGSTER_DATABASE_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("STEMMA_HOME", str(new_home()))
        patch.setenv("FF_JOBS_WORKER", "true")
        patch.setenv("STEMMA_API_REQUESTS_PER_MINUTE", "1000000")
        for name, port in zip(PORTS, _free_ports(len(PORTS)), strict=True):
            patch.setenv(name, str(port))
        settings = Settings()
        log = settings.home / "up.out"
        command = [sys.executable, "-m", "cli", "up"]
        with log.open("wb") as out:
            process = subprocess.Popen(command, cwd=REPOSITORY, stdout=out, stderr=out, start_new_session=True)
        try:
            _until(lambda: process.poll() is not None or "Ctrl-C" in log.read_text(), seconds=180)
            assert process.poll() is None, log.read_text()
            key = issue_key(settings, resolve_urls(settings)).key
            with httpx.Client(
                base_url=f"http://127.0.0.1:{settings.api_port}/api/v1",
                headers={"Authorization": f"Bearer {key}"},
                timeout=60,
                trust_env=False,
            ) as client:
                yield settings, client
        finally:
            process.terminate()
            process.wait(60)
            with contextlib.suppress(psutil.Error):
                embedded.stop(settings, force=True)


def _kill(settings: Settings, name: str) -> None:
    tree = processes.running(settings.home)
    for service in tree.services if tree else ():
        if service.name == name and service.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(service.pid, signal.SIGKILL)


@contextlib.contextmanager
def _killing(settings: Settings) -> Iterator[Counter[str]]:
    """Kill a service now and then for the length of the block; counts how often it was which."""
    kills: Counter[str] = Counter()
    chance = random.Random(4)
    ended = threading.Event()

    def kill_now_and_then() -> None:
        while not ended.wait(chance.uniform(*PAUSES)):
            name = chance.choice(KILLED)
            _kill(settings, name)
            kills[name] += 1

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        yield kills
    finally:
        ended.set()
        killer.join()


def _unfinished(urls: DatabaseUrls) -> int:
    with psycopg.connect(urls.app) as connection:
        row = connection.execute("SELECT count(*) FROM jobs WHERE finished_at IS NULL").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.skipif(JOBS == 0, reason="takes minutes: STEMMA_TEST_JOBS says with how many jobs")
def test_each_job_runs_once_or_ends_in_error_while_services_are_killed(up: tuple[Settings, httpx.Client]) -> None:
    settings, client = up
    urls = resolve_urls(settings)
    began = time.monotonic()
    with _killing(settings) as kills:
        for number in range(JOBS):
            made = client.post("/jobs", json={"kind": "noop"}, headers={"Idempotency-Key": str(number)})
            assert made.status_code == 201, made.text
        _until(lambda: not _unfinished(urls), seconds=300 + SECONDS_PER_JOB * JOBS)
    seconds = time.monotonic() - began
    with psycopg.connect(urls.app) as connection:
        ended = connection.execute("SELECT id::text, state, error_message FROM jobs").fetchall()
    with psycopg.connect(urls.dagster) as connection:
        effects = dict(connection.execute(_EFFECTS).fetchall())
    states = Counter(state for _, state, _ in ended)
    print(f"{JOBS} jobs in {seconds:.0f} s, killed {dict(kills)}: {dict(states)}, {sum(effects.values())} effects")  # noqa: T201
    assert len(ended) == JOBS
    assert [row for row in ended if row[1] == "done" and effects.get(row[0]) != 1] == []
    assert [row for row in ended if row[1] == "error" and (effects.get(row[0], 0) > 1 or not row[2])] == []
    assert states["done"] + states["error"] == JOBS
