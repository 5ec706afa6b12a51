"""Stored files over HTTP: by a signed URL alone, whole or in part, and never as something that runs."""

from __future__ import annotations

import http.client
import io
import json
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import structlog

from api.app import create_app
from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.store import signed_urls
from stemma.store.database import Database, DatabaseUrls
from stemma.store.files import FileStore
from stemma.store.logs import configure_logging
from stemma.store.settings import Settings

CONTENT = bytes(range(256)) * 4000
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module", params=["local", "memory"])
def studio(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
    issue_key: Callable[..., IssuedKey],
    serve: Callable[..., Any],
) -> Iterator[tuple[Settings, httpx.Client]]:
    """A client with the key of a builder, over each kind of store."""
    urls, home = new_database(), tmp_path_factory.mktemp("files")
    settings = Settings(home=home, files_url=None if request.param == "local" else f"memory://{home.name}")
    store = FileStore.open_default(settings)
    store.write("maps/roads.pmtiles", CONTENT)
    for name in ("page.html", "drawing.svg", "style.css", "image.png", "note.txt", "ä b+c&d?.txt", "a.tar.gz", "x"):
        store.write(f"kinds/{name}", b"<script>alert(1)</script>")
    store.write("empty", b"")
    key = issue_key(settings, urls, role=Role.BUILDER).key
    with Database(urls) as database, serve(create_app(settings, database=database), key=key) as client:
        yield settings, client
    drop_database(urls)


@pytest.fixture
def get(studio: tuple[Settings, httpx.Client]) -> Callable[..., httpx.Response]:
    """Read a file by a URL signed for it, without a key."""
    settings, client = studio

    def read(key: str, name: str | None = None, **headers: str) -> httpx.Response:
        url = signed_urls.sign(settings, key, HOUR, name=name).url
        return httpx.get(f"{client.base_url}{url}", headers=headers, trust_env=False)

    return read


def code(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    return response.status_code, response.json()["code"]


def test_a_file_is_read_whole(get: Callable[..., httpx.Response]) -> None:
    answer = get("maps/roads.pmtiles")
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert (answer.headers["content-length"], answer.headers["accept-ranges"]) == (str(len(CONTENT)), "bytes")
    assert (empty := get("empty")).status_code == 200 and empty.content == b""


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=1023990-", 1_023_990, 1_024_000),
        ("bytes=1023999-99999999", 1_023_999, 1_024_000),
        ("bytes=-10", 1_023_990, 1_024_000),
        ("bytes=-99999999", 0, 1_024_000),
        ("bytes=200000-900000", 200_000, 900_001),
    ],
)
def test_a_part_is_read(get: Callable[..., httpx.Response], asked: str, start: int, stop: int) -> None:
    answer = get("maps/roads.pmtiles", range=asked)
    assert (answer.status_code, answer.content) == (206, CONTENT[start:stop])
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"


@pytest.mark.parametrize("asked", ["bytes=1024000-", "bytes=-0", "bytes=99999999-999999999"])
def test_a_part_beyond_the_end_is_told(get: Callable[..., httpx.Response], asked: str) -> None:
    answer = get("maps/roads.pmtiles", range=asked)
    assert code(answer) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(CONTENT)}"
    assert code(get("empty", range="bytes=0-")) == (416, "range_not_satisfiable")


@pytest.mark.parametrize("asked", ["bytes=5-1", "bytes=0-1,5-6", "lines=1-2", "bytes=-", "bytes=a-b", "bytes=٣-٤"])
def test_what_is_no_single_range_is_ignored(get: Callable[..., httpx.Response], asked: str) -> None:
    assert get("maps/roads.pmtiles", range=asked.encode()).status_code == 200


def test_a_version_is_named_and_a_part_is_of_it(
    studio: tuple[Settings, httpx.Client], get: Callable[..., httpx.Response]
) -> None:
    store = FileStore.open_default(studio[0])
    store.write("changing", b"first version")
    etag = get("changing").headers["etag"]
    assert get("changing").headers["etag"] == etag
    for seen in (etag, f'"x", W/{etag}', "*"):
        assert get("changing", **{"if-none-match": seen}).status_code == 304
    assert get("changing", **{"if-range": etag, "range": "bytes=0-4"}).content == b"first"
    store.write("changing", b"second one now")
    assert get("changing", **{"if-none-match": etag}).content == b"second one now"
    assert get("changing", **{"if-range": etag, "range": "bytes=0-4"}).status_code == 200


@pytest.mark.parametrize(
    ("name", "media_type", "disposition"),
    [
        ("page.html", "text/html; charset=utf-8", "attachment"),
        ("drawing.svg", "image/svg+xml", "attachment"),
        ("style.css", "text/css; charset=utf-8", "attachment"),
        ("image.png", "image/png", "inline"),
        ("note.txt", "text/plain; charset=utf-8", "inline"),
        ("a.tar.gz", "application/octet-stream", "attachment"),
        ("x", "application/octet-stream", "attachment"),
    ],
)
def test_nothing_in_a_file_runs(
    get: Callable[..., httpx.Response], name: str, media_type: str, disposition: str
) -> None:
    answer = get(f"kinds/{name}")
    assert answer.headers["content-type"] == media_type
    assert answer.headers["content-disposition"] == f"{disposition}; filename*=UTF-8''{name}"
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_name_to_save_it_under(get: Callable[..., httpx.Response]) -> None:
    answer = get("kinds/image.png", name="Bild ü.png")
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''Bild%20%C3%BC.png"
    assert get("kinds/ä b+c&d?.txt").content == b"<script>alert(1)</script>"


def test_what_was_not_signed_is_refused(studio: tuple[Settings, httpx.Client]) -> None:
    settings, client = studio
    good = signed_urls.sign(settings, "kinds/note.txt", HOUR).url
    assert client.get(good).status_code == 200
    for wrong in (
        "/files/kinds/note.txt",
        good.replace("note", "page"),
        good.replace("/files/", "/files/../files/../"),
        good.replace("/files/kinds", "/files/%2e%2e/files/kinds"),
        f"{good}&name=x",
        good[:-1],
        f"{good}A",
        "/files/",
        "/files/../../etc/passwd",
        "/files/%2e%2e%2f%2e%2e%2fetc/passwd",
    ):
        assert _refused(client, wrong) == (403, "url_signature_invalid"), wrong
    missing = signed_urls.sign(settings, "kinds/nothing", HOUR).url
    assert code(client.get(missing)) == (404, "file_not_found")
    assert code(client.get(signed_urls.sign(settings, "kinds", HOUR).url)) == (404, "file_not_found")


def _refused(client: httpx.Client, target: str) -> tuple[int, str]:
    """What is said to a request whose path is sent as it stands: httpx tidies `..` away."""
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=10)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, json.load(answer)["code"]
    finally:
        connection.close()


def test_an_expired_url_says_when(studio: tuple[Settings, httpx.Client], wait_until: Callable[..., None]) -> None:
    settings, client = studio
    url = signed_urls.sign(settings, "kinds/note.txt", timedelta(seconds=1)).url
    wait_until(lambda: client.get(url).status_code == 403)
    refused = client.get(url)
    assert code(refused) == (403, "url_expired") and "expired at" in refused.json()["detail"]


def test_a_url_is_signed_over_http(studio: tuple[Settings, httpx.Client], issue_key: Callable[..., IssuedKey]) -> None:
    _, client = studio
    made = client.post("/api/v1/files/sign", json={"path": "kinds/note.txt", "expires_in": 60})
    assert made.status_code == 200
    url = httpx.URL(made.json()["url"])
    assert httpx.get(client.base_url.join(url.raw_path.decode()), trust_env=False).status_code == 200
    for wrong, field in (({"path": "../x"}, "key"), ({"path": "a", "expires_in": 0}, "expires_in")):
        refused = client.post("/api/v1/files/sign", json=wrong)
        assert refused.status_code == 422 and refused.json()["errors"][0]["field"] == field


def test_signatures_are_not_logged(studio: tuple[Settings, httpx.Client]) -> None:
    settings, client = studio
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = list(root.handlers), root.level
    configure_logging("DEBUG", stream=stream)
    try:
        for key in ("kinds/note.txt", "kinds/nothing"):
            url = signed_urls.sign(settings, key, HOUR).url
            client.get(url)
            client.get(f"{url}x")
            assert url.rpartition("=")[2] not in stream.getvalue()
        client.get("/sign-in/stl_0123456789abcdef0123456789abcdef_link")
        assert stream.getvalue().count("/files/{path:path}") == 4 and "stl_" not in stream.getvalue()
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
