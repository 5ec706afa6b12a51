"""The API as a process of its own: what it loads, how it starts, how it ends, and what survives."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from stemma.access.keys import IssuedKey
from stemma.store.database import Database
from stemma.store.settings import REPOSITORY, Settings

Process = subprocess.Popen[bytes]
Served = tuple[Process, httpx.Client]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def start(
    settings: Settings,
    database: Database,
    issue_key: Callable[..., IssuedKey],
    wait_until: Callable[..., None],
    tmp_path: Any,
) -> Iterator[Callable[[], Served]]:
    """Start `python -m api` over the test's own database, alive; all log to `log` in the test's folder."""
    headers = {"Authorization": f"Bearer {issue_key(settings, database.urls).key}"}
    with contextlib.ExitStack() as ended:
        log = ended.enter_context((tmp_path / "log").open("wb"))

        def begin() -> Served:
            port = free_port()
            environment = {**os.environ, "STEMMA_API_PORT": str(port)}
            process = subprocess.Popen([sys.executable, "-m", "api"], cwd=REPOSITORY, stderr=log, env=environment)
            ended.callback(process.wait)
            ended.callback(process.kill)
            address = f"http://127.0.0.1:{port}"
            client = ended.enter_context(httpx.Client(base_url=address, headers=headers, timeout=30, trust_env=False))

            def is_alive() -> bool:
                assert process.poll() is None, (tmp_path / "log").read_text()
                with contextlib.suppress(httpx.TransportError):
                    return client.get("/healthz").status_code == 200
                return False

            wait_until(is_alive)
            return process, client

        yield begin


@pytest.fixture
def started(start: Callable[[], Served]) -> Served:
    """One process, alive."""
    return start()


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


def test_an_acknowledged_upload_survives_kill_9(started: Served, settings: Settings) -> None:
    process, client = started
    data = os.urandom(5_000_000).hex().encode()
    answer = client.post("/api/v1/documents", files={"file": ("notes.txt", data)})
    process.kill()
    assert answer.status_code == 201
    assert process.wait() == -signal.SIGKILL
    assert (settings.inbox / "notes.txt").read_bytes() == data


def test_what_died_with_a_process_is_answered_by_another_and_not_done_again(
    start: Callable[[], Served], database: Database, wait_until: Callable[..., None]
) -> None:
    (process, one), (_, two) = start(), start()

    def upload(number: int) -> httpx.Response:
        """Send one of 25 uploads to both processes in turn, as long as it takes."""
        clients = itertools.cycle([one, two] if number % 2 else [two, one])
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = next(clients).post("/api/v1/documents", **keyed(f"{number % 25}.md"))
                if answer.is_success:
                    return answer
                assert answer.status_code in (409, 429), answer.text

    lost = one.build_request("POST", "/api/v1/documents", **keyed("lost.md"))
    with socket.create_connection((lost.url.host, lost.url.port or 80)) as unread, ThreadPoolExecutor(8) as threads:
        head = [f"POST {lost.url.path} HTTP/1.1", *(f"{name}: {value}" for name, value in lost.headers.items())]
        unread.sendall("\r\n".join([*head, "", ""]).encode() + lost.read())
        wait_until(lambda: recorded(database) == 1)
        answers = [threads.submit(upload, number) for number in range(100)]
        wait_until(lambda: recorded(database) >= 10)
        process.kill()
        assert {answer.result().json()["name"] for answer in answers} == {f"{number}.md" for number in range(25)}
    replayed = two.post("/api/v1/documents", **keyed("lost.md"))
    assert (replayed.status_code, replayed.headers["idempotency-replayed"]) == (201, "true")
    assert recorded(database) == 26


def keyed(name: str) -> dict[str, Any]:
    """An upload with its name as its key."""
    return {"files": {"file": (name, b"# " + name.encode())}, "headers": {"Idempotency-Key": name}}


def recorded(database: Database) -> int:
    """How many uploads the ledger has."""
    row = database.read(
        lambda connection: connection.execute(
            "SELECT count(*) FROM ledger WHERE chain = 'audit' AND kind = 'document.uploaded'"
        ).fetchone()
    )
    assert row is not None
    return int(row[0])


def test_it_ends_cleanly_and_logs_json_lines(started: Served, tmp_path: Any) -> None:
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


def test_streams_end_with_the_server_and_do_not_hold_it_up(started: Served, tmp_path: Any) -> None:
    process, client = started
    address = "/api/v1/historian/stream"
    with (
        client.stream("GET", address, params={"since": "2000-01-01T00:00Z"}) as busy,
        client.stream("GET", address, params={"since": "2999-01-01T00:00Z"}) as idle,
    ):
        lines = busy.iter_lines()
        assert next(line for line in lines if line.startswith("id: ")) == "id: 1"
        process.terminate()
        # They end as whole responses do; one that is cut off raises.
        assert list(lines) == [""] and list(idle.iter_lines()) == []
        assert process.wait(30) == 0
    assert "graceful shutdown exceeded" not in (tmp_path / "log").read_text()


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
