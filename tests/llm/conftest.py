"""Models over the provider on loopback: a router with real metering and switches, waited for by the test's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pytest
from anyio.from_thread import start_blocking_portal

from stemma.knowledge.search import Searcher
from stemma.llm.blocking import Models
from stemma.llm.metering import Meter
from stemma.llm.model import Caller, Message, Prompt
from stemma.llm.router import Router
from stemma.llm.switches import SwitchBoard
from stemma.store.database import Database
from stemma.store.settings import Settings
from tests.llm.upstream import MODEL, PRICES, Upstream

OpenModels = Callable[..., Models]


@pytest.fixture(scope="module", autouse=True)
def offline(loopback_only: None) -> None:
    """All of it passes where there is no network."""


@pytest.fixture(scope="module")
def serving() -> Iterator[Upstream]:
    with Upstream() as opened:
        yield opened


@pytest.fixture
def upstream(serving: Upstream) -> Upstream:
    """The provider, which has served nothing yet and says what it usually says."""
    serving.clear()
    return serving


@pytest.fixture(scope="module")
def models_settings(
    studio: tuple[Settings, Database], serving: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Settings with which `openai` and `local` are the provider on loopback, whose prices are known."""
    prices = tmp_path_factory.mktemp("prices") / "prices.yaml"
    tokens_in, tokens_out = PRICES
    price = f"{{{MODEL}: {{input: {tokens_in}, output: {tokens_out}}}}}"
    prices.write_text(f"openai: {price}\nlocal: {price}\n")
    return Settings(
        local_model_url=serving.url,
        openai_base_url=serving.url,
        openai_model=MODEL,
        OPENAI_API_KEY="sk-loopback",
        FF_PAID_PROVIDERS=True,
        llm_prices=prices,
    )


@pytest.fixture(scope="module")
def meter(studio: tuple[Settings, Database], models_settings: Settings) -> Iterator[Meter]:
    with Meter(studio[1], models_settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def board(studio: tuple[Settings, Database]) -> Iterator[SwitchBoard]:
    with SwitchBoard(studio[1].urls.app) as opened:
        yield opened


@pytest.fixture
def open_models(
    studio: tuple[Settings, Database], models_settings: Settings, meter: Meter, board: SwitchBoard
) -> Iterator[OpenModels]:
    """Open a router of the test's own; options replace settings."""
    # The routers close while their loop still runs.
    with start_blocking_portal() as portal, ExitStack() as opened:

        def make(**options: Any) -> Models:
            settings = models_settings.model_copy(update=options)
            searcher = Searcher(studio[1], settings)
            router = Router(settings, searcher, meter, board)
            return Models(opened.enter_context(portal.wrap_async_context_manager(router)), portal)

        yield make


@pytest.fixture
def caller() -> Caller:
    """A caller whose calls are found by its request id."""
    return Caller("test", "test", "run", uuid4().hex)


def said(text: str = "What is an HNSW index for?", **options: Any) -> Prompt:
    return Prompt((Message("user", text),), **options)


@pytest.fixture(scope="session")
def ask() -> Callable[..., Prompt]:
    """Make a prompt of one question."""
    return said


@pytest.fixture
def rows(
    studio: tuple[Settings, Database], caller: Caller, wait_until: Callable[..., None]
) -> Callable[[int], list[dict[str, Any]]]:
    """So many usage rows of the test's caller, in the order of their calls' ends, once they are there."""

    def wait(count: int) -> list[dict[str, Any]]:
        wait_until(lambda: len(find()) >= count)
        return find()

    def find() -> list[dict[str, Any]]:
        columns = ("provider", "model", "status", "error_code", "tokens_in", "tokens_out", "counted", "cost_est")
        with studio[1].snapshot() as connection:
            found = connection.execute(
                f"SELECT {', '.join(columns)} FROM provider_usage WHERE request_id = %s ORDER BY ts, id",
                (caller.request_id,),
            ).fetchall()
        return [dict(zip(columns, row, strict=True)) for row in found]

    return wait
