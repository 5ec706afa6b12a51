"""Decisions: which were made, one of them with everything it rests on, what waits for a person, and settling that."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Form, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.console import inputs
from api.console.forms import redirect
from api.console.rendering import render
from api.deps import DatabaseDep, LedgerDep, PageDep
from api.limits import limited
from api.routers.llm import RouterDep, caller_of
from stemma.access.principal import Principal
from stemma.approvals.model import Verdict
from stemma.approvals.requests import MAX_REASON
from stemma.errors import Conflict, InvalidInput, StemmaError
from stemma.governance import explaining, nodes
from stemma.governance.decisions import catalog, replaying, review
from stemma.governance.decisions.model import Decision, State
from stemma.governance.learning.drawing import Draw
from stemma.governance.outcomes.catalog import find_outcomes
from stemma.governance.policy import Level, Ruling
from stemma.registry import catalog as registry
from stemma.store.database import Connection, Database

router = APIRouter(prefix="/decisions", route_class=limited("console"), include_in_schema=False)

_NODES: Final = 100
_EXPLANATION: Final = "/decisions/{id}/explanation"

ReaderDep = Annotated[Principal, allow("decide:read")]
ReviewerDep = Annotated[Principal, allow("decide:review")]
IdPath = Annotated[UUID, Path(alias="id")]
TextQuery = Annotated[str, Query(max_length=500)]
_SAID: Final = {
    Verdict.APPROVE: "Approved. Your word and your reason are on the ledger.",
    Verdict.DENY: "Denied. Your word and your reason are on the ledger.",
}


@router.get("")
def show(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    page: PageDep,
    node: TextQuery = "",
    state: TextQuery = "",
    verdict: TextQuery = "",
    level: TextQuery = "",
    entity: TextQuery = "",
    correlation: TextQuery = "",
) -> Response:
    """The newest first, all or those that match."""
    asked = {"node": node, "state": state, "verdict": verdict, "level": level, "entity": entity}
    given = {name: text.strip() for name, text in {**asked, "correlation": correlation}.items()}
    with database.snapshot() as connection:
        found = catalog.list_decisions(
            connection,
            node=given["node"] or None,
            state=inputs.chosen(State, given["state"], "state"),
            verdict=inputs.chosen(Ruling, given["verdict"], "verdict"),
            level=inputs.chosen(Level, given["level"], "level"),
            entity=given["entity"] or None,
            correlation_id=given["correlation"] or None,
            cursor=page.cursor,
            limit=page.limit,
        )
        waiting = catalog.list_waiting(connection, limit=1)
        known = [one.name for one in registry.list_newest(connection, nodes.KIND, limit=_NODES).data]
    return render(
        request,
        "pages/decisions.html",
        found=found,
        given=given,
        filtered=any(given.values()),
        anything_waits=bool(waiting.data),
        nodes=known,
        states=State,
        verdicts=Ruling,
        all_levels=Level,
    )


@router.get("/review")
def show_queue(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    page: PageDep,
    node: TextQuery = "",
) -> Response:
    """What waits for a person, the nearest deadline first; what passed its deadline is settled before."""
    review.settle_due(database, ledger)
    found = database.read(
        lambda connection: catalog.list_waiting(
            connection, node=node.strip() or None, cursor=page.cursor, limit=page.limit
        )
    )
    return render(
        request, "pages/review.html", found=found, node=node.strip(), may_review=principal.may("decide:review")
    )


@router.get("/{id}")
def show_one(
    request: Request, principal: ReaderDep, database: DatabaseDep, ledger: LedgerDep, decision_id: IdPath
) -> Response:
    """Why it was decided so, by which rules, what was known, what came of it, and its place on the ledger."""
    review.settle_due(database, ledger)
    with database.snapshot() as connection:
        decision = catalog.get_decision(connection, decision_id)
        outcome = find_outcomes(connection, [decision_id]).get(decision_id)
        made_again = _made_again(connection, decision)
    draw = Draw.of_content(decision.draw) if decision.draw else None
    return render(
        request,
        "pages/decision.html",
        decision=decision,
        outcome=outcome,
        made_again=made_again,
        draw=draw,
        may_review=principal.may("decide:review"),
        may_read_ledger=principal.may("ledger:read"),
    )


def _made_again(connection: Connection, decision: Decision) -> bool | StemmaError:
    """Whether the stored context leads to the same verdict now, or why that cannot be told."""
    try:
        return replaying.again(connection, decision.id).sha256 == decision.verdict_sha256
    except StemmaError as error:
        return error


@router.get("/{id}/explanation")
async def explain(
    request: Request, principal: ReaderDep, database: DatabaseDep, models: RouterDep, decision_id: IdPath
) -> Response:
    """The decision in plain words, beside what was recorded; nothing is changed by it."""
    decision = await run_in_threadpool(database.read, lambda c: catalog.get_decision(c, decision_id))
    caller = caller_of(request, principal, _EXPLANATION, "explain")
    told = await explaining.explain(models, decision, caller, ask_models=principal.may("llm:run"))
    return await run_in_threadpool(render, request, "pages/decision_explanation.html", decision=decision, told=told)


@router.get("/{id}/resolve")
def ask(
    request: Request,
    principal: ReviewerDep,
    database: DatabaseDep,
    decision_id: IdPath,
    verdict: Annotated[Verdict, Query()],
) -> Response:
    """Shows once more what is decided, and asks why."""
    return _ask(request, database, decision_id, verdict)


@router.post("/{id}/resolve")
async def resolve(
    request: Request,
    principal: ReviewerDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    decision_id: IdPath,
    verdict: Annotated[Verdict, Form()],
    reason: Annotated[str, Form()] = "",
) -> Response:
    """Settles what waits, or says what stands in the way."""
    try:
        change = await run_in_threadpool(
            database.read, lambda connection: review.resolve(connection, principal, decision_id, verdict, reason)
        )
        await ledger.commit_async(change)
    except InvalidInput as error:
        return await run_in_threadpool(_ask, request, database, decision_id, verdict, reason, error)
    except Conflict as error:
        return redirect(f"/decisions/{decision_id}", said=f"Nothing was done. {error.message}", tone="info")
    return redirect(f"/decisions/{decision_id}", said=_SAID[verdict])


def _ask(
    request: Request,
    database: Database,
    decision_id: UUID,
    verdict: Verdict,
    reason: str = "",
    error: InvalidInput | None = None,
) -> Response:
    decision = database.read(lambda connection: catalog.get_decision(connection, decision_id))
    if decision.state is not State.WAITING:
        return redirect(
            f"/decisions/{decision_id}", said="Nothing was done. It waits for nobody any more.", tone="info"
        )
    context: dict[str, Any] = {"decision": decision, "verdict": verdict, "reason": reason, "error": error}
    return render(
        request,
        "pages/decision_resolve.html",
        status=error.status if error else 200,
        store=error is None,
        longest=MAX_REASON,
        **context,
    )
