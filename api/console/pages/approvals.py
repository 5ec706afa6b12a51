"""Approvals: what waits for a decision, one of them with everything that there is to see, and deciding exactly that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Form, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.console.forms import redirect
from api.console.rendering import render
from api.deps import DatabaseDep, LedgerDep, PageDep
from api.limits import limited
from stemma.access.principal import Principal
from stemma.approvals import catalog, decisions, requests
from stemma.approvals.expiry import settle_due
from stemma.approvals.model import Approval, State, Verdict
from stemma.approvals.steps import CHAIN
from stemma.errors import Conflict, Forbidden, InvalidInput, PreconditionFailed, StemmaError
from stemma.ledger.change import Change
from stemma.ledger.entries import Entry
from stemma.ledger.feed import Filter, list_entries
from stemma.ledger.service import Ledger
from stemma.store.database import Connection, Database

router = APIRouter(prefix="/approvals", route_class=limited("console"), include_in_schema=False)

_MOST_PENDING: Final = 100
_MOST_STEPS: Final = 50

Step = Literal["approve", "deny", "withdraw"]
IdPath = Annotated[UUID, Path(alias="id")]
SeenQuery = Annotated[str, Query(max_length=64)]
SeenField = Annotated[str, Form(max_length=64)]
ReasonField = Annotated[str, Form()]
ReaderDep = Annotated[Principal, allow("approvals:read")]
DeciderDep = Annotated[Principal, allow("approvals:decide")]
RequesterDep = Annotated[Principal, allow("approvals:request")]
_SAID: Final = {
    State.PENDING: "Your approval is recorded. It takes one more, by somebody else.",
    State.APPROVED: "Approved. These exact bytes may be used now, once.",
    State.DENIED: "Denied. Nothing was done with these bytes.",
    State.WITHDRAWN: "Withdrawn. Nobody can decide it any more.",
}


@router.get("")
def show(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    page: PageDep,
    state: Annotated[State | None, Query()] = None,
) -> Response:
    """What is pending first, then what is settled, the newest first, all of it or what is in one state."""
    settle_due(database, ledger)
    with database.snapshot() as connection:
        pending = catalog.list_approvals(connection, state=State.PENDING, limit=_MOST_PENDING)
        settled = catalog.list_approvals(connection, state=state, settled=True, cursor=page.cursor, limit=page.limit)
    states = [one for one in State if one is not State.PENDING]
    return render(
        request,
        "pages/approvals.html",
        pending=pending,
        settled=settled,
        states=states,
        state=state,
        first=not page.cursor,
    )


@router.get("/{id}")
def show_one(
    request: Request, principal: ReaderDep, database: DatabaseDep, ledger: LedgerDep, approval_id: IdPath
) -> Response:
    """What is asked, why, how risky, the diff, every step so far, and what this principal may do about it."""
    settle_due(database, ledger)
    with database.snapshot() as connection:
        approval = catalog.get_approval(connection, approval_id)
        steps = _steps(connection, principal, approval)
    return render(
        request,
        "pages/approval.html",
        approval=approval,
        steps=steps,
        undecidable=_refusal(lambda: decisions.require_may_decide(principal, approval)),
        may_withdraw=principal.may("approvals:request")
        and _refusal(lambda: requests.require_may_withdraw(principal, approval)) is None,
    )


@router.get("/{id}/approve")
def ask_to_approve(
    request: Request, principal: DeciderDep, database: DatabaseDep, approval_id: IdPath, seen: SeenQuery = ""
) -> Response:
    """Shows once more what is approved, and asks."""
    return _ask(request, database, approval_id, "approve", seen)


@router.get("/{id}/deny")
def ask_to_deny(
    request: Request, principal: DeciderDep, database: DatabaseDep, approval_id: IdPath, seen: SeenQuery = ""
) -> Response:
    """Shows once more what is denied, and asks why."""
    return _ask(request, database, approval_id, "deny", seen)


@router.get("/{id}/withdraw")
def ask_to_withdraw(
    request: Request, principal: RequesterDep, database: DatabaseDep, approval_id: IdPath, seen: SeenQuery = ""
) -> Response:
    """Says what withdrawing does, and asks."""
    return _ask(request, database, approval_id, "withdraw", seen)


@router.post("/{id}/approve")
async def approve(
    request: Request,
    principal: DeciderDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    approval_id: IdPath,
    if_match: SeenField = "",
    reason: ReasonField = "",
) -> Response:
    """Approves exactly what was shown."""
    return await _take(
        request, database, ledger, approval_id, "approve", if_match, reason,
        lambda connection, seen: decisions.decide(
            connection, principal, approval_id, Verdict.APPROVE, reason=reason, seen=seen
        ),
    )  # fmt: skip


@router.post("/{id}/deny")
async def deny(
    request: Request,
    principal: DeciderDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    approval_id: IdPath,
    if_match: SeenField = "",
    reason: ReasonField = "",
) -> Response:
    """Denies it with a reason."""
    return await _take(
        request, database, ledger, approval_id, "deny", if_match, reason,
        lambda connection, seen: decisions.decide(
            connection, principal, approval_id, Verdict.DENY, reason=reason, seen=seen
        ),
    )  # fmt: skip


@router.post("/{id}/withdraw")
async def withdraw(
    request: Request,
    principal: RequesterDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    approval_id: IdPath,
    if_match: SeenField = "",
) -> Response:
    """Takes back what nobody has decided."""
    return await _take(
        request, database, ledger, approval_id, "withdraw", if_match, "",
        lambda connection, seen: requests.withdraw(connection, principal, approval_id, seen=seen),
    )  # fmt: skip


async def _take(
    request: Request,
    database: Database,
    ledger: Ledger,
    approval_id: UUID,
    step: Step,
    seen: str,
    reason: str,
    prepare: Callable[[Connection, frozenset[str]], Change[Approval]],
) -> Response:
    """Take the step, or say what is in its way: the form again, or that the approval has changed."""
    try:
        change = await run_in_threadpool(database.read, lambda connection: prepare(connection, frozenset({seen})))
        approval = await ledger.commit_async(change)
    except InvalidInput as error:
        return await run_in_threadpool(_ask, request, database, approval_id, step, seen, reason, error)
    except Conflict as error:
        return await run_in_threadpool(_changed, request, database, approval_id, error)
    return redirect(f"/approvals/{approval_id}", said=_SAID[approval.state])


def _ask(
    request: Request,
    database: Database,
    approval_id: UUID,
    step: Step,
    seen: str,
    reason: str = "",
    error: InvalidInput | None = None,
) -> Response:
    approval = database.read(lambda connection: catalog.get_approval(connection, approval_id))
    if approval.etag != seen:
        what = "It is not as it was when you looked at it." if seen else "Look at what is asked before you decide."
        return _changed(request, database, approval_id, PreconditionFailed("approval_changed", what))
    context: dict[str, Any] = {"approval": approval, "step": step, "reason": reason, "error": error}
    return render(
        request,
        "pages/approval_step.html",
        status=error.status if error else 200,
        store=error is None,
        longest=requests.MAX_REASON,
        **context,
    )


def _changed(request: Request, database: Database, approval_id: UUID, error: StemmaError) -> Response:
    """The page that stands in the way of deciding what nobody has seen."""
    approval = database.read(lambda connection: catalog.get_approval(connection, approval_id))
    return render(
        request, "pages/approval_changed.html", status=error.status, store=False, approval=approval, error=error
    )


def _steps(connection: Connection, principal: Principal, approval: Approval) -> tuple[Entry, ...]:
    """What the ledger has of it, the oldest first; nothing for who may not read the ledger."""
    if not principal.may("ledger:read"):
        return ()
    wanted = Filter(subject=f"approval:{approval.id}")
    return list_entries(connection, CHAIN, wanted, limit=_MOST_STEPS).data[::-1]


def _refusal(check: Callable[[], None]) -> StemmaError | None:
    try:
        check()
    except (Forbidden, Conflict) as error:
        return error
    return None
