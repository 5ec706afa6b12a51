"""The API as a process of its own: what it loads, how it starts, how it ends, and what survives."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from stemma.access.keys import IssuedKey
from stemma.store.database import Database
from stemma.store.settings import REPOSITORY, Settings

Process = subprocess.Popen[bytes]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def started(
    settings: Settings,
    database: Database,
    issue_key: Callable[..., IssuedKey],
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., None],
    tmp_path: Any,
) -> Iterator[tuple[Process, httpx.Client]]:
    """`python -m api` over the test's own database, alive; its log goes to `log` in the test's folder."""
    port = free_port()
    monkeypatch.setenv("STEMMA_API_PORT", str(port))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "api"], cwd=REPOSITORY, stderr=log)
    headers = {"Authorization": f"Bearer {issue_key(settings, database.urls).key}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30, trust_env=False) as client:

        def is_alive() -> bool:
            assert process.poll() is None, (tmp_path / "log").read_text()
            with contextlib.suppress(httpx.TransportError):
                return client.get("/healthz").status_code == 200
            return False

        try:
            wait_until(is_alive)
            yield process, client
        finally:
            process.kill()
            process.wait()


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "api"],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_an_acknowledged_upload_survives_kill_9(started: tuple[Process, httpx.Client], settings: Settings) -> None:
    process, client = started
    data = os.urandom(5_000_000).hex().encode()
    answer = client.post("/api/v1/documents", files={"file": ("notes.txt", data)})
    process.kill()
    assert answer.status_code == 201
    assert process.wait() == -signal.SIGKILL
    assert (settings.inbox / "notes.txt").read_bytes() == data


def test_it_ends_cleanly_and_logs_json_lines(started: tuple[Process, httpx.Client], tmp_path: Any) -> None:
    process, client = started
    request_id = client.get("/api/v1/search?q=secret-question").headers["x-request-id"]
    process.terminate()
    assert process.wait(30) == 0
    text = (tmp_path / "log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    (request,) = (line for line in lines if line.get("request_id") == request_id)
    assert (request["route"], request["status"]) == ("/api/v1/search", 503)
    assert [line for line in lines if line["event"] == "listening"]
    assert "secret-question" not in text


def test_a_port_in_use_is_one_clear_line(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run(STEMMA_API_PORT=str(port))
    assert ended.returncode == 5
    assert f"Port {port} on 127.0.0.1 is taken" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_host_beyond_loopback_is_one_clear_line(settings: Settings) -> None:
    ended = run(STEMMA_API_HOST="0.0.0.0", STEMMA_API_PORT=str(free_port()))
    assert ended.returncode == 2
    assert ended.stderr.startswith("STEMMA_API_HOST: ")
    assert len(ended.stderr.splitlines()) == 1


def test_it_loads_neither_dagster_nor_a_model() -> None:
    program = "import sys; from api.app import create_app; create_app().openapi(); print(*sorted(set(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "fastapi" in loaded
    heavy = {"dagster", "torch", "transformers", "sentence_transformers", "pandas", "scipy", "sklearn"}
    assert heavy.intersection(loaded) == set()
