"""What routes ask for, as annotated dependencies: what the process has opened, and the page of a list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Query, Request

from stemma.knowledge.search import Searcher
from stemma.ledger.service import Ledger
from stemma.store.database import Database
from stemma.store.settings import Settings
from stemma.telemetry.metrics import Metrics


def get_settings(request: Request) -> Settings:
    """The settings that the application was made with."""
    return cast(Settings, request.app.state.settings)


def get_database(request: Request) -> Database:
    """The process's pool."""
    return cast(Database, request.app.state.database)


def get_searcher(request: Request) -> Searcher:
    """The process's searcher."""
    return cast(Searcher, request.app.state.searcher)


def get_ledger(request: Request) -> Ledger:
    """The process's ledger."""
    return cast(Ledger, request.app.state.ledger)


def get_metrics(request: Request) -> Metrics:
    """The process's metrics."""
    return cast(Metrics, request.app.state.metrics)


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page of a list: what `next_cursor` said, and how many rows."""

    cursor: str | None
    limit: int


def get_page(
    cursor: Annotated[str | None, Query(max_length=4096, description="`next_cursor` of the previous page")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Rows per page")] = 50,
) -> PageRequest:
    """The page that a request asks for."""
    return PageRequest(cursor, limit)


SettingsDep = Annotated[Settings, Depends(get_settings)]
DatabaseDep = Annotated[Database, Depends(get_database)]
LedgerDep = Annotated[Ledger, Depends(get_ledger)]
MetricsDep = Annotated[Metrics, Depends(get_metrics)]
SearcherDep = Annotated[Searcher, Depends(get_searcher)]
PageDep = Annotated[PageRequest, Depends(get_page)]
