"""Budgets of what calls to models may use."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.bodies import RequestBody
from api.deps import DatabaseDep, LedgerDep
from api.idempotency import OnceDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.access.principal import Principal
from stemma.llm import budgets
from stemma.llm.budgets import Kind, NewBudget, Period, Standing

router = APIRouter(prefix=f"{API}/budgets", tags=["usage"], route_class=limited("usage"))

_Dollars = Annotated[Decimal, Field(ge=0, max_digits=20, decimal_places=10)]


class NewBudgetBody(RequestBody):
    """A budget; it takes the place of the one that this has for the period."""

    scope: Kind = Field(examples=["agent"])
    period: Period = Field(description="In UTC", examples=["day"])
    subject: str = Field(
        default="", max_length=100, description="The id of a key, the name of an agent", examples=["nova"]
    )
    limit_usd: _Dollars | None = Field(default=None, description="US dollars", examples=["5.00"])
    limit_tokens: int | None = Field(default=None, ge=0, description="In and out together", examples=[1_000_000])


class BudgetBody(BaseModel):
    """A budget in force."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    scope: Kind
    period: Period
    subject: str
    limit_usd: Decimal | None = Field(examples=["5.00"])
    limit_tokens: int | None
    set_by: str
    set_at: datetime


class StandingBody(BaseModel):
    """How a budget stands in its period."""

    model_config = ConfigDict(from_attributes=True)

    budget: BudgetBody
    begun: date = Field(description="The first day of the period")
    used_usd: Decimal
    used_tokens: int
    unpriced: int = Field(description="Calls that the dollars lack, because their price is not known")
    held_usd: Decimal = Field(description="What calls under way may use at most")
    held_tokens: int
    share: float = Field(description="Used of the limit; 1 and more: used up", examples=[0.42])


class StandingsBody(BaseModel):
    """Every budget."""

    data: list[StandingBody]


@router.get("", response_model=StandingsBody, responses=problems(401, 403, 429, 503), summary="List the budgets")
def list_budgets(
    principal: Annotated[Principal, allow("llm:read")], database: DatabaseDep
) -> dict[str, tuple[Standing, ...]]:
    """How each stands: the studio's, those of agents, those of keys."""
    return {"data": database.read(budgets.standings)}


@router.put("", response_model=BudgetBody, responses=problems(401, 403, 404, 409, 429, 503), summary="Set a budget")
async def set_budget(
    principal: Annotated[Principal, allow("llm:budget")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    given: NewBudgetBody,
) -> Response:
    """Holds for every call to a model within a second. A call is let through while anything is left."""
    wanted = NewBudget(given.scope, given.period, given.subject, given.limit_usd, given.limit_tokens)
    change = await run_in_threadpool(database.read, lambda c: budgets.set_budget(c, principal, wanted))
    return await once.commit(ledger, change, status=200, body=BudgetBody.model_validate)


@router.delete(
    "/{id}", response_model=BudgetBody, responses=problems(401, 403, 404, 409, 429, 503), summary="Remove a budget"
)
async def remove_budget(
    principal: Annotated[Principal, allow("llm:budget")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    budget_id: Annotated[UUID, Path(alias="id", examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"])],
) -> Response:
    """Answers with what it was."""
    change = await run_in_threadpool(database.read, lambda c: budgets.remove_budget(c, principal, budget_id))
    return await once.commit(ledger, change, status=200, body=BudgetBody.model_validate)
