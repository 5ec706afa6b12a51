"""Jobs over HTTP: submitted, followed, cancelled, and started by schedulers outside."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any
from uuid import UUID

import httpx
import pytest

from api.app import create_app
from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.jobs import lifecycle
from stemma.ledger.writer import LedgerWriter
from stemma.store.database import Database
from stemma.store.settings import REPOSITORY, Settings
from stemma.store.webserver import Webserver as WebserverKind
from stemma.store.webserver import socket_path

JOBS = "/api/v1/jobs"
UNKNOWN = "8e03978e-40d5-43dd-bc93-6894a57f9324"
TOKEN = "0123456789abcdef-token"


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def submit(client: httpx.Client, kind: str = "noop", **more: Any) -> str:
    made = client.post(JOBS, json={"kind": kind, **more})
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


@pytest.fixture
def step(database: Database) -> Iterator[Callable[..., Any]]:
    """Move a job on as a run of another process does."""
    with LedgerWriter(database.urls.app) as writer:

        def move(name: str, job_id: str, *more: Any) -> None:
            change = database.read(lambda c: getattr(lifecycle, name)(c, UUID(job_id), "run-1", *more))
            writer.append(change.entries, change.companions).result(20)

        yield move


@contextlib.contextmanager
def events(client: httpx.Client, job_id: str, after: int | None = None) -> Iterator[Iterator[dict[str, Any]]]:
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    with client.stream("GET", f"{JOBS}/{job_id}/events", headers=headers) as response:
        assert response.status_code == 200, response.read()
        lines = response.iter_lines()
        yield (json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: "))


def test_a_job_is_submitted_once_under_a_key_and_listed(client: httpx.Client) -> None:
    wanted = {"kind": "noop", "input": {"message": "hello"}, "priority": 2}
    first = client.post(JOBS, json=wanted, headers={"Idempotency-Key": "k"})
    again = client.post(JOBS, json=wanted, headers={"Idempotency-Key": "k"})
    assert (first.status_code, first.content) == (201, again.content) and again.headers["Idempotency-Replayed"]
    job = first.json()
    assert (job["state"], job["input"]["message"], job["worker"]) == ("queued", "hello", "off")
    assert "FF_JOBS_WORKER" in job["hint"] and job["role"] == "Owner" and job["error"] is None
    listed = client.get(JOBS, params={"kind": "noop", "state": "queued", "actor": job["actor"]}).json()
    assert [item["id"] for item in listed["data"]] == [job["id"]] and listed["worker"] == "off"
    assert client.get(f"{JOBS}/{job['id']}").json() == job
    assert client.get(JOBS, params={"state": "done"}).json()["data"] == []
    assert {kind["name"] for kind in client.get("/api/v1/job-kinds").json()["data"]} >= {"noop", "convert"}


def test_what_cannot_be_asked_for_is_refused(client: httpx.Client) -> None:
    for wanted, status, problem, field in [
        ({"kind": "dance"}, 422, "job_kind_unknown", "kind"),
        ({"kind": "noop", "scheduled_at": "2020-01-01T00:00:00Z"}, 422, "schedule_in_the_past", "scheduled_at"),
        ({"kind": "noop", "scheduled_at": "2020-01-01T00:00:00"}, 422, "request_invalid", "scheduled_at"),
        ({"kind": "noop", "input": {"seconds": "7"}}, 422, "job_input_invalid", "input.seconds"),
        ({"kind": "convert", "input": {"source": "nowhere"}}, 404, "source_unknown", "source"),
        ({"kind": "noop", "priority": 101}, 422, "request_invalid", "priority"),
        ({"kind": "noop", "when": "now"}, 422, "request_invalid", "when"),
    ]:
        refused = client.post(JOBS, json=wanted)
        assert code(refused) == (status, problem), refused.text
        assert field in refused.json()["errors"][0]["field"]
    assert "search-index" in client.post(JOBS, json={"kind": "dance"}).json()["hint"]
    assert code(client.get(f"{JOBS}/{UNKNOWN}")) == (404, "job_unknown")
    assert code(client.get(JOBS, params={"cursor": "x"})) == (422, "cursor_invalid")
    assert client.get(JOBS).json()["data"] == []


def test_a_job_is_cancelled_once(client: httpx.Client, step: Callable[..., None]) -> None:
    queued, running, done = (submit(client) for _ in range(3))
    for job_id in (running, done):
        step("claim", job_id)
    step("finish", done)
    cancelled = client.post(f"{JOBS}/{queued}/cancel", headers={"Idempotency-Key": "k"})
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    again = client.post(f"{JOBS}/{queued}/cancel", headers={"Idempotency-Key": "k"})
    assert again.content == cancelled.content
    assert code(client.post(f"{JOBS}/{queued}/cancel")) == (409, "job_cancelled")
    asked = client.post(f"{JOBS}/{running}/cancel").json()
    assert asked["state"] == "running" and asked["cancel_requested_at"]
    assert code(client.post(f"{JOBS}/{running}/cancel")) == (409, "job_cancelled")
    assert code(client.post(f"{JOBS}/{done}/cancel")) == (409, "job_finished")
    assert code(client.post(f"{JOBS}/{UNKNOWN}/cancel")) == (404, "job_unknown")


def test_of_many_cancels_at_once_one_gets_through(client: httpx.Client) -> None:
    job_id = submit(client)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: client.post(f"{JOBS}/{job_id}/cancel").status_code, range(6)))
    assert sorted(answers) == [200, *[409] * 5]


def test_a_stream_has_every_event_once_resumes_and_ends(client: httpx.Client, step: Callable[..., None]) -> None:
    job_id = submit(client)
    with events(client, job_id) as stream:
        assert next(stream)["kind"] == "submitted"
        step("claim", job_id)
        assert next(stream)["kind"] == "started"
    step("finish", job_id)
    with events(client, job_id, after=1) as resumed:
        assert [(event["seq"], event["kind"]) for event in resumed] == [(2, "started"), (3, "done")]
    with events(client, job_id, after=3) as resumed:
        assert list(resumed) == []
    with events(client, job_id) as whole:
        assert [event["seq"] for event in whole] == [1, 2, 3]
    for address, headers, expected in [
        (f"{JOBS}/{job_id}/events", {"Last-Event-ID": "4"}, (422, "last_event_id_invalid")),
        (f"{JOBS}/{job_id}/events", {"Last-Event-ID": "x"}, (422, "last_event_id_invalid")),
        (f"{JOBS}/{UNKNOWN}/events", {}, (404, "job_unknown")),
    ]:
        assert code(client.get(address, headers=headers)) == expected


def test_a_kind_takes_its_own_permission_too(
    settings: Settings, database: Database, serve: Any, issue_key: Callable[..., IssuedKey]
) -> None:
    key = issue_key(settings, database.urls, role=Role.BUILDER, scopes=["jobs:*"]).key
    with serve(create_app(settings, database=database), key=key) as client:
        submit(client)
        assert code(client.post(JOBS, json={"kind": "search-index"})) == (403, "scope_missing")


class Webserver:
    """Answers as Dagster's does, and keeps what it was asked."""

    def __init__(self, socket: Path) -> None:
        self.asked: list[dict[str, Any]] = []
        self.came = threading.Semaphore(0)
        self.answer: Any = {"data": {"launchRun": {"__typename": "LaunchRunSuccess", "run": {"runId": "run-1"}}}}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.asked.append({"path": self.path, **json.loads(body)})
                said = json.dumps(outer.answer).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)
                outer.came.release()

            def log_message(self, *_: object) -> None:
                """Be quiet."""

        self.server = ThreadingUnixStreamServer(str(socket), Handler)


@pytest.fixture
def webserver(settings: Settings) -> Iterator[Webserver]:
    made = Webserver(socket_path(settings, WebserverKind.FULL))
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.mark.parametrize("answer", [None, {"data": None}, {"data": {"launchRun": {"__typename": "PythonError"}}}, []])
def test_a_committed_job_is_launched_and_survives_what_dagster_says(
    settings: Settings, database: Database, serve: Any, webserver: Webserver, answer: Any
) -> None:
    if answer is not None:
        webserver.answer = answer
    working = settings.model_copy(update={"ff_jobs_worker": True})
    with serve(create_app(working, database=database)) as client:
        submit(client, scheduled_at="2026-12-31T00:00:00Z")
        job_id = submit(client)
        assert webserver.came.acquire(timeout=20)
        (asked,) = webserver.asked
        params = asked["variables"]["params"]
        assert asked["path"] == "/dagster/graphql" and params["selector"]["jobName"] == "job_noop"
        assert {"key": "stemma/job_id", "value": job_id} in params["executionMetadata"]["tags"]
        assert client.get(f"{JOBS}/{job_id}").json()["state"] == "queued"
        assert client.post(JOBS, json={"kind": "noop"}).json()["worker"] == "on"


def test_schedulers_outside_start_jobs_by_name(settings: Settings, database: Database, serve: Any) -> None:
    with_token = Settings(home=settings.home, internal_token=TOKEN)
    with serve(create_app(with_token, database=database)) as client:
        headers = {"x-internal-token": TOKEN}
        for prefix in ("/api/v1", ""):
            started = client.post(f"{prefix}/jobs/noop/run", headers=headers, json={"input": {"message": "cron"}})
            assert started.status_code == 201, started.text
            assert [job["actor"] for job in started.json()["data"]] == ["internal:scheduler"]
        assert code(client.post("/jobs/reread_sources/run", headers=headers)) == (409, "nothing_to_do")
        assert code(client.post("/jobs/dance/run", headers=headers)) == (404, "job_name_unknown")
        assert code(client.post("/jobs/dance/run", headers={"x-internal-token": "x"})) == (
            401,
            "internal_token_invalid",
        )
    with serve(create_app(settings, database=database)) as client:
        refused = client.post("/jobs/noop/run", headers=headers)
        assert code(refused) == (403, "internal_token_unset") and "STEMMA_INTERNAL_TOKEN" in refused.json()["hint"]


def test_a_schedule_queues_all_that_it_stands_for(
    settings: Settings, database: Database, serve: Any, client: httpx.Client
) -> None:
    """`client` has registered the built-in sources."""
    with_token = Settings(home=settings.home, internal_token=TOKEN)
    with serve(create_app(with_token, database=database)) as scheduler:
        headers = {"x-internal-token": TOKEN, "Idempotency-Key": "nightly"}
        answers = [scheduler.post("/api/v1/jobs/reread_sources/run", headers=headers) for _ in range(2)]
        refused = scheduler.post("/jobs/reread_sources/run", headers=headers, json={"input": {"a": 1}})
    assert answers[0].content == answers[1].content
    assert {job["input"]["source"] for job in answers[0].json()["data"]} == {"inbox", "installed-docs"}
    assert len(client.get(JOBS).json()["data"]) == 2
    assert refused.status_code == 422


def test_the_curl_line_of_the_docs_starts_a_job(settings: Settings, database: Database, serve: Any) -> None:
    page = (REPOSITORY / "docs" / "OPERATIONS.md").read_text()
    (line,) = re.findall(r"^(curl .*\n.*/jobs/noop/run)$", page, flags=re.MULTILINE)
    with_token = Settings(home=settings.home, internal_token=TOKEN)
    with serve(create_app(with_token, database=database)) as client:
        command = line.replace("$STEMMA_INTERNAL_TOKEN", TOKEN).replace("http://127.0.0.1:8400", str(client.base_url))
        ended = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout)["data"][0]["kind"] == "noop"
        assert len(client.get(JOBS).json()["data"]) == 1
