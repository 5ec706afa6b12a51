"""Decisions: asking a node to decide about an event, looking at what was decided, and deciding what waits."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from starlette.concurrency import run_in_threadpool

from api.access import Rule, allow
from api.bodies import RequestBody
from api.deps import DatabaseDep, LedgerDep, PageDep
from api.idempotency import Once, OnceAtCommitDep, OnceDep, found_at_commit
from api.limits import limited
from api.openapi import problems
from api.quick import body_of, key_of, quick
from api.routers import API
from api.routers.llm import RouterDep, caller_of
from api.routers.search import CitationBody
from stemma.access.principal import Principal
from stemma.approvals.model import Verdict
from stemma.approvals.requests import MAX_REASON
from stemma.governance import explaining
from stemma.governance.decisions import catalog, replaying, review
from stemma.governance.decisions.deciding import Asked, Decider, NodeStopped
from stemma.governance.decisions.model import Decision, DecisionSummary, Silence, State
from stemma.governance.events.model import NewEvent
from stemma.governance.policy import Level, Ruling
from stemma.ledger.change import Change
from stemma.store.cursors import Page

_ASK: Final = Rule("decide:write")
_TRIES: Final = 3
AT_ONCE: Final = 32
"""Decisions that look at the database together."""
_LONGEST_NAME: Final = 63

_EXPLANATION: Final = f"{API}/decisions/{{id}}/explanation"


async def _answer(request: Request) -> Response | None:
    """What `decide` does, for a request that is in order."""
    node = request.path_params["node"]
    keyed, key = key_of(request)
    asked = await body_of(request, AskedBody)
    if asked is None or not keyed or len(node) > _LONGEST_NAME:
        return None
    state = request.app.state
    with _ASK.held(request) as principal:
        async with found_at_commit(request, state.database, key) as once:
            return await _decided(state, principal, once, node, asked)


router = APIRouter(prefix=f"{API}/decisions", tags=["decisions"], route_class=limited("decisions"))
asking = APIRouter(prefix=f"{API}/decisions", tags=["decisions"], route_class=quick("decisions", _answer))
aliases = APIRouter(
    prefix="/decisions", tags=["decisions"], route_class=quick("decisions", _answer), include_in_schema=False
)

IdPath = Annotated[UUID, Path(alias="id", examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"])]


class EventBody(RequestBody):
    """An event that is recorded with the decision."""

    type: str = Field(max_length=100, description="A published event type", examples=["DiscountRequested"])
    data: dict[str, Any] = Field(
        description="What its type asks for",
        examples=[{"discount": 0.1, "amount": 400, "segment": "Consumer", "category": "Paper"}],
    )
    occurred_at: AwareDatetime | None = Field(default=None, description="When it happened; default: now")
    entity: str | None = Field(default=None, max_length=200, description="Whom or what it is about", examples=["c-17"])
    correlation_id: str | None = Field(default=None, max_length=200, examples=["order-4711"])

    def event(self) -> NewEvent:
        """The same for the domain."""
        return NewEvent(self.type, self.data, self.occurred_at, self.entity, self.correlation_id)


class AskedBody(RequestBody):
    """What is to be decided: a new event, or one that was recorded."""

    event: EventBody | None = Field(default=None, description="A new event; it is recorded with the decision")
    event_id: UUID | None = Field(default=None, description="An event that was recorded")

    @model_validator(mode="after")
    def _one(self) -> AskedBody:
        if (self.event is None) == (self.event_id is None):
            raise ValueError("Send either event or event_id")
        return self


class ResolutionBody(RequestBody):
    """What a person decides."""

    verdict: Verdict = Field(description="`approve` grants what was asked for, whatever the policy proposes")
    reason: str = Field(
        default="", max_length=MAX_REASON, description="A denial needs one", examples=["Within what was agreed."]
    )


class WhyBody(BaseModel):
    """A reason, and the part of the policy that it comes from."""

    model_config = ConfigDict(from_attributes=True)

    rule: str = Field(examples=["margin/usual"])
    text: str = Field(examples=["The discount is a usual one."])


class SimilarBody(BaseModel):
    """A similar case."""

    model_config = ConfigDict(from_attributes=True)

    decision_id: UUID
    distance: float = Field(description="Cosine distance, from 0 to 2", examples=[0.12])
    verdict: Ruling
    effect: Ruling | None
    success: bool | None = Field(description="What its outcome said; null where nothing was known")


class SummaryBody(BaseModel):
    """A decision as listed."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    node: str = Field(examples=["finance"])
    node_version: str = Field(examples=["1.0.0"])
    event_id: UUID
    event_type: str = Field(examples=["DiscountRequested"])
    entity: str | None
    correlation_id: str | None
    policy: str = Field(examples=["finance.discounts"])
    policy_version: str = Field(examples=["1.0.0"])
    variant: str = Field(examples=["baseline"])
    verdict: Ruling = Field(description="What the policy says")
    level: Level = Field(description="How far it was decided alone: at AL0 and AL1 a person decides")
    reasons: list[WhyBody]
    state: State
    effect: Ruling | None = Field(description="What holds: `approve` or `deny`; null while a person is waited for")
    approval_id: UUID | None = Field(description="By which a person is asked")
    due_at: datetime | None = Field(description="The deadline of who is asked")
    on_silence: Silence | None = Field(description="What follows the deadline: a denial, or that it is asked again")
    settled_by: str | None
    settled_reason: str | None
    settled_at: datetime | None
    occurred_at: datetime
    decided_at: datetime
    decided_by: str = Field(examples=["key:5b0f8c1e-8d8c-4d1c-9a5b-0f2a6f2a7c11"])
    latency_ms: float = Field(description="How long the verdict took, without its commit", examples=[6.4])
    seq: int = Field(description="Of its entry in the chain `decisions`")
    entry_hash: str = Field(description="Hash of that entry, hexadecimal")


class DecisionBody(SummaryBody):
    """A decision with what it rests on, but for the event's and context's text."""

    policy_sha256: str
    verdict_sha256: str = Field(description="Over verdict, level and reasons: what a replay has to find again")
    context_sha256: str
    draw: dict[str, Any] | None = Field(description="Seed, propensities and posteriors of the variant's draw")
    similar: list[SimilarBody]


class WholeBody(DecisionBody):
    """A decision with the event and the context that it was made in."""

    event: dict[str, Any]
    context: dict[str, Any]


class DecisionsBody(BaseModel):
    """One page of decisions."""

    data: list[SummaryBody]
    next_cursor: str | None


class ReplayBody(BaseModel):
    """The verdict that the stored context leads to now."""

    verdict: Ruling
    level: Level
    reasons: list[WhyBody]
    verdict_sha256: str
    same: bool = Field(description="Whether it is the verdict that was recorded")


class ExplanationBody(BaseModel):
    """A decision in plain words, beside what was recorded."""

    model_config = ConfigDict(from_attributes=True)

    decision_id: UUID
    verdict: Ruling
    level: Level
    state: State
    effect: Ruling | None
    reasons: list[WhyBody]
    text: str
    written_by: Literal["model", "template"]
    provider: str | None = Field(description="Who was asked; null where nobody answered", examples=["offline"])
    model: str | None
    cost: Decimal | None = Field(description="US dollars; null where it is not known")
    citations: list[CitationBody] = Field(description="What the studio's documents say of it")


@router.get("", response_model=DecisionsBody, responses=problems(401, 403, 429, 503), summary="List decisions")
def list_decisions(
    principal: Annotated[Principal, allow("decide:read")],
    database: DatabaseDep,
    page: PageDep,
    node: Annotated[str | None, Query(max_length=63, description="Only of this node")] = None,
    state: Annotated[State | None, Query(description="Only those in this state")] = None,
    verdict: Annotated[Ruling | None, Query(description="Only with this verdict")] = None,
    level: Annotated[Level | None, Query(description="Only at this level")] = None,
    entity: Annotated[str | None, Query(max_length=300, description="Only about this entity")] = None,
    correlation_id: Annotated[str | None, Query(max_length=300, description="Only with this id")] = None,
    event_id: Annotated[UUID | None, Query(description="Only about this event")] = None,
    since: Annotated[AwareDatetime | None, Query(description="Decided then or later")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Decided before")] = None,
) -> Page[DecisionSummary]:
    """The newest first."""
    return database.read(
        lambda connection: catalog.list_decisions(
            connection,
            node=node,
            state=state,
            verdict=verdict,
            level=level,
            entity=entity,
            correlation_id=correlation_id,
            event_id=event_id,
            since=since,
            until=until,
            cursor=page.cursor,
            limit=page.limit,
        )
    )


@router.get(
    "/waiting",
    response_model=DecisionsBody,
    responses=problems(401, 403, 429, 503),
    summary="List what waits for a person",
)
def list_waiting(
    principal: Annotated[Principal, allow("decide:read")],
    database: DatabaseDep,
    ledger: LedgerDep,
    page: PageDep,
    node: Annotated[str | None, Query(max_length=63, description="Only of this node")] = None,
) -> Page[DecisionSummary]:
    """The nearest deadline first; what passed its deadline is settled before."""
    review.settle_due(database, ledger)
    return database.read(
        lambda connection: catalog.list_waiting(connection, node=node, cursor=page.cursor, limit=page.limit)
    )


@router.get(
    "/{id}", response_model=WholeBody, responses=problems(401, 403, 404, 429, 503), summary="Look at a decision"
)
def show_decision(
    principal: Annotated[Principal, allow("decide:read")], database: DatabaseDep, decision_id: IdPath
) -> Decision:
    """As it stands, with the event and the context that it was made in."""
    return database.read(lambda connection: catalog.get_decision(connection, decision_id))


@router.get(
    "/{id}/replay",
    response_model=ReplayBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="Make a decision again",
)
def replay(
    principal: Annotated[Principal, allow("decide:read")], database: DatabaseDep, decision_id: IdPath
) -> dict[str, Any]:
    """By the policy version, variant and context that were recorded; changes nothing."""
    decision = database.read(lambda connection: catalog.get_decision(connection, decision_id))
    verdict = database.read(lambda connection: replaying.again(connection, decision_id))
    return {
        "verdict": verdict.verdict,
        "level": verdict.level,
        "reasons": verdict.reasons,
        "verdict_sha256": verdict.sha256,
        "same": verdict.sha256 == decision.verdict_sha256,
    }


@router.get(
    "/{id}/explanation",
    response_model=ExplanationBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="Explain a decision",
)
async def explain_decision(
    request: Request,
    principal: Annotated[Principal, allow("decide:read")],
    database: DatabaseDep,
    models: RouterDep,
    decision_id: IdPath,
) -> dict[str, Any]:
    """In plain words, which change nothing: by a model where the caller may ask one, else by a template.

    What was decided is told from the record, whatever the words say.
    """
    decision = await run_in_threadpool(database.read, lambda c: catalog.get_decision(c, decision_id))
    caller = caller_of(request, principal, _EXPLANATION, "explain")
    explanation = await explaining.explain(models, decision, caller, ask_models=principal.may("llm:run"))
    finished = explanation.finished
    return {
        "decision_id": decision.id,
        "verdict": decision.verdict,
        "level": decision.level,
        "state": decision.state,
        "effect": decision.effect,
        "reasons": decision.reasons,
        "text": explanation.text,
        "written_by": explanation.by,
        "provider": finished.provider if finished else None,
        "model": finished.model if finished else None,
        "cost": finished.cost if finished else None,
        "citations": [hit.citation for hit in explanation.citations],
    }


@aliases.post("/{node}", status_code=201, response_model=DecisionBody)
@asking.post(
    "/{node}",
    status_code=201,
    response_model=DecisionBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Decide about an event",
)
async def decide(
    principal: Annotated[Principal, Depends(_ASK)],
    once: OnceAtCommitDep,
    request: Request,
    node: Annotated[str, Path(max_length=_LONGEST_NAME, examples=["finance"])],
    asked: AskedBody,
) -> Response:
    """Evaluates the node's policy, writes the verdict to the ledger, and answers with it.

    Where the state is `final`, the effect holds; where it is `waiting`, a person decides until `due_at`.
    """
    return await _decided(request.app.state, principal, once, node, asked)


async def _decided(state: Any, principal: Principal, once: Once, node: str, asked: AskedBody) -> Response:
    event = asked.event.event() if asked.event else asked.event_id
    assert event is not None
    for _ in range(_TRIES - 1):
        change = await _change(state, principal, node, event)
        try:
            return await once.commit(state.ledger, change, status=201, body=DecisionBody.model_validate)
        except NodeStopped:
            continue
    change = await _change(state, principal, node, event)
    return await once.commit(state.ledger, change, status=201, body=DecisionBody.model_validate)


async def _change(state: Any, principal: Principal, node: str, event: NewEvent | UUID) -> Change[Decision]:
    change: Change[Decision]
    if principal.founder:
        # In a context of their own, in which nothing is logged.
        decider: Decider = state.decider
        change = await state.workers.run(decider.decide, principal, node, event)
    else:
        change = await state.deciding(Asked(principal, node, event))
    return change


@router.post(
    "/{id}/resolution",
    response_model=DecisionBody,
    responses=problems(401, 403, 404, 409, 412, 429, 503),
    summary="Decide what waits",
)
async def resolve(
    principal: Annotated[Principal, allow("decide:review")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    decision_id: IdPath,
    given: ResolutionBody,
) -> Response:
    """Grants what was asked for, or denies it; on the ledger, and in the approval by which it was asked."""
    change = await run_in_threadpool(
        database.read, lambda c: review.resolve(c, principal, decision_id, given.verdict, given.reason)
    )
    return await once.commit(ledger, change, status=200, body=DecisionBody.model_validate)
