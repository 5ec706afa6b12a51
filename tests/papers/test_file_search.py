"""Sending a paper to File Search: only where it is allowed, with ids that nobody else can use."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr

from stemma.errors import Forbidden, Unavailable
from stemma.papers import file_search
from stemma.store.settings import Settings

FILE, STORE = "file-abcdefghijklmnop", "vs_0123456789abcdef"


class Provider(BaseHTTPRequestHandler):
    """Files and vector stores, as much of them as an upload needs; it keeps what it was asked."""

    asked: ClassVar[list[tuple[str, str, bytes]]]
    refuses: ClassVar[str | None]
    url: ClassVar[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).asked.append(("POST", self.path, body))
        if self.path == self.refuses:
            self._answer(400, {"error": {"message": f"no: {FILE}"}})
            return
        known = {"/v1/files": {"id": FILE, "object": "file"}, "/v1/vector_stores": {"id": STORE}}
        self._answer(200, known.get(self.path, {"id": FILE, "status": "in_progress"}))

    def do_DELETE(self) -> None:
        type(self).asked.append(("DELETE", self.path, b""))
        self._answer(200, {"id": FILE, "deleted": True, "object": "file"})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[type[Provider]]:
    class Fresh(Provider):
        asked: ClassVar[list[tuple[str, str, bytes]]] = []
        refuses = None

    with ThreadingHTTPServer(("127.0.0.1", 0), Fresh) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        Fresh.url = f"http://127.0.0.1:{server.server_port}/v1"
        yield Fresh
        server.shutdown()
        thread.join()


def settings(url: str, *, allowed: bool = True) -> Settings:
    return Settings(
        home=Path("unused"),
        ff_paid_providers=allowed,
        openai_api_key=SecretStr("sk-test"),
        openai_base_url=url,
    )


def test_a_paper_is_uploaded_and_attached(provider: Any, read: Callable[[str], Any]) -> None:
    paper = read("s1_wine_loo.pdf").paper
    attached = file_search.attach(paper, b"%PDF-1.7 content", settings(provider.url))
    assert attached == file_search.Attached("file-abc***", "vs_01234***")
    (_, _, upload), (_, stores, _), (_, files, link) = provider.asked
    assert b"assistants" in upload and b"%PDF-1.7 content" in upload
    assert (stores, files) == ("/v1/vector_stores", f"/v1/vector_stores/{STORE}/files")
    assert json.loads(link)["file_id"] == FILE


@pytest.mark.parametrize(
    ("refused_at", "deleted"), [("", []), (f"/{STORE}/files", [("DELETE", f"/v1/vector_stores/{STORE}")])]
)
def test_what_could_not_be_attached_is_deleted_again(
    provider: Any, read: Callable[[str], Any], refused_at: str, deleted: list[tuple[str, str]]
) -> None:
    provider.refuses = f"/v1/vector_stores{refused_at}"
    with pytest.raises(Unavailable) as refused:
        file_search.attach(read("s1_wine_loo.pdf").paper, b"%PDF-", settings(provider.url))
    assert refused.value.code == "provider_failed" and FILE not in str(refused.value)
    undone = [asked[:2] for asked in provider.asked if asked[0] == "DELETE"]
    assert undone == [*deleted, ("DELETE", f"/v1/files/{FILE}")]


def test_nothing_is_sent_where_spending_is_off(provider: Any, read: Callable[[str], Any]) -> None:
    with pytest.raises(Forbidden) as refused:
        file_search.attach(read("s1_wine_loo.pdf").paper, b"%PDF-", settings(provider.url, allowed=False))
    assert refused.value.code == "paid_providers_off" and provider.asked == []
