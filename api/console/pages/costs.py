"""Costs: what calls to models cost by days and weeks, how long they took, what failed, and what they may still use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Request, Response
from markupsafe import Markup

from api.access import allow
from api.console.charts import Bar, bars
from api.console.rendering import render
from api.deps import DatabaseDep
from api.limits import limited
from api.routers.llm import RouterDep
from stemma.access.principal import Principal
from stemma.llm import budgets
from stemma.telemetry import costs, error_budget, health, latency
from stemma.telemetry.costs import Cost, last_days

router = APIRouter(prefix="/costs", route_class=limited("console"), include_in_schema=False)

_DAYS: Final = 30
_WEEKS: Final = 12
_PROVIDER: Final = "provider/"


@router.get("")
def show(
    request: Request, principal: Annotated[Principal, allow("llm:read")], database: DatabaseDep, llm: RouterDep
) -> Response:
    """The last thirty days and twelve weeks that are over, and today so far."""
    span, weeks = last_days(_DAYS), last_days(7 * (_WEEKS + 1)).weeks
    with database.snapshot() as connection:
        daily, weekly = costs.daily(connection, span), costs.weekly(connection, weeks)
        models = costs.by_model(connection, span)
        today = costs.today(connection)
        latencies = latency.newest(connection, span)
        errors = error_budget.standing(connection, span.last)
        stands = budgets.standings(connection)
        services = health.latest(connection)
    standings = llm.standings()
    providers = {row.name.removeprefix(_PROVIDER): row for row in services if row.name.startswith(_PROVIDER)}
    return render(
        request,
        "pages/costs.html",
        today=today,
        daily=daily,
        weekly=weekly,
        daily_chart=_chart(daily, f"US dollars on each of the last {_DAYS} days"),
        weekly_chart=_chart(weekly, f"US dollars in each of the last {_WEEKS} weeks"),
        models=models,
        providers=sorted({*standings, *providers, *(model.provider for model in models)}),
        standings=standings,
        health=providers,
        latencies=latencies,
        whole=next((one for one in latencies if one.by == "all"), None),
        errors=errors,
        budget=next((one for one in errors if one.name == error_budget.MODELS), None),
        objective=error_budget.OBJECTIVE,
        window=error_budget.WINDOW_DAYS,
        stands=stands,
    )


def _chart(found: Sequence[Cost], title: str) -> Markup:
    return bars([Bar(str(one.day), float(one.cost)) for one in reversed(found)], title=title)
