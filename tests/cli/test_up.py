"""`stemma up` as its user meets it: everything answers, files become searchable, and what is killed comes back."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from stemma import processes
from stemma.access.keys import IssuedKey
from stemma.access.principal import local_principal
from stemma.knowledge import sources
from stemma.knowledge.embedding import Embedder
from stemma.knowledge.models import Source
from stemma.ledger.feed import Filter, list_entries
from stemma.ledger.journal import HISTORIAN
from stemma.ledger.service import Ledger
from stemma.store import embedded
from stemma.store.database import Database, resolve_urls
from stemma.store.settings import REPOSITORY, Settings

Stemma = Callable[..., Any]

LAMP = "# Lamp\n\nThe lamp takes a bulb with an E27 socket.\n"
PORTS = ("STEMMA_API_PORT", "STEMMA_CODE_SERVER_PORT")
PATIENCE = 90.0


def _until(condition: Callable[[], object], *, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Up:
    """A studio that `stemma up` serves in a session of its own, as a terminal starts it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.log = settings.home / "up.out"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli", "up"],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.api = httpx.Client(base_url=f"http://127.0.0.1:{settings.api_port}", timeout=30, trust_env=False)

    def started(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return "Ctrl-C stops everything" in self.log.read_text()

    def first(self, query: str) -> str | None:
        """The document that answers first; None while nothing does, or nobody answers."""
        try:
            answer = self.api.get("/api/v1/search", params={"q": query, "k": 1})
        except httpx.HTTPError:
            return None
        hits = answer.json()["data"] if answer.status_code == 200 else []
        return str(hits[0]["citation"]["uri"]) if hits else None

    def pid(self, name: str) -> int | None:
        """The process of a service that is ready, or of the database's server and its supervisor."""
        if name in ("postgres", "supervisor"):
            status = embedded.status(self.settings)
            return (status.pid if name == "postgres" else status.supervisor_pid) if status.running else None
        tree = processes.running(self.settings.home)
        services = {service.name: service for service in tree.services} if tree else {}
        return services[name].pid if name in services and services[name].state == "ready" else None

    def documents(self) -> set[tuple[str, str, str]]:
        rows = self.api.get("/api/v1/documents").json()["data"]
        return {(row["source"], row["uri"], row["read_at"]) for row in rows}

    def interrupt(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)


def _belonging_to(home: Path) -> list[psutil.Process]:
    """Every process that names this home on its command line or in its environment, apart from this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            named = str(home) in " ".join(process.cmdline()) or process.environ().get("STEMMA_HOME") == str(home)
            if named and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture(scope="module")
def up(
    new_home: Callable[[], Path], equip: Callable[[Settings], Embedder], issue_key: Callable[..., IssuedKey]
) -> Iterator[Up]:
    """A served studio with one document in its inbox, ready for questions."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("STEMMA_DATABASE_URL", "STEMMA_DATABASE_OWNER_URL", "STEMMA_DAGSTER_DATABASE_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("STEMMA_HOME", str(new_home()))
        patch.setenv("STEMMA_POSTGRES_SHARED_BUFFERS", "32MB")
        patch.setenv("FF_JOBS_WORKER", "true")
        for name, port in zip(PORTS, _free_ports(len(PORTS)), strict=True):
            patch.setenv(name, str(port))
        settings = Settings()
        equip(settings)
        settings.inbox.mkdir()
        (settings.inbox / "lamp.md").write_text(LAMP)
        served = Up(settings)
        try:
            _until(served.started)
            key = issue_key(settings, resolve_urls(settings)).key
            served.api.headers["Authorization"] = f"Bearer {key}"
            _until(lambda: served.first("which socket does the bulb need") == "lamp.md")
            yield served
        finally:
            if served.process.poll() is None:
                served.process.terminate()
                served.process.wait(60)
            served.api.close()
            with contextlib.suppress(psutil.Error):
                embedded.stop(settings, force=True)
            for left in _belonging_to(settings.home):
                left.kill()


def test_every_url_that_is_printed_answers(up: Up) -> None:
    urls = re.findall(r"http://\S+", up.log.read_text())
    assert len(urls) == 4
    assert [url for url in urls if f":{up.settings.api_port}/sign-in/stl_" in url] == urls[-1:]
    for url in urls:
        assert up.api.get(url, follow_redirects=True).status_code == 200
    ready = up.api.get("/readyz").json()
    assert ready["status"] == "ready" and all(check["status"] == "ok" for check in ready["checks"].values())
    query = "{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus } } } }"
    headers = {"Origin": str(up.api.base_url).rstrip("/")}
    dagster = up.api.post("/dagster/graphql", json={"query": query}, headers=headers)
    assert dagster.json()["data"]["workspaceOrError"]["locationEntries"] == [{"name": "stemma", "loadStatus": "LOADED"}]


def test_the_link_that_is_printed_signs_in_once(up: Up) -> None:
    (link,) = re.findall(r"http://\S+/sign-in/\S+", up.log.read_text())
    with httpx.Client(timeout=30, trust_env=False) as browser:
        assert browser.post(link).headers["location"] == "/"
        me = browser.get(f"{up.settings.api_url}/api/v1/session").json()
        assert (me["role"], me["session"]["id"] is not None) == ("SUPER_ADMIN", True)
        assert browser.post(link).status_code == 401


def test_a_second_one_on_the_same_home_is_refused(up: Up, stemma: Stemma, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMMA_CODE_SERVER_PORT", str(_free_ports(1)[0]))
    workspace = (up.settings.home / "up" / "workspace.yaml").read_text()
    ended = stemma("up")
    assert (ended.code, ended.out) == (4, "") and len(ended.err.splitlines()) == 1
    assert "already_running" in ended.err and str(up.process.pid) in ended.err
    assert (up.settings.home / "up" / "workspace.yaml").read_text() == workspace
    assert up.first("which socket does the bulb need") == "lamp.md"


def test_a_source_that_was_never_read_is_converted_at_the_first_attempt(up: Up, tmp_path: Path) -> None:
    """The webserver does not mind that it is no partition yet, and the run makes it one."""
    (tmp_path / "rope.md").write_text("# Rope\n\nThe rope is forty metres long.\n")
    with Database.open(up.settings) as database, Ledger(database.urls, up.settings) as ledger:
        new = Source("ropes", "folder", (str(tmp_path),))
        ledger.commit(database.read(lambda connection: sources.register(connection, local_principal(), new))).result(20)
    job = up.api.post("/api/v1/jobs", json={"kind": "convert", "input": {"source": "ropes"}}).json()
    _until(lambda: up.api.get(f"/api/v1/jobs/{job['id']}").json()["finished_at"])
    ended = up.api.get(f"/api/v1/jobs/{job['id']}").json()
    assert (ended["state"], ended["attempt"]) == ("done", 1), ended
    assert any(source == "ropes" for source, _, _ in up.documents())


@pytest.mark.parametrize(
    "name",
    ["code-server", "run-template", "daemon", "webserver", "webserver-readonly", "api", "postgres", "supervisor"],
)
def test_what_is_killed_comes_back_and_search_goes_on(up: Up, name: str) -> None:
    before, documents = up.pid(name), up.documents()
    assert before is not None
    statuses: set[int] = set()
    wrong: set[str] = set()
    recovered = threading.Event()

    def keep_asking() -> None:
        with httpx.Client(base_url=up.api.base_url, headers=up.api.headers, timeout=30, trust_env=False) as client:
            while not recovered.wait(0.05):
                try:
                    answer = client.get("/api/v1/search", params={"q": "E27 bulb socket", "k": 1})
                except httpx.HTTPError:
                    statuses.add(0)
                    continue
                statuses.add(answer.status_code)
                if answer.status_code == 200 and answer.json()["data"][0]["citation"]["uri"] != "lamp.md":
                    wrong.add(answer.text)

    reader = threading.Thread(target=keep_asking)
    reader.start()
    try:
        os.kill(before, signal.SIGKILL)
        _until(lambda: up.pid(name) not in (None, before))
        _until(lambda: up.first("E27 bulb socket") == "lamp.md")
    finally:
        recovered.set()
        reader.join()
    assert wrong == set()
    allowed = {"api": {200, 0}, "postgres": {200, 503}, "supervisor": {200, 503}}
    assert statuses <= allowed.get(name, {200})
    assert up.documents() == documents


def test_a_dropped_and_an_uploaded_file_become_searchable_by_themselves(up: Up) -> None:
    """After every process was killed once: the whole chain works again."""
    (up.settings.inbox / "kettle.md").write_text("# Kettle\n\nBoil vinegar to remove the limescale.\n")
    upload = {"file": ("boat.txt", b"The boat is moored at the northern pier and leaves at high tide.\n")}
    assert up.api.post("/api/v1/documents", files=upload).status_code == 201
    _until(lambda: up.first("how do I remove limescale") == "kettle.md")
    _until(lambda: up.first("where is the boat moored") == "boat.txt")


def test_a_port_in_use_is_told_with_its_setting(
    settings: Settings, stemma: Stemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, port in zip(PORTS, _free_ports(len(PORTS)), strict=True):
        monkeypatch.setenv(name, str(port))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("STEMMA_API_PORT", str(taken.getsockname()[1]))
        ended = stemma("up")
    assert (ended.code, ended.out) == (5, "") and len(ended.err.splitlines()) == 1
    assert "port_in_use" in ended.err and "STEMMA_API_PORT" in ended.err and str(os.getpid()) in ended.err


def test_ctrl_c_ends_everything_and_leaves_no_process(up: Up) -> None:
    embedded.release(up.settings)
    assert len(_belonging_to(up.settings.home)) >= 7
    up.interrupt()
    assert up.process.wait(30) == 0, up.log.read_text()
    assert _belonging_to(up.settings.home) == []
    assert "error" not in up.log.read_text()
    with Database.open(up.settings) as database, database.snapshot() as connection:
        told = list_entries(connection, HISTORIAN, Filter(kind="studio.")).data
    assert [entry.kind for entry in told] == ["studio.stopped", "studio.started"]
