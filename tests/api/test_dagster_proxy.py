"""The Dagster UI behind the login: real webservers, and whoever tries to launch a run without being allowed to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml
from playwright.sync_api import Response, expect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api import dagster_proxy
from api.app import create_app
from api.dagster_proxy import SUBPROTOCOL
from api.sessions import COOKIE
from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.browser import find, launched
from stemma.errors import Unavailable
from stemma.store import webserver
from stemma.store.database import Database, DatabaseUrls
from stemma.store.settings import REPOSITORY, Settings
from stemma.store.webserver import Webserver

Serve = Callable[..., AbstractContextManager[httpx.Client]]

CODE = """
import dagster as dg

@dg.asset
def greeting():
    return dg.MaterializeResult(metadata={"words": 2})

defs = dg.Definitions(assets=[greeting], jobs=[dg.define_asset_job("greet")])
"""
LAUNCH = """
mutation Launch {
  launchRun(executionParams: {mode: "default", runConfigData: {}, selector: {
    repositoryLocationName: "tiny", repositoryName: "__repository__", jobName: "greet"}}) {
    __typename ... on PythonError { message } }
}
"""
RUNS = "{ runsOrError { ... on Runs { results { runId } } } }"


@dataclass(frozen=True)
class Studio:
    """The API before both webservers, with a key of each kind."""

    api: httpx.Client
    settings: Settings
    urls: DatabaseUrls
    editor: str
    viewer: str

    @property
    def origin(self) -> str:
        return str(self.api.base_url).rstrip("/")

    def post(self, key: str, body: Any, *, content: bytes | None = None, **headers: str) -> httpx.Response:
        sent = {"Authorization": f"Bearer {key}", "Origin": self.origin, "Content-Type": "application/json", **headers}
        return self.api.post("/dagster/graphql", content=content or json.dumps(body), headers=sent)

    def runs(self) -> int:
        with webserver.client(self.settings) as direct:
            answer = direct.post("/graphql", json={"query": RUNS})
        return len(answer.json()["data"]["runsOrError"]["results"])

    def converse(
        self,
        key: str | None,
        talk: Callable[[ClientConnection], Awaitable[Any]],
        *,
        host: str = "127.0.0.1",
        **more: str,
    ) -> Any:
        """Open the websocket as a browser does that was told this host, and talk."""
        sent = {"Origin": self.origin, **more} | ({"Authorization": f"Bearer {key}"} if key else {})
        port = int(self.origin.rpartition(":")[2])

        async def run() -> Any:
            options: dict[str, Any] = {"host": "127.0.0.1", "subprotocols": [SUBPROTOCOL], "proxy": None}
            url = f"ws://{host}:{port}/dagster/graphql"
            async with asyncio.timeout(30), connect(url, additional_headers=sent, **options) as connection:
                return await talk(connection)

        return asyncio.run(run())


@pytest.fixture(scope="module")
def studio(
    new_home: Callable[[], Path],
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
    issue_key: Callable[..., IssuedKey],
    serve: Serve,
    wait_until: Callable[..., None],
) -> Iterator[Studio]:
    urls, home = new_database(), new_home()
    settings = Settings(home=home, api_requests_per_minute=1_000_000)
    # Runs stay queued: no daemon is there to take them.
    (home / "dagster.yaml").write_text("run_queue: {}\ntelemetry: {enabled: false}\nnux: {enabled: false}\n")
    (home / "tiny.py").write_text(CODE)
    workspace = home / "workspace.yaml"
    workspace.write_text(
        yaml.safe_dump({"load_from": [{"python_file": {"relative_path": "tiny.py", "location_name": "tiny"}}]})
    )
    environment = {**os.environ, "DAGSTER_HOME": str(home), "STEMMA_HOME": str(home)}
    with contextlib.ExitStack() as ended:
        ended.callback(drop_database, urls)
        # One after the other, as `stemma up` starts them: the first makes the instance's tables.
        for each in Webserver:
            log = ended.enter_context((home / f"{each}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", "cli.webserver", each, str(workspace)],
                cwd=REPOSITORY,
                env=environment,
                stdout=log,
                stderr=log,
            )
            ended.callback(process.wait)
            ended.callback(process.terminate)

            def answers(each: Webserver = each, process: subprocess.Popen[bytes] = process) -> bool:
                assert process.poll() is None, (home / f"{each}.log").read_text()
                with contextlib.suppress(httpx.TransportError), webserver.client(settings, each) as direct:
                    return direct.get("/server_info").status_code == 200
                return False

            wait_until(answers, seconds=300)
        database = ended.enter_context(Database(urls))
        api = ended.enter_context(serve(create_app(settings, database=database), key=None))
        editor = issue_key(settings, urls, role=Role.BUILDER).key
        viewer = issue_key(settings, urls, role=Role.VIEWER).key
        yield Studio(api, settings, urls, editor, viewer)


# Who may launch


def test_an_editor_launches_a_run(studio: Studio) -> None:
    before = studio.runs()
    answer = studio.post(studio.editor, {"query": LAUNCH})
    assert answer.json()["data"]["launchRun"] == {"__typename": "LaunchRunSuccess"}
    assert studio.runs() == before + 1


def test_dagster_allows_a_viewer_nothing(studio: Studio) -> None:
    answer = studio.post(studio.viewer, {"query": "{ permissions { permission value } }"})
    permissions = {one["permission"]: one["value"] for one in answer.json()["data"]["permissions"]}
    assert permissions["launch_pipeline_execution"] is False and not any(permissions.values())


def _escaped() -> bytes:
    return json.dumps({"query": LAUNCH}).replace("mutation", "\\u006dutation").encode()


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (json.dumps({"query": LAUNCH}).encode(), 200),
        (_escaped(), 200),
        (b"\n" + json.dumps({"query": "# query\n" + LAUNCH, "operationName": "Launch"}).encode(), 200),
        (json.dumps([{"query": LAUNCH}, {"query": RUNS}]).encode(), 422),
    ],
    ids=["plain", "escaped", "named", "batch"],
)
def test_a_viewer_launches_none_by_post(studio: Studio, content: bytes, status: int) -> None:
    before = studio.runs()
    answer = studio.post(studio.viewer, None, content=content)
    assert answer.status_code == status
    if status == 200:
        assert answer.json()["data"]["launchRun"]["__typename"] == "UnauthorizedError"
    assert studio.runs() == before


@pytest.mark.parametrize("name", ["editor", "viewer"])
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/dagster/graphql", 405),
        ("/dagster/graphql/", 405),
        ("/dagster/%67raphql", 405),
        ("/dagster//graphql", 405),
        ("/dagster/x//graphql", 404),
        ("/dagster/x%2f..%2fgraphql", 404),
        ("/dagster/./graphql", 404),
        # Dagster's own page: the web server decoded once, nothing decodes again.
        ("/dagster/%2567raphql", 200),
    ],
)
def test_nobody_launches_by_a_link(studio: Studio, name: str, path: str, status: int) -> None:
    before = studio.runs()
    port = int(studio.origin.rpartition(":")[2])
    query = httpx.QueryParams(query=LAUNCH)
    # httpx would tidy the path up.
    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
        lines = [f"GET {path}?{query} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: close", "Accept: text/html"]
        raw.sendall("\r\n".join([*lines, f"Authorization: Bearer {getattr(studio, name)}", "", ""]).encode())
        with raw.makefile("rb") as answer:
            assert int(answer.readline().split()[1]) == status
    assert studio.runs() == before


@pytest.mark.parametrize("media_type", ["application/graphql", "text/plain; application/json", ""])
def test_what_is_not_json_is_refused(studio: Studio, media_type: str) -> None:
    """Dagster takes the query of such a request from its address, and any site could send it."""
    before = studio.runs()
    answer = studio.api.post(
        "/dagster/graphql",
        params={"query": LAUNCH},
        content=LAUNCH,
        headers={"Authorization": f"Bearer {studio.editor}", "Origin": studio.origin, "Content-Type": media_type},
    )
    assert (answer.status_code, answer.json()["code"]) == (415, "graphql_not_json")
    assert studio.runs() == before


@pytest.mark.parametrize(
    ("origin", "code"),
    [("http://evil.example", "origin_foreign"), ("null", "origin_foreign"), (None, "origin_missing")],
)
def test_a_foreign_origin_is_refused(studio: Studio, origin: str | None, code: str) -> None:
    before = studio.runs()
    headers = {"Authorization": f"Bearer {studio.editor}"} | ({"Origin": origin} if origin else {})
    answer = studio.api.post("/dagster/graphql", json={"query": LAUNCH}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, code)
    assert studio.runs() == before


def test_a_scope_is_needed_to_operate(studio: Studio, issue_key: Callable[..., IssuedKey]) -> None:
    reader = issue_key(studio.settings, studio.urls, role=Role.OWNER, scopes=["jobs:read"]).key
    stranger = issue_key(studio.settings, studio.urls, role=Role.OWNER, scopes=["search:*"]).key
    before = studio.runs()
    answer = studio.post(reader, {"query": LAUNCH})
    assert answer.json()["data"]["launchRun"]["__typename"] == "UnauthorizedError"
    refused = studio.post(stranger, {"query": RUNS})
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    assert studio.runs() == before


@pytest.mark.parametrize("path", ["report_asset_materialization/greeting", "graphql/x", "", "server_info"])
def test_nothing_but_graphql_takes_a_post(studio: Studio, path: str) -> None:
    headers = {"Authorization": f"Bearer {studio.editor}", "Origin": studio.origin}
    assert studio.api.post(f"/dagster/{path}", json={}, headers=headers).status_code == 405


# The websocket


async def _ask(connection: ClientConnection, query: str) -> dict[str, Any]:
    await connection.send(json.dumps({"type": "connection_init"}))
    assert json.loads(await connection.recv()) == {"type": "connection_ack"}
    await connection.send(json.dumps({"type": "start", "id": "1", "payload": {"query": query}}))
    return dict(json.loads(await connection.recv()))


SUBSCRIBE = "subscription { locationStateChangeEvents { event { eventType } } }"


@pytest.mark.parametrize("name", ["editor", "viewer"])
def test_the_websocket_launches_nothing_and_subscribes(studio: Studio, name: str) -> None:
    before = studio.runs()

    async def talk(connection: ClientConnection) -> str | None:
        assert (await _ask(connection, LAUNCH))["type"] == "error"
        await connection.send(json.dumps({"type": "start", "id": "2", "payload": {"query": SUBSCRIBE}}))
        await connection.send(json.dumps({"type": "connection_terminate"}))
        with pytest.raises(ConnectionClosed):
            while True:
                assert "error" not in json.loads(await connection.recv())["type"]
        return connection.subprotocol

    assert studio.converse(getattr(studio, name), talk) == SUBPROTOCOL
    assert studio.runs() == before


@pytest.mark.parametrize(
    ("key", "changes", "status", "code"),
    [
        (False, {}, 401, "key_missing"),
        (True, {"Origin": "http://evil.example"}, 403, "origin_foreign"),
        (True, {"host": "evil.example"}, 421, "host_not_loopback"),
    ],
)
def test_the_websocket_is_guarded_before_it_opens(
    studio: Studio, key: bool, changes: dict[str, str], status: int, code: str
) -> None:
    async def talk(_: ClientConnection) -> None:
        raise AssertionError("it opened")

    with pytest.raises(InvalidStatus) as refused:
        studio.converse(studio.editor if key else None, talk, **changes)
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body)["code"] == code


def test_a_websocket_that_dagster_s_pages_do_not_open_is_refused(studio: Studio) -> None:
    async def opens(path: str, *subprotocols: Any, **more: Any) -> int:
        headers = {"Authorization": f"Bearer {studio.editor}", **more}
        url = studio.origin.replace("http", "ws") + path
        with pytest.raises(InvalidStatus) as refused:
            async with (
                asyncio.timeout(30),
                connect(url, additional_headers=headers, subprotocols=subprotocols or None, proxy=None),
            ):
                pass
        return refused.value.response.status_code

    assert asyncio.run(opens("/dagster/graphql", SUBPROTOCOL)) == 403
    assert asyncio.run(opens("/dagster/graphql", Origin=studio.origin)) == 422
    assert asyncio.run(opens("/dagster/graphql", "graphql-transport-ws", Origin=studio.origin)) == 422
    assert asyncio.run(opens("/api/v1/search", Origin=studio.origin)) == 403


def test_a_revoked_key_ends_its_websocket(
    studio: Studio, issue_key: Callable[..., IssuedKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dagster_proxy, "_SECONDS_BETWEEN_LOOKS", 0.05)
    issued = issue_key(studio.settings, studio.urls, role=Role.VIEWER)

    async def talk(connection: ClientConnection) -> int | None:
        with psycopg.connect(studio.urls.owner) as database:
            database.execute("UPDATE api_keys SET revoked_at = now() WHERE id = %s", (issued.api_key.id,))
        with pytest.raises(ConnectionClosed):
            await connection.recv()
        return connection.close_code

    assert studio.converse(issued.key, talk) == 1008


# In a session, by a browser


@pytest.fixture
def signed_in(studio: Studio) -> Iterator[Callable[[str], httpx.Client]]:
    """A browser that traded a key for a session."""
    with contextlib.ExitStack() as ended:

        def sign_in(key: str) -> httpx.Client:
            client = ended.enter_context(httpx.Client(base_url=studio.api.base_url, timeout=30, trust_env=False))
            client.headers["Origin"] = studio.origin
            assert client.post("/sign-in", data={"key": key}).status_code == 303
            return client

        yield sign_in


def test_a_session_serves_with_the_origin_for_its_token(
    studio: Studio, signed_in: Callable[[str], httpx.Client]
) -> None:
    viewer, editor = signed_in(studio.viewer), signed_in(studio.editor)
    before = studio.runs()
    answer = viewer.post("/dagster/graphql", json={"query": LAUNCH})
    assert answer.json()["data"]["launchRun"]["__typename"] == "UnauthorizedError"
    for origin in ("http://evil.example", "null", ""):
        refused = editor.post("/dagster/graphql", json={"query": LAUNCH}, headers={"Origin": origin})
        assert (refused.status_code, refused.json()["code"]) == (403, "origin_foreign")
    assert studio.runs() == before
    answer = editor.post("/dagster/graphql", json={"query": LAUNCH})
    assert answer.json()["data"]["launchRun"]["__typename"] == "LaunchRunSuccess"
    # Everywhere else the token is asked for.
    assert editor.post("/sign-out").json()["code"] == "csrf_token_missing"


def test_a_websocket_ends_with_its_session(
    studio: Studio, signed_in: Callable[[str], httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dagster_proxy, "_SECONDS_BETWEEN_LOOKS", 0.05)
    browser = signed_in(studio.viewer)
    token = browser.get("/api/v1/session").json()["session"]["csrf_token"]

    async def talk(connection: ClientConnection) -> int | None:
        await connection.send(json.dumps({"type": "connection_init"}))
        assert json.loads(await connection.recv()) == {"type": "connection_ack"}
        signed_out = await asyncio.to_thread(browser.post, "/sign-out", headers={"X-CSRF-Token": token})
        assert signed_out.status_code == 303
        with pytest.raises(ConnectionClosed):
            await connection.recv()
        return connection.close_code

    assert studio.converse(None, talk, Cookie=f"{COOKIE}={browser.cookies[COOKIE]}") == 1008


def test_whoever_is_not_signed_in_is_shown_the_way(studio: Studio) -> None:
    answer = studio.api.get("/dagster/runs?a=1", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=/dagster/runs%3Fa%3D1")


@pytest.mark.parametrize("name", ["editor", "viewer"])
def test_the_ui_works_in_a_browser(studio: Studio, name: str, wait_until: Callable[..., None]) -> None:
    try:
        find(studio.settings)
    except Unavailable as error:
        pytest.skip(str(error))
    before = studio.runs()
    wrong: list[str] = []
    frames: list[str] = []

    def answered(answer: Response) -> None:
        if answer.status > 399 or not answer.url.removeprefix("blob:").startswith(studio.origin):
            wrong.append(f"{answer.status} {answer.url}")

    with launched(studio.settings) as browser, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{studio.origin}/dagster/asset-groups")
        page.get_by_label("API key").fill(getattr(studio, name))
        page.on("requestfailed", lambda request: wrong.append(f"{request.failure} {request.url}"))
        page.on("response", answered)
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("websocket", lambda opened: opened.on("framereceived", lambda frame: frames.append(str(frame))))
        page.get_by_role("button", name="Sign in").click()
        # The node of the graph.
        expect(page.locator("foreignObject").get_by_text("greeting").first).to_be_visible(timeout=90_000)
        materialize = page.get_by_role("button", name="Materialize").first
        if name == "editor":
            materialize.click()
            wait_until(lambda: studio.runs() == before + 1)
        else:
            expect(materialize).to_be_disabled(timeout=30_000)
    assert "connection_ack" in frames[0]
    assert wrong == []


# What passes, and what does not


ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nSet-Cookie: stemma_session=theirs\r\n"
    b"Access-Control-Allow-Origin: *\r\nKeep-Alive: timeout=5\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\nok"
)


class Listener:
    """A Dagster that only remembers what reached it, and sets a cookie."""

    def __init__(self, path: Path) -> None:
        self.received: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection, connection.makefile("rb") as reader:
                    head = b"".join(iter(reader.readline, b"\r\n"))
                    length = re.search(rb"(?i)^content-length: (\d+)", head, re.MULTILINE)
                    self.received.append(head + reader.read(int(length[1]) if length else 0))
                    connection.sendall(ANSWER)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def listener(settings: Settings) -> Iterator[Listener]:
    opened = Listener(webserver.socket_path(settings, Webserver.FULL))
    yield opened
    opened.close()


def test_no_credential_of_ours_reaches_dagster(
    listener: Listener, settings: Settings, database: Database, serve: Serve, issue_key: Callable[..., IssuedKey]
) -> None:
    key = issue_key(settings, database.urls).key
    with serve(create_app(settings, database=database), key=key) as api:
        origin = str(api.base_url).rstrip("/")
        headers = {
            "Cookie": "stemma_session=secret-cookie; other=secret-other",
            "X-CSRF-Token": "secret-token",
            "Proxy-Authorization": "Basic secret-proxy",
            "Connection": "X-Hop",
            "X-Hop": "secret-hop",
            "Origin": origin,
        }
        answers = [
            api.get("/dagster/runs", params={"q": "a b"}, headers=headers),
            api.post("/dagster/graphql?token=secret", json={"query": RUNS}, headers=headers),
        ]
    assert [answer.text for answer in answers] == ["ok", "ok"]
    for answer in answers:
        assert {"set-cookie", "access-control-allow-origin", "keep-alive", "x-hop"}.isdisjoint(answer.headers)
    first, second = listener.received
    assert first.startswith(b"GET /dagster/runs?q=a+b HTTP/1.1\r\n")
    assert second.startswith(b"POST /dagster/graphql HTTP/1.1\r\n") and RUNS.encode() in second
    for received in listener.received:
        assert b"secret" not in received and key.encode() not in received
        assert b"cookie" not in received.lower() and b"authorization" not in received.lower()


def test_static_files_are_kept_by_the_browser(studio: Studio) -> None:
    headers = {"Authorization": f"Bearer {studio.viewer}", "Accept": "text/html"}
    page = studio.api.get("/dagster", headers=headers, follow_redirects=True)
    assert page.status_code == 200 and "nonce-" in page.headers["content-security-policy"]
    start = page.text.index("/dagster/_next/static/chunks/main-")
    script = page.text[start : page.text.index('"', start)]
    first = studio.api.get(script, headers=headers)
    assert first.status_code == 200 and "immutable" in first.headers["cache-control"]
    again = studio.api.get(script, headers={**headers, "If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_body_has_its_limit(studio: Studio) -> None:
    answer = studio.post(studio.editor, {"query": "#" * (1 << 20)})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


# A webserver that is away


@pytest.fixture
def alone(
    settings: Settings, database: Database, serve: Serve, issue_key: Callable[..., IssuedKey]
) -> Iterator[httpx.Client]:
    """The API of a studio without webservers."""
    key = issue_key(settings, database.urls).key
    with serve(create_app(settings, database=database), key=key) as api:
        yield api


def test_without_a_webserver_one_is_told_what_to_do(alone: httpx.Client) -> None:
    answer = alone.get("/dagster/runs")
    assert (answer.status_code, answer.json()["code"]) == (503, "dagster_not_running")
    assert "stemma up" in answer.json()["hint"] and answer.headers["retry-after"] == "5"
    page = alone.get("/dagster/runs", headers={"Accept": "text/html"})
    assert page.status_code == 503 and page.headers["content-type"].startswith("text/html")
    assert "stemma up" in page.text


def test_a_webserver_that_breaks_off_is_a_bad_gateway(settings: Settings, alone: httpx.Client) -> None:
    with socket.socket(socket.AF_UNIX) as broken:
        broken.bind(str(webserver.socket_path(settings, Webserver.FULL)))
        broken.listen()
        closing = threading.Thread(target=lambda: broken.accept()[0].close())
        closing.start()
        answer = alone.get("/dagster/runs")
        closing.join()
    assert (answer.status_code, answer.json()["code"]) == (502, "dagster_failed")


# The sockets


def test_nobody_else_reaches_the_sockets(new_home: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    place = new_home()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    for home in (place / "home", place / ("h" * 100)):
        path = webserver.socket_path(Settings(home=home), Webserver.READ_ONLY)
        assert len(os.fsencode(path)) <= 107 and path.parent.stat().st_mode & 0o777 == 0o700
        path.parent.chmod(0o755)
        with pytest.raises(Unavailable) as refused:
            webserver.socket_path(Settings(home=home), Webserver.READ_ONLY)
        assert refused.value.code == "socket_folder_unsafe"
