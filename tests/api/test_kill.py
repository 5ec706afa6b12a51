"""`kill -9` of the API under 64 concurrent changes: what was acknowledged is there, whole, and the ledger verifies.

`STEMMA_TEST_KILLS` says how often it is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from stemma.access.keys import IssuedKey
from stemma.store.database import Database
from stemma.store.settings import REPOSITORY, Settings

CLIENTS = 64
KILLS = int(os.environ.get("STEMMA_TEST_KILLS", "2"))
# `python -m api` that works on all clients' requests at once: as it comes, it takes 16 for keys and has the rest wait.
SERVER = f"""
import sys
from api import __main__, limits
limits.IN_FLIGHT["keys"] = {CLIENTS}
sys.exit(__main__.main())
"""


@dataclass
class Told:
    """What the clients were told over all rounds: the new key of each answered request, and those without answer."""

    answered: dict[str, UUID] = field(default_factory=dict)
    unanswered: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serving(port: int, log: Path, wait_until: Callable[..., None]) -> Iterator[subprocess.Popen[bytes]]:
    """The server on this port, alive."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with log.open("ab") as written:
        process = subprocess.Popen([sys.executable, "-c", SERVER], cwd=REPOSITORY, stderr=written, env=environment)

    def is_alive() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200
        return False

    try:
        wait_until(is_alive)
        yield process
    finally:
        process.kill()
        process.wait()


def create(client: httpx.Client, request: str, told: Told) -> bool:
    """Create a key under this Idempotency-Key; False when the server went away before it answered."""
    body = {"name": request, "role": "Viewer", "scopes": ["search:read"]}
    try:
        answer = client.post("/api/v1/keys", json=body, headers={"Idempotency-Key": request})
    except httpx.TransportError:
        told.unanswered.add(request)
        return False
    if answer.status_code == 201:
        told.answered[request] = UUID(answer.json()["id"])
        told.unanswered.discard(request)
    else:
        told.refused.append(answer.text)
    return answer.status_code == 201


def killed_under_load(
    process: subprocess.Popen[bytes], new_client: Callable[[], httpx.Client], told: Told, answers: int
) -> None:
    """Let 64 clients create keys, each the next when the last was answered, and kill the server after some answers."""
    acknowledged = threading.Semaphore(0)

    def work() -> None:
        with new_client() as client:
            while create(client, str(uuid4()), told):
                acknowledged.release()
        # Whoever waits does not wait for ever where clients ended before their time.
        acknowledged.release(answers)

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for _ in range(answers):
        acknowledged.acquire()
    process.send_signal(signal.SIGKILL)
    for thread in threads:
        thread.join()


def test_a_killed_api_loses_nothing_that_it_acknowledged(
    settings: Settings,
    database: Database,
    issue_key: Callable[..., IssuedKey],
    wait_until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    monkeypatch.setenv("STEMMA_API_PORT", str(port))
    monkeypatch.setenv("STEMMA_API_REQUESTS_IN_FLIGHT", str(CLIENTS))
    monkeypatch.setenv("STEMMA_API_REQUESTS_PER_MINUTE", "1000000")
    issued = issue_key(settings, database.urls)

    def new_client() -> httpx.Client:
        headers = {"Authorization": f"Bearer {issued.key}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False)

    told = Told()
    for number in range(KILLS):
        with serving(port, tmp_path / "log", wait_until) as process:
            # What the last server left unanswered is sent again and done once.
            with new_client() as client:
                assert all(create(client, request, told) for request in sorted(told.unanswered))
            killed_under_load(process, new_client, told, CLIENTS + 37 * number)
            assert process.wait() == -signal.SIGKILL
        assert told.refused == [] and len(told.unanswered) == CLIENTS
        compare(database, told, issued.api_key.id)
        verified = subprocess.run(
            [sys.executable, "-m", "cli", "verify", "--json"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert verified.returncode == 0 and json.loads(verified.stdout)["clean"], verified.stdout + verified.stderr
    assert len(told.answered) >= CLIENTS * KILLS


def compare(database: Database, told: Told, first: UUID) -> None:
    """Every acknowledged key has its row and both of its entries, and no row or entry is there without the others."""
    with database.snapshot() as connection:
        rows = dict(connection.execute("SELECT id, name FROM api_keys WHERE id <> %s", (first,)).fetchall())
        entries = {
            chain: [UUID(subject.removeprefix("key/")) for (subject,) in connection.execute(
                "SELECT subject FROM ledger WHERE chain = %s AND kind = 'key.created' ORDER BY seq", (chain,)
            )]
            for chain in ("audit", "historian")
        }  # fmt: skip
    missing = {request for request, key_id in told.answered.items() if rows.get(key_id) != request}
    assert missing == set()
    for created in entries.values():
        assert sorted(created) == sorted([*rows, first])
    assert set(rows.values()) <= told.answered.keys() | told.unanswered
    assert len(set(rows.values())) == len(rows)
