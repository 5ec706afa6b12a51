"""Deciding: who may, on what they saw, and when an approval is settled by it."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from stemma.access.principal import Principal
from stemma.approvals.catalog import get_approval
from stemma.approvals.model import Approval, Decision, State, Verdict
from stemma.approvals.requests import MAX_REASON, check_text
from stemma.approvals.settling import require_pending, require_seen, settle
from stemma.approvals.steps import step
from stemma.errors import Conflict, Forbidden
from stemma.ledger.change import Change
from stemma.ledger.writer import Statement
from stemma.store.database import Connection, database_time


def decide(
    connection: Connection,
    principal: Principal,
    approval_id: UUID,
    verdict: Verdict,
    *,
    reason: str,
    seen: frozenset[str],
) -> Change[Approval]:
    """Approve or deny; `seen` are ETags of which one has to be the approval's present one.

    One denial settles it, as does the last approval that is needed; an approval before that leaves it pending.

    Raises NotFound; Forbidden for who may not decide this one; Conflict when it is settled, or when this principal
    has decided it; PreconditionFailed when it is not as seen; InvalidInput for the reason, which a denial needs.
    """
    check_text("reason", reason, at_most=MAX_REASON, required=verdict is Verdict.DENY)
    approval = get_approval(connection, approval_id)
    require_may_decide(principal, approval)
    require_seen(approval, seen)
    reason = principal.kept(reason)
    now = database_time(connection)
    decision = Decision(principal.actor, principal.role, verdict, reason, now)
    state = _outcome(approval, verdict)
    decided = replace(
        approval,
        state=state,
        version=approval.version + 1,
        settled_at=None if state is State.PENDING else now,
        decisions=(*approval.decisions, decision),
    )
    action = "approval.decided" if state is State.PENDING else f"approval.{state}"
    entries = step(action, principal, decided, verdict=verdict, reason=reason)
    return Change(entries, (settle(decided), _insert(approval.id, decision)), lambda _: decided)


def require_may_decide(principal: Principal, approval: Approval) -> None:
    """Raises Forbidden for who may not decide this one, Conflict when it is settled or this principal has decided."""
    principal.require("approvals:decide")
    if approval.deciders and principal.role not in approval.deciders:
        hint = f"It takes one of the roles {', '.join(sorted(approval.deciders))}."
        raise Forbidden("role_forbidden", f"The role {principal.role} may not decide this one.", hint=hint)
    if approval.second_person and principal.actor == approval.requested_by:
        hint = "Ask somebody else to decide, or withdraw it."
        raise Forbidden("second_person_needed", "Who asked for this approval may not decide it.", hint=hint)
    require_pending(approval)
    if any(given.decided_by == principal.actor for given in approval.decisions):
        hint = "It takes somebody else now."
        raise Conflict("already_decided", "You have decided this one already.", field="id", hint=hint)


def _outcome(approval: Approval, verdict: Verdict) -> State:
    if verdict is Verdict.DENY:
        return State.DENIED
    return State.APPROVED if len(approval.decisions) + 1 == approval.approvals_needed else State.PENDING


def _insert(approval_id: UUID, decision: Decision) -> Statement:
    # Who decides twice at once is refused by the approval's version, with words, before the rows are counted here.
    return Statement(
        "INSERT INTO approval_decisions (approval_id, decided_by, role, verdict, reason, decided_at)"
        " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (
            approval_id,
            decision.decided_by,
            decision.role.value,
            decision.verdict.value,
            decision.reason,
            decision.decided_at,
        ),
        rows=1,
    )
