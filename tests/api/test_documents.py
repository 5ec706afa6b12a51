from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from api.app import create_app
from api.limits import IN_FLIGHT
from stemma.knowledge import sources
from stemma.knowledge.documents import sync_documents
from stemma.store.database import Database
from stemma.store.settings import Settings

DOCUMENTS = "/api/v1/documents"
MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}


def send(client: httpx.Client, name: str, data: bytes, **params: str) -> httpx.Response:
    return client.post(DOCUMENTS, files={"file": (name, data)}, params=params)


def refusal(response: httpx.Response) -> tuple[int, str, str | None]:
    body = response.json()
    return response.status_code, body["code"], next((error["field"] for error in body["errors"]), None)


def in_inbox(settings: Settings) -> list[str]:
    return sorted(path.name for path in settings.inbox.rglob("*") if path.is_file())


@pytest.fixture
def small(settings: Settings, database: Database, serve: Any) -> Iterator[httpx.Client]:
    """An API that takes documents of at most 100,000 bytes."""
    with serve(create_app(settings.model_copy(update={"max_document_bytes": 100_000}), database=database)) as opened:
        yield opened


def test_an_uploaded_file_lies_whole_in_the_inbox(client: httpx.Client, settings: Settings) -> None:
    data = b"# Minutes\n" + os.urandom(3_000_000).hex().encode()
    response = send(client, "minutes.md", data)
    assert response.status_code == 201
    assert response.json() == {
        "name": "minutes.md",
        "source": "inbox",
        "uri": "minutes.md",
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "status": "created",
    }
    assert (settings.inbox / "minutes.md").read_bytes() == data
    assert in_inbox(settings) == ["minutes.md"]


def test_an_upload_is_on_the_ledger_with_who_sent_it(client: httpx.Client, database: Database) -> None:
    sha256 = send(client, "a\u00a0b.md", b"# A").json()["sha256"]
    assert send(client, "a\u00a0b.md", b"# B").status_code == 409
    with database.snapshot() as connection:
        rows = connection.execute(
            "SELECT actor, resource, meta FROM audit WHERE action = 'document.uploaded'"
        ).fetchall()
    ((actor, resource, meta),) = rows
    assert actor.startswith("key:")
    assert (resource, meta["name"], meta["status"]) == (f"document/{sha256}", "a\u00a0b.md", "created")


def test_the_uri_of_an_upload_is_that_of_the_document(
    client: httpx.Client, settings: Settings, database: Database
) -> None:
    uri = send(client, "Größe 😀.md", "# Größe\n\nEin Absatz.".encode()).json()["uri"]
    sync_documents(database, sources.inbox_source(settings), settings)
    (document,) = client.get(DOCUMENTS, params={"source": "inbox"}).json()["data"]
    assert document["uri"] == uri == "Größe 😀.md"
    assert document["title"] == "Größe"


def test_the_same_bytes_again_change_nothing(client: httpx.Client, settings: Settings) -> None:
    assert send(client, "a.md", b"# One").status_code == 201
    before = (settings.inbox / "a.md").stat()
    again = send(client, "a.md", b"# One")
    assert (again.status_code, again.json()["status"]) == (200, "unchanged")
    after = (settings.inbox / "a.md").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_other_bytes_under_the_same_name_need_replace(client: httpx.Client, settings: Settings) -> None:
    send(client, "a.md", b"# One")
    assert refusal(send(client, "a.md", b"# Two")) == (409, "file_exists", "file")
    assert (settings.inbox / "a.md").read_bytes() == b"# One"
    replaced = send(client, "a.md", b"# Two", replace="true")
    assert (replaced.status_code, replaced.json()["status"]) == (200, "replaced")
    assert (settings.inbox / "a.md").read_bytes() == b"# Two"


@pytest.mark.parametrize("replace", ["true", "false"])
def test_uploads_of_one_name_at_once_never_mix(client: httpx.Client, settings: Settings, replace: str) -> None:
    contents = [bytes([letter]) * 400_000 for letter in b"abcd"]
    with ThreadPoolExecutor(len(contents)) as threads:
        answers = list(threads.map(lambda data: send(client, "a.txt", data, replace=replace), contents))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == ([200, 200, 200, 201] if replace == "true" else [201, 409, 409, 409])
    final = (settings.inbox / "a.txt").read_bytes()
    assert final in contents
    if replace == "false":
        (winner,) = (answer for answer in answers if answer.status_code == 201)
        assert winner.json()["sha256"] == hashlib.sha256(final).hexdigest()
    assert in_inbox(settings) == ["a.txt"]


@pytest.mark.parametrize(
    "name",
    [
        *("../up.md", "/etc/up.md", "a/b.md", "a\\b.md", "..", " a.md", "a.md "),
        *(".hidden.md", "~$lock.docx", "x.md.part", "x.md~", "x" * 250 + ".md"),
    ],
)
def test_unusable_names_are_refused(visitor: httpx.Client, empty: tuple[Settings, Database], name: str) -> None:
    assert refusal(send(visitor, name, b"# A")) == (422, "file_name_invalid", "file")
    assert in_inbox(empty[0]) == []


def test_control_characters_in_a_name_are_refused(visitor: httpx.Client, empty: tuple[Settings, Database]) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a\0b.md"\r\n\r\n# A\r\n--b--\r\n'
    response = visitor.post(DOCUMENTS, content=body, headers=MULTIPART)
    assert refusal(response)[0] in (400, 422)
    assert in_inbox(empty[0]) == []


def test_unsupported_and_empty_files_are_refused(visitor: httpx.Client, empty: tuple[Settings, Database]) -> None:
    response = send(visitor, "film.mp4", b"\0\0\0\x18ftypmp42")
    assert refusal(response) == (415, "unsupported_type", "file")
    assert ".docx" in response.json()["hint"]
    assert refusal(send(visitor, "a.md", b"")) == (422, "file_empty", "file")
    assert in_inbox(empty[0]) == []


def test_a_request_without_a_file_or_with_two(visitor: httpx.Client) -> None:
    assert refusal(visitor.post(DOCUMENTS)) == (422, "request_invalid", "file")
    assert refusal(visitor.post(DOCUMENTS, json={"file": "a.md"})) == (422, "request_invalid", "file")
    assert refusal(visitor.post(DOCUMENTS, data={"file": "a.md"})) == (422, "request_invalid", "file")
    two = visitor.post(DOCUMENTS, files=[("file", ("a.md", b"# A")), ("file", ("b.md", b"# B"))])
    assert refusal(two) == (400, "bad_request", None)
    broken = visitor.post(DOCUMENTS, content=b"--x", headers=MULTIPART)
    assert broken.status_code == 400


def test_a_file_over_the_limit_is_refused_however_it_is_sent(small: httpx.Client, settings: Settings) -> None:
    assert send(small, "a.txt", b"x" * 100_000).status_code == 201
    assert refusal(send(small, "b.txt", b"x" * 100_001)) == (413, "file_too_large", "file")
    assert refusal(send(small, "c.txt", b"x" * 5_000_000)) == (413, "body_too_large", None)

    def unannounced() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="d.txt"\r\n\r\n'
        for _ in range(50):
            yield b"x" * 100_000
        yield b"\r\n--b--\r\n"

    chunked = small.post(DOCUMENTS, content=unannounced(), headers=MULTIPART)
    assert refusal(chunked) == (413, "body_too_large", None)
    assert in_inbox(settings) == ["a.txt"]


def test_a_folder_of_that_name_is_a_conflict(client: httpx.Client, settings: Settings) -> None:
    (settings.inbox / "a.md").mkdir()
    assert refusal(send(client, "a.md", b"# A", replace="true")) == (409, "file_exists", "file")


def test_an_upload_that_breaks_off_leaves_nothing(client: httpx.Client, settings: Settings) -> None:
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address) as connection:
        connection.sendall(
            b"POST /api/v1/documents HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.md"\r\n\r\n# Half'
        )
    assert send(client, "b.md", b"# B").status_code == 201
    assert in_inbox(settings) == ["b.md"]


def test_uploads_in_flight_are_limited(settings: Settings, database: Database, serve: Any, wait_until: Any) -> None:
    app = create_app(settings, database=database)
    with serve(app) as client, contextlib.ExitStack() as unfinished:
        key = client.headers["Authorization"].encode()
        for _ in range(IN_FLIGHT["uploads"]):
            opened = socket.create_connection((client.base_url.host, client.base_url.port))
            unfinished.enter_context(opened).sendall(
                b"POST /api/v1/documents HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\nAuthorization: " + key + b"\r\n\r\n--b\r\n"
            )
        wait_until(lambda: app.state.in_flight.count("uploads") == IN_FLIGHT["uploads"])
        refused = send(client, "a.md", b"# A")
        assert refusal(refused) == (429, "too_many_requests", None)
        assert int(refused.headers["retry-after"]) > 0
        unfinished.close()
        wait_until(lambda: send(client, "a.md", b"# A").status_code in (200, 201))


def test_documents_are_listed_page_by_page(reader: httpx.Client) -> None:
    everything = reader.get(DOCUMENTS).json()
    assert everything["next_cursor"] is None
    names = [document["uri"] for document in everything["data"]]
    assert set(names) == {"hnsw.md", "bread.md", "übersicht.txt"}
    found: list[str] = []
    params: dict[str, str] = {"limit": "1", "source": "inbox"}
    while True:
        page = reader.get(DOCUMENTS, params=params).json()
        found += [document["uri"] for document in page["data"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert found == names
    assert refusal(reader.get(DOCUMENTS, params={"source": "nowhere"})) == (404, "source_unknown", "source")
    other = reader.get(
        "/api/v1/quarantine",
        params={"cursor": reader.get(DOCUMENTS, params={"limit": 1}).json()["next_cursor"]},
    )
    assert refusal(other) == (422, "cursor_invalid", "cursor")


def test_a_passage_is_exactly_the_span_of_the_text(reader: httpx.Client, library: tuple[Settings, Database]) -> None:
    _, database = library
    documents = {document["uri"]: document["id"] for document in reader.get(DOCUMENTS).json()["data"]}
    with database.snapshot() as connection:
        rows = connection.execute("SELECT id, text, encode(text_sha256, 'hex') FROM documents").fetchall()
    for document_id, text, text_sha256 in rows:
        assert document_id in documents.values()
        for start, end in [(0, 0), (0, 1), (5, 23), (0, len(text)), (len(text), len(text))]:
            passage = reader.get(f"{DOCUMENTS}/{document_id}", params={"start": start, "end": end}).json()
            assert passage["excerpt"] == text[start:end]
            assert (passage["start"], passage["end"]) == (start, end)
            assert passage["text_sha256"] == text_sha256 == hashlib.sha256(text.encode()).hexdigest()
            assert passage["characters"] == len(text)
        whole = reader.get(f"{DOCUMENTS}/{document_id}").json()
        assert (whole["excerpt"], whole["end"]) == (text[:2000], min(len(text), 2000))


def test_spans_that_the_text_does_not_have_are_refused(reader: httpx.Client) -> None:
    first = reader.get(DOCUMENTS).json()["data"][0]["id"]
    for span, wanted in [
        ({"start": 10, "end": 5}, (422, "span_invalid", "end")),
        ({"start": 0, "end": 100_001}, (422, "span_too_long", "end")),
        ({"start": 0, "end": 99_999}, (422, "span_outside_text", "end")),
        ({"start": 99_999}, (422, "span_outside_text", "start")),
        ({"start": -1}, (422, "request_invalid", "start")),
        ({"start": 2**40}, (422, "request_invalid", "start")),
    ]:
        assert refusal(reader.get(f"{DOCUMENTS}/{first}", params=span)) == wanted
    assert refusal(reader.get(f"{DOCUMENTS}/{2**62}")) == (404, "document_not_found", "id")
    assert refusal(reader.get(f"{DOCUMENTS}/{2**63}")) == (422, "request_invalid", "id")


def test_sources_and_quarantine(reader: httpx.Client) -> None:
    listed = reader.get("/api/v1/sources").json()
    by_name = {source["name"]: source for source in listed["data"]}
    assert by_name["inbox"]["documents"] == 3
    assert by_name["inbox"]["chunks"] >= 3
    assert by_name["inbox"]["quarantined"] == 1
    assert by_name["installed-docs"]["kind"] == "installed"
    quarantine = reader.get("/api/v1/quarantine", params={"source": "inbox", "limit": 1}).json()
    (item,) = quarantine["data"]
    assert (item["uri"], item["code"]) == ("broken.pdf", "pdf_damaged")
    assert item["reason"]
    assert quarantine["next_cursor"] is None
    assert reader.get("/api/v1/quarantine", params={"source": "installed-docs"}).json()["data"] == []


def test_the_quarantine_is_paged(client: httpx.Client, settings: Settings, database: Database) -> None:
    for number in range(5):
        (settings.inbox / f"{number}.pdf").write_bytes(b"%PDF-1.7 and then nothing")
    sync_documents(database, sources.inbox_source(settings), settings)
    found: list[str] = []
    cursor = None
    while True:
        page = client.get("/api/v1/quarantine", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        found += [item["uri"] for item in page["data"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert found == [f"{number}.pdf" for number in range(5)]
