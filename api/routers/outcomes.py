"""Outcomes: what came of decisions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.bodies import RequestBody
from api.deps import DatabaseDep, LedgerDep, PageDep
from api.idempotency import OnceDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.access.principal import Principal
from stemma.governance.outcomes import catalog, recording
from stemma.governance.outcomes.model import NewOutcome, Outcome
from stemma.store.cursors import Page

PATH: Final = "/outcomes"

router = APIRouter(prefix=API, tags=["outcomes"], route_class=limited("outcomes"))
aliases = APIRouter(tags=["outcomes"], route_class=limited("outcomes"), include_in_schema=False)

Metric = bool | float | Annotated[str, Field(max_length=1_000)] | list[float] | list[str]
Metrics = Annotated[
    dict[str, Metric],
    Field(min_length=1, max_length=20, description="As the node's reward declares them", examples=[{"profit": 41.9}]),
]
ObservedAt = Annotated[AwareDatetime | None, Field(description="With its offset; else when it is received")]
DecisionPath = Annotated[UUID, Path(examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"])]


class NewOutcomeBody(RequestBody):
    """What was observed. Metrics that are known already are replaced, others are kept."""

    metrics: Metrics
    observed_at: ObservedAt = None


class NamedOutcomeBody(NewOutcomeBody):
    """What was observed, and of which decision."""

    decision_id: UUID = Field(examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"])


class NewOutcomesBody(RequestBody):
    """Outcomes that are recorded together."""

    outcomes: list[NamedOutcomeBody] = Field(
        min_length=1, max_length=recording.MAX_OUTCOMES, description="All of them are recorded, or none"
    )


class OutcomeBody(BaseModel):
    """What is known of what came of a decision."""

    model_config = ConfigDict(from_attributes=True)

    decision_id: UUID
    metrics: dict[str, Metric]
    success: bool | None = Field(description="What the node's reward makes of it; null: neither")
    counted: bool = Field(description="Whether it stands in the statistics of the variant")
    observed_at: datetime
    revision: int = Field(description="How often it was told anew", examples=[1])
    updated_at: datetime
    updated_by: str


class RecordedOutcomesBody(BaseModel):
    """The outcomes, in the order in which they came."""

    data: list[OutcomeBody]


class OutcomesBody(RecordedOutcomesBody):
    """One page of outcomes."""

    next_cursor: str | None


@aliases.post(f"{PATH}/{{decision_id}}", response_model=OutcomeBody)
@router.post(
    f"{PATH}/{{decision_id}}",
    response_model=OutcomeBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Tell what came of a decision",
)
async def record(
    principal: Annotated[Principal, allow("decide:write")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    decision_id: DecisionPath,
    given: NewOutcomeBody,
) -> Response:
    """Adds to what is known, or replaces it; the statistics of the variant follow in the same transaction."""
    outcomes = [NewOutcome(decision_id, given.metrics, given.observed_at)]
    change = await run_in_threadpool(database.read, lambda c: recording.record(c, principal, outcomes))
    return await once.commit(ledger, change, status=200, body=lambda told: OutcomeBody.model_validate(told[0]))


@router.post(
    PATH,
    response_model=RecordedOutcomesBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Tell what came of several decisions",
)
async def record_several(
    principal: Annotated[Principal, allow("decide:write")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    batch: NewOutcomesBody,
) -> Response:
    """The same for up to a thousand decisions: all of it is recorded, or none."""
    outcomes = [NewOutcome(given.decision_id, given.metrics, given.observed_at) for given in batch.outcomes]
    change = await run_in_threadpool(database.read, lambda c: recording.record(c, principal, outcomes))

    def body(told: tuple[Outcome, ...]) -> RecordedOutcomesBody:
        return RecordedOutcomesBody(data=[OutcomeBody.model_validate(outcome) for outcome in told])

    return await once.commit(ledger, change, status=200, body=body)


@router.get(
    f"{PATH}/{{decision_id}}",
    response_model=OutcomeBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="Open the outcome of a decision",
)
def show_outcome(
    principal: Annotated[Principal, allow("decide:read")], database: DatabaseDep, decision_id: DecisionPath
) -> Outcome:
    """What is known of what came of it."""
    return database.read(lambda c: catalog.get_outcome(c, decision_id))


@router.get(PATH, response_model=OutcomesBody, responses=problems(401, 403, 429, 503), summary="List outcomes")
def list_outcomes(
    principal: Annotated[Principal, allow("decide:read")],
    database: DatabaseDep,
    page: PageDep,
    node: Annotated[str | None, Query(max_length=63, description="Only of this node's decisions")] = None,
    success: Annotated[bool | None, Query(description="Only successes, or only failures")] = None,
) -> Page[Outcome]:
    """Those that were first told of last, first."""
    return database.read(
        lambda c: catalog.list_outcomes(c, node=node, success=success, cursor=page.cursor, limit=page.limit)
    )
