"""Metrics for Prometheus and for anybody, and the minutes of the studio's health."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from api.access import allow
from api.deps import DatabaseDep, MetricsDep, PageDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.store.cursors import Page
from stemma.telemetry.health import ServiceHealth, list_health
from stemma.telemetry.metrics import CONTENT_TYPE
from stemma.telemetry.public import PublicMetrics, PublicView

METRICS_PATH = "/metrics"
PUBLIC_PATH = f"{API}/metrics.json"

public = APIRouter(tags=["telemetry"], route_class=limited("telemetry"))
router = APIRouter(tags=["telemetry"], route_class=limited("telemetry"), dependencies=[allow("telemetry:read")])


class HealthBody(BaseModel):
    """How a service stood."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    instance: str = Field(description="The machine whose API process looked", examples=["studio-1"])
    name: str = Field(description="`api`, or a check of /readyz", examples=["api"])
    status: str = Field(description="`ok`, `degraded`, `failed` or `not_running`", examples=["ok"])
    latency_p95: float | None = Field(
        description="Seconds until 95 % of the answers of the minute before had begun", examples=[0.041]
    )
    error_rate: float | None = Field(description="Share of that minute's requests answered 5xx", examples=[0.0])
    ts: datetime


class HealthsBody(BaseModel):
    """One page of the health's history, the newest first."""

    data: list[HealthBody]
    next_cursor: str | None


class PublicBody(BaseModel):
    """How the studio stands, as far as it is anybody's business."""

    model_config = ConfigDict(from_attributes=True)

    as_of: datetime
    status: str = Field(description="`ok` or `degraded`", examples=["ok"])
    services: dict[str, str] = Field(
        description="`ok`, `degraded`, `failed` or `not_running`, by service; `models` for all providers",
        examples=[{"api": "ok", "database": "ok", "models": "ok"}],
    )
    calls: int | None = Field(description="Calls to models within 24 hours; null where they were few", examples=[1204])
    error_rate: float | None = Field(description="The share of them that failed", examples=[0.002])
    latency_p50: float | None = Field(description="Milliseconds within which half of them were answered")
    latency_p95: float | None
    latency_p99: float | None
    error_budget_left: float | None = Field(description="Of 28 days; below zero: overspent", examples=[0.83])


@public.get(PUBLIC_PATH, response_model=PublicBody, responses=problems(429, 503), summary="How the studio stands")
def public_metrics(request: Request, database: DatabaseDep) -> PublicMetrics:
    """For anybody, without a key: no names, hosts, words or amounts of money. Looked up every ten seconds at most."""
    view: PublicView = request.app.state.public_view
    return view.now(database)


@router.get(
    METRICS_PATH,
    response_class=PlainTextResponse,
    responses=problems(429),
    summary="This process's metrics, for Prometheus",
)
def metrics(metrics: MetricsDep) -> Response:
    """Prometheus' text format. What cannot be looked up is left out and counted in `stemma_scrape_failures_total`."""
    return Response(metrics.exposition(), media_type=CONTENT_TYPE)


@router.get(f"{API}/health", response_model=HealthsBody, responses=problems(503), summary="How the services stood")
def list_rows(
    database: DatabaseDep,
    page: PageDep,
    name: Annotated[str | None, Query(max_length=64, description="Only this service")] = None,
) -> Page[ServiceHealth]:
    """One row a minute for each service and machine, kept for thirty days; `/readyz` says how things stand now."""
    return database.read(lambda connection: list_health(connection, name=name, cursor=page.cursor, limit=page.limit))
