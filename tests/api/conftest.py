"""The application on a real socket, and a small library that is indexed once for all tests that read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import httpx
import pytest

from api.app import create_app
from stemma.knowledge import sources
from stemma.store.database import Database, DatabaseUrls
from stemma.store.settings import Settings

Serve = Callable[..., AbstractContextManager[httpx.Client]]


@pytest.fixture(scope="session", autouse=True)
def unhurried() -> Iterator[None]:
    """Limits that no test reaches which does not set its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("REQUESTS_PER_MINUTE", "REQUESTS_IN_FLIGHT", "FAILURES_PER_MINUTE"):
            patch.setenv(f"STEMMA_API_{name}", "1000000")
        yield


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
    index_library: Callable[[Settings, Database], None],
) -> Iterator[tuple[Settings, Database]]:
    """Settings and database of a studio whose inbox holds a few indexed documents; for reading only."""
    urls = new_database()
    settings = Settings(home=tmp_path_factory.mktemp("library"))
    with Database(urls) as database:
        with database.transaction() as connection:
            sources.ensure_builtin(connection, settings)
        index_library(settings, database)
        yield settings, database
    drop_database(urls)


@pytest.fixture(scope="session")
def reader(library: tuple[Settings, Database], serve: Serve) -> Iterator[httpx.Client]:
    """A client of the API over the library."""
    settings, database = library
    with serve(create_app(settings, database=database)) as opened:
        yield opened
