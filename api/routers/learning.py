"""Learning: how variants stand, promotions, and what another policy says or would have been worth."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.bodies import RequestBody
from api.deps import DatabaseDep, LedgerDep, PageDep
from api.idempotency import OnceDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.access.principal import Principal
from stemma.governance import nodes, policies
from stemma.governance.checking import check
from stemma.governance.learning import catalog, estimates, offpolicy, promotion, replay, shadow, simulation
from stemma.governance.learning.catalog import Promotion, State
from stemma.governance.learning.comparing import Comparison
from stemma.governance.learning.estimates import Savings
from stemma.governance.learning.offpolicy import Evaluation
from stemma.governance.learning.simulation import Simulation
from stemma.governance.learning.standing import Standing, standing
from stemma.governance.learning.valued import SUCCESS, Done
from stemma.governance.policy import BASELINE, Level, Ruling
from stemma.governance.yaml_text import MAX_BYTES
from stemma.store.cursors import Page

router = APIRouter(prefix=API, tags=["learning"], route_class=limited("learning"))

MOST: Final = 10_000
"""Decisions that one request looks at; the command line looks at more."""

NodePath = Annotated[str, Path(max_length=63, examples=["finance"])]
IdPath = Annotated[UUID, Path(alias="id", examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"])]
LastQuery = Annotated[int, Query(ge=1, le=MOST, description="How many decisions, the newest")]
MetricQuery = Annotated[str, Query(max_length=63, description="A metric of the node's reward, or `success`")]
VariantQuery = Annotated[str, Query(max_length=63, description="A variant of the policy", examples=["cautious"])]
PolicyQuery = Annotated[
    str, Query(max_length=200, description="`name`, `name@1` or `name@1.2.3`", examples=["finance.discounts@1"])
]


class _Body(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class VariantBody(_Body):
    """A variant's counts and its posterior, a Beta distribution."""

    variant: str = Field(examples=["cautious"])
    draws: int
    successes: int
    failures: int
    alpha: float
    beta: float
    mean: float = Field(description="Expected rate of success")
    low: float = Field(description="Its central 95 % interval")
    high: float
    propensity: float = Field(description="With which it is drawn now")
    stopped_at: datetime | None = Field(description="The stop rule took its traffic away")
    stopped_why: str | None


class StandingBody(BaseModel):
    """How learning stands at a node."""

    node: str
    policy: str = Field(examples=["finance.discounts@1.0.0"])
    guardrails: dict[str, Any]
    variants: list[VariantBody]
    assessment: dict[str, Any] = Field(description="Each variant beside the baseline, and which may be promoted")


class PromotionBody(_Body):
    """A variant that is proposed as the baseline."""

    id: UUID
    node: str = Field(examples=["finance"])
    policy: str = Field(examples=["finance.discounts@1.0.0"])
    variant: str = Field(examples=["cautious"])
    evidence: dict[str, Any] = Field(description="The assessment by which it was proposed")
    approval_id: UUID = Field(description="What a person decides, under /approvals")
    state: State
    published: str | None = Field(description="The version that came of it", examples=["finance.discounts@1.1.0"])
    proposed_at: datetime
    settled_at: datetime | None


class PromotionsBody(BaseModel):
    """One page of promotions."""

    data: list[PromotionBody]
    next_cursor: str | None


class ProposalBody(RequestBody):
    """Where to propose what the outcomes say is better."""

    node: str = Field(max_length=63, examples=["finance"])


class ReasonBody(_Body):
    """A reason, and the rule that gave it."""

    rule: str = Field(examples=["margin/usual"])
    text: str


class SaidBody(_Body):
    """What a policy said."""

    verdict: Ruling
    level: Level
    reasons: list[ReasonBody]


class TransitionBody(_Body):
    """Decisions in which two verdicts meet, and how those ended that were made."""

    before: Ruling
    after: Ruling
    count: int
    successes: int
    failures: int


class DifferenceBody(_Body):
    """A decision of which the two say something else."""

    decision_id: UUID
    event_id: UUID
    occurred_at: datetime
    before: SaidBody
    after: SaidBody
    effect: Ruling | None
    success: bool | None


class ComparisonBody(_Body):
    """What was said beside what another policy says. Outcomes are those of what was done."""

    compared: int
    different: int
    verdicts: int = Field(description="In how many the verdict differs")
    levels: int
    reasons: int
    transitions: list[TransitionBody]
    differences: list[DifferenceBody] = Field(description="The newest 200")


class SimulationBody(_Body):
    """What a policy says of past events."""

    policy: str
    variant: str
    events: int
    decided: int = Field(description="Those that were decided: in the context of their decision, and compared with it")
    verdicts: dict[str, int]
    levels: dict[str, int]
    rules: dict[str, int] = Field(description="How often each rule answers")
    unused: list[str]
    comparison: ComparisonBody


class IntervalBody(_Body):
    """An estimate with its 95 % interval."""

    estimate: float
    low: float
    high: float


class EvaluationBody(_Body):
    """What a policy would have been worth by decision: observed, weighted where there is overlap, modelled beyond."""

    policy: str
    variant: str
    metric: str
    decisions: int
    pending: int = Field(description="Left out: given, without an outcome yet")
    observed: IntervalBody | None
    given: int
    beyond: int = Field(description="Would be given, and never were")
    effective: float
    ips: IntervalBody | None
    snips: IntervalBody | None
    doubly_robust: IntervalBody | None
    modelled: float | None = Field(description="Mean value of those beyond, by a regression; not observed")


class ObservedBody(_Body):
    """What was given, and its value."""

    count: int
    total: float
    unknown: int


class ModelledBody(_Body):
    """A total that a model says. Not observed."""

    model: str = Field(examples=["nearest"])
    total: IntervalBody


class NotGivenBody(_Body):
    """What was refused, or left open."""

    done: Done
    count: int
    beyond: int = Field(description="Those that no variant would have given")
    models: list[ModelledBody]


class SavingsBody(_Body):
    """What was given and what was not, observed and counterfactual kept apart. Saved is minus the value."""

    node: str
    metric: str
    decisions: int
    observed: ObservedBody
    overlap: int
    weighted: IntervalBody | None
    not_given: list[NotGivenBody]


class TextsBody(RequestBody):
    """A policy that need not be published."""

    policy: str = Field(max_length=MAX_BYTES, description="The policy, as YAML", examples=["name: finance.discounts\n"])
    tests: str = Field(max_length=MAX_BYTES, description="Its golden cases", examples=["cases: []\n"])
    variant: str = Field(default=BASELINE, max_length=63)
    last: int = Field(default=1_000, ge=1, le=MOST, description="How many events, the newest")


@router.get(
    "/learning/{node}",
    response_model=StandingBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="See how learning stands at a node",
)
def show_learning(
    principal: Annotated[Principal, allow("decide:read")], database: DatabaseDep, node: NodePath
) -> StandingBody:
    """The variants of the policy that decides there now, with posteriors, propensities and what the outcomes say."""
    return _standing(database.read(lambda connection: standing(connection, nodes.load(connection, node))))


@router.get(
    "/learning/{node}/savings",
    response_model=SavingsBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Estimate what refusing saved",
)
def show_savings(
    principal: Annotated[Principal, allow("decide:read")],
    database: DatabaseDep,
    node: NodePath,
    metric: MetricQuery = SUCCESS,
    last: LastQuery = 1_000,
) -> Savings:
    """What was observed, what is weighted by recorded chances, and what only a model says, each by itself."""
    return database.read(lambda c: estimates.savings(c, nodes.load(c, node), metric=metric, last=last))


@router.get(
    "/evaluation",
    response_model=EvaluationBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Evaluate a policy on what was drawn and observed",
)
def evaluate(
    principal: Annotated[Principal, allow("decide:read")],
    database: DatabaseDep,
    policy: PolicyQuery,
    variant: VariantQuery = BASELINE,
    metric: MetricQuery = SUCCESS,
    last: LastQuery = 1_000,
) -> Evaluation:
    """By inverse propensity scoring, its self-normalized form, and doubly robust."""
    return database.read(
        lambda c: offpolicy.evaluate_policy(c, policies.load(c, policy), last=last, variant=variant, metric=metric)
    )


@router.get(
    "/replay",
    response_model=ComparisonBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="Replay decisions with another policy",
)
def replay_decisions(
    principal: Annotated[Principal, allow("decide:read")],
    database: DatabaseDep,
    policy: PolicyQuery,
    variant: VariantQuery = BASELINE,
    last: LastQuery = 1_000,
) -> Comparison:
    """What it says of the last decisions of its node, in their very contexts, beside what was said."""
    return database.read(lambda c: replay.replay(c, policies.load(c, policy), last=last, variant=variant))


@router.get(
    "/shadow/{node}",
    response_model=ComparisonBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="See what the candidate in the shadow said",
)
def show_shadow(
    principal: Annotated[Principal, allow("decide:read")],
    database: DatabaseDep,
    node: NodePath,
    policy: Annotated[str | None, Query(max_length=200, description="An earlier candidate")] = None,
    last: LastQuery = 1_000,
) -> Comparison:
    """Beside the live decisions and their outcomes, without effect on them."""
    return database.read(lambda c: shadow.compared(c, node, policy=policy, last=last))


@router.post(
    "/policies/simulate",
    response_model=SimulationBody,
    responses=problems(401, 403, 429, 503),
    summary="Simulate a policy on past events",
)
def simulate(
    principal: Annotated[Principal, allow("decide:write")], database: DatabaseDep, texts: TextsBody
) -> Simulation:
    """What it says of past events before anybody publishes it; its golden cases may fail."""
    policy = check(texts.policy, texts.tests).usable()
    return database.read(lambda c: simulation.simulate(c, policy, last=texts.last, variant=texts.variant))


@router.get(
    "/promotions",
    response_model=PromotionsBody,
    responses=problems(401, 403, 429, 503),
    summary="List promotions",
)
def list_promotions(
    principal: Annotated[Principal, allow("decide:read")],
    database: DatabaseDep,
    page: PageDep,
    node: Annotated[str | None, Query(max_length=63, description="Only those at this node")] = None,
    state: Annotated[State | None, Query(description="Only those in this state")] = None,
) -> Page[Promotion]:
    """The newest first."""
    return database.read(
        lambda c: catalog.list_promotions(c, node=node, state=state, cursor=page.cursor, limit=page.limit)
    )


@router.get(
    "/promotions/{id}",
    response_model=PromotionBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="Open a promotion",
)
def show_promotion(
    principal: Annotated[Principal, allow("decide:read")], database: DatabaseDep, promotion_id: IdPath
) -> Promotion:
    """With its evidence; what a person decides is its approval."""
    return database.read(lambda c: catalog.get_promotion(c, promotion_id))


@router.post(
    "/promotions",
    status_code=201,
    response_model=PromotionBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Propose the variant that is better",
)
async def propose(
    principal: Annotated[Principal, allow("decide:write")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    wanted: ProposalBody,
) -> Response:
    """Asks for the approval of the exact policy that has it as its baseline; 409 where the outcomes say of none."""
    change = await run_in_threadpool(
        database.read, lambda c: promotion.propose(c, principal, nodes.load(c, wanted.node))
    )
    return await once.commit(ledger, change, status=201, body=PromotionBody.model_validate)


def _standing(stand: Standing) -> StandingBody:
    return StandingBody(
        node=stand.node,
        policy=stand.policy.reference,
        guardrails=stand.guardrails.model_dump(mode="json"),
        variants=[VariantBody.model_validate(_variant(stand, at)) for at in range(len(stand.stats))],
        assessment=stand.assessment.content(),
    )


def _variant(stand: Standing, at: int) -> Mapping[str, Any]:
    one = stand.stats[at]
    low, high = one.posterior.interval()
    return {
        **{name: getattr(one, name) for name in type(one).__slots__},
        "alpha": one.posterior.alpha,
        "beta": one.posterior.beta,
        "mean": one.posterior.mean,
        "low": low,
        "high": high,
        "propensity": stand.propensities[one.variant],
    }
