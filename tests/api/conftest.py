"""The application on a real socket, and a small library that is indexed once for all tests that read it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.server import Server, listen
from stemma.access.keys import IssuedKey
from stemma.knowledge import sources
from stemma.knowledge.chunking import Chunker
from stemma.knowledge.chunks import sync_chunks
from stemma.knowledge.documents import sync_documents
from stemma.knowledge.embedding import Embedder, sync_embeddings
from stemma.knowledge.generations import build_generation
from stemma.store.database import Database, DatabaseUrls
from stemma.store.settings import Settings

Serve = Callable[..., AbstractContextManager[httpx.Client]]

LIBRARY = {
    "hnsw.md": (
        "# Vector search\n\n## Indexing\n\nAdd an HNSW index to a vector column with"
        " `CREATE INDEX ON items USING hnsw (embedding vector_cosine_ops)`.\n\n## Filtering\n\n"
        "A filter that keeps few rows needs an exact scan, because the graph is left too early.\n"
    ),
    "bread.md": "# Bread\n\nKnead flour, water, salt and yeast; let the dough rise before baking.\n",
    "übersicht.txt": "Die Übersicht nennt 😀 alle Kapitel und ihre Seiten in der Reihenfolge des Buches.\n",
}


@contextlib.contextmanager
def _serving(app: FastAPI, *, key: str | None) -> Iterator[httpx.Client]:
    settings: Settings = app.state.settings
    with listen(settings.model_copy(update={"api_port": 0})) as listener:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
            ws="websockets-sansio",
            timeout_graceful_shutdown=5,
        )
        server = Server(app, config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            _wait_until(lambda: server.started or not thread.is_alive())
            assert server.started
            port = listener.getsockname()[1]
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
                if key is not None:
                    client.headers["Authorization"] = f"Bearer {key}"
                yield client
        finally:
            server.should_exit = True
            thread.join()


def _wait_until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    """Poll until the condition holds; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture(scope="session", autouse=True)
def unhurried() -> Iterator[None]:
    """Limits that no test reaches which does not set its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("REQUESTS_PER_MINUTE", "REQUESTS_IN_FLIGHT", "FAILURES_PER_MINUTE"):
            patch.setenv(f"STEMMA_API_{name}", "1000000")
        yield


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Poll a condition until it holds, up to a deadline."""
    return _wait_until


@pytest.fixture(scope="session")
def serve(issue_key: Callable[..., IssuedKey]) -> Serve:
    """Serve an application on a free loopback port for the length of a block.

    Its client has `key`; by default one that is made in the application's studio and may do everything.
    """

    @contextlib.contextmanager
    def serving(app: FastAPI, *, key: str | None = "") -> Iterator[httpx.Client]:
        if key == "":
            key = issue_key(app.state.settings, app.state.given_database.urls).key
        with _serving(app, key=key) as client:
            yield client

    return serving


@pytest.fixture
def client(settings: Settings, database: Database, serve: Serve) -> Iterator[httpx.Client]:
    """A client of the API over a home and a database of the test's own, both empty."""
    with database.transaction() as connection:
        sources.ensure_builtin(connection, settings)
    with serve(create_app(settings, database=database)) as opened:
        yield opened


@pytest.fixture(scope="session")
def empty(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
) -> Iterator[tuple[Settings, Database]]:
    """Settings and database of a studio that has nothing and must stay so."""
    urls = new_database()
    settings = Settings(home=tmp_path_factory.mktemp("empty"))
    with Database(urls) as database:
        with database.transaction() as connection:
            sources.ensure_builtin(connection, settings)
        yield settings, database
    assert list(settings.inbox.rglob("[!.]*")) == []
    drop_database(urls)


@pytest.fixture(scope="session")
def visitor(empty: tuple[Settings, Database], serve: Serve) -> Iterator[httpx.Client]:
    """A client of the API over the empty studio, for requests that change nothing."""
    settings, database = empty
    with serve(create_app(settings, database=database)) as opened:
        yield opened


@pytest.fixture(scope="session")
def library(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
    equip: Callable[[Settings], Embedder],
) -> Iterator[tuple[Settings, Database]]:
    """Settings and database of a studio whose inbox holds a few indexed documents; for reading only."""
    urls = new_database()
    settings = Settings(home=tmp_path_factory.mktemp("library"))
    with Database(urls) as database:
        with database.transaction() as connection:
            sources.ensure_builtin(connection, settings)
        inbox = sources.inbox_source(settings)
        for name, text in LIBRARY.items():
            Path(settings.inbox, name).write_text(text)
        Path(settings.inbox, "broken.pdf").write_bytes(b"%PDF-1.7 and then nothing")
        sync_documents(database, inbox, settings)
        sync_chunks(database, inbox, Chunker.from_settings(settings))
        embedder = equip(settings)
        sync_embeddings(database, inbox.name, embedder)
        build_generation(database, settings, embedder)
        yield settings, database
    drop_database(urls)


@pytest.fixture(scope="session")
def reader(library: tuple[Settings, Database], serve: Serve) -> Iterator[httpx.Client]:
    """A client of the API over the library."""
    settings, database = library
    with serve(create_app(settings, database=database)) as opened:
        yield opened
