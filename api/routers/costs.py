"""What calls to models cost and how they did, by days and weeks that are over."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from api.access import allow
from api.deps import DatabaseDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.access.principal import Principal
from stemma.telemetry import costs, error_budget, latency
from stemma.telemetry.costs import last_days

router = APIRouter(prefix=f"{API}/costs", tags=["usage"], route_class=limited("costs"))

ReaderDep = Annotated[Principal, allow("llm:read")]
DaysQuery = Annotated[int, Query(ge=1, le=400, description="How many days, up to yesterday (UTC)")]
_FIRST = date(2000, 1, 1)
_ERRORS = problems(401, 403, 429, 503)


class _Body(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class CostBody(_Body):
    """A day, or a week."""

    day: date = Field(description="The day, or the Monday of the week")
    calls: int
    errors: int
    cancelled: int
    unpriced: int = Field(description="Calls that the cost lacks, because their price is not known")
    tokens_in: int
    tokens_out: int
    cost: Decimal = Field(description="US dollars", examples=["1.2345"])
    founder_cost: Decimal = Field(description="What of it is the founder's, of which nothing else is known")


class ModelCostBody(_Body):
    """A model; a founder's calls are not among its."""

    provider: str = Field(examples=["openai"])
    model: str = Field(examples=["gpt-4.1-mini"])
    calls: int
    errors: int
    unpriced: int
    tokens_in: int
    tokens_out: int
    cost: Decimal


class LatencyBody(_Body):
    """Percentiles of a day's answered calls, in milliseconds."""

    day: date
    by: str
    name: str
    calls: int
    p50: float
    p95: float
    p99: float
    ttft_p50: float | None = Field(description="Until the first token")
    ttft_p95: float | None
    ttft_p99: float | None


class ErrorBudgetBody(_Body):
    """How an error budget stands over 28 days."""

    name: str = Field(examples=["models"])
    unit: str = Field(description="`calls` or `minutes`", examples=["calls"])
    total: int
    bad: int
    left: float = Field(description="The share that is left; below zero: overspent", examples=[0.7])
    burn: float | None = Field(description="How fast the last day used it; 1: as fast as the objective allows")


class CostsBody(BaseModel):
    """Days or weeks, the newest first."""

    data: list[CostBody]


class ModelCostsBody(BaseModel):
    """Models, the dearest first."""

    data: list[ModelCostBody]


class LatenciesBody(BaseModel):
    """Days, the newest first."""

    data: list[LatencyBody]


class ErrorBudgetsBody(BaseModel):
    """Every error budget: all calls, each provider, each service."""

    objective: float = Field(description="The share that has to go well", examples=[0.99])
    day: date = Field(description="The day at whose end it stands so")
    data: list[ErrorBudgetBody]


@router.get("/daily", response_model=CostsBody, responses=_ERRORS, summary="What each day cost")
def list_daily(principal: ReaderDep, database: DatabaseDep, days: DaysQuery = 30) -> dict[str, Any]:
    """The days that are summed up, of the last ones that are over."""
    return {"data": database.read(lambda connection: costs.daily(connection, last_days(days)))}


@router.get("/weekly", response_model=CostsBody, responses=_ERRORS, summary="What each week cost")
def list_weekly(
    principal: ReaderDep,
    database: DatabaseDep,
    weeks: Annotated[int, Query(ge=1, le=106, description="How many weeks")] = 12,
) -> dict[str, Any]:
    """The weeks from Monday to Sunday that are added up."""
    return {"data": database.read(lambda connection: costs.weekly(connection, last_days(7 * (weeks + 1)).weeks))}


@router.get("/models", response_model=ModelCostsBody, responses=_ERRORS, summary="What each model cost")
def list_models(principal: ReaderDep, database: DatabaseDep, days: DaysQuery = 30) -> dict[str, Any]:
    """The models that were called within the last days."""
    return {"data": database.read(lambda connection: costs.by_model(connection, last_days(days)))}


@router.get("/latency", response_model=LatenciesBody, responses=_ERRORS, summary="How long calls took")
def list_latency(
    principal: ReaderDep,
    database: DatabaseDep,
    days: DaysQuery = 30,
    by: Annotated[Literal["all", "provider", "model", "agent", "route"], Query(description="Grouped by")] = "all",
) -> dict[str, Any]:
    """Percentiles of each day; of several days there are none, because percentiles do not add up."""
    return {"data": database.read(lambda connection: latency.list_days(connection, last_days(days), by=by))}


@router.get("/error-budget", response_model=ErrorBudgetsBody, responses=_ERRORS, summary="How the error budget stands")
def show_error_budget(
    principal: ReaderDep,
    database: DatabaseDep,
    day: Annotated[date | None, Query(ge=_FIRST, description="At whose end; by default yesterday")] = None,
) -> dict[str, Any]:
    """Over the 28 days that end with the day."""
    at = day or last_days(1).last
    found = database.read(lambda connection: error_budget.standing(connection, at))
    return {"objective": error_budget.OBJECTIVE, "day": at, "data": found}
