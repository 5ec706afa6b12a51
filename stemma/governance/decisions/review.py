"""What a person decides, and what holds when nobody does in time.

A decision that waits is asked through an approval: whether the request is to be granted, whatever the policy proposes.
Who decides that approval elsewhere decides the same; `settle_due` brings the decision after it, and past the deadline
carries out what the policy says of silence: a denial, or the same question once more. Never an approval.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.approvals import catalog as approvals
from stemma.approvals import decisions, requests
from stemma.approvals.model import Approval, Verdict
from stemma.approvals.model import State as Standing
from stemma.errors import Conflict, Unavailable
from stemma.governance.decisions import flags
from stemma.governance.decisions.catalog import get_decision
from stemma.governance.decisions.model import CHAIN, Decision, State
from stemma.governance.policy import Escalation, Ruling
from stemma.ledger.change import Change
from stemma.ledger.entries import NewEntry, canonical, format_time
from stemma.ledger.journal import audited
from stemma.ledger.service import Ledger
from stemma.ledger.writer import Statement
from stemma.redaction import redact
from stemma.store.database import Connection, Database

logger = logging.getLogger(__name__)

PERMISSION: Final = "decide:review"
KIND: Final = "decision"
AT_ONCE: Final = 100
_STUDIO: Final = Principal("studio", Role.VIEWER, frozenset())
_SETTLE: Final = """
    UPDATE decisions SET state = %(state)s, effect = %(effect)s, settled_by = %(by)s, settled_reason = %(reason)s,
        settled_at = %(at)s
    WHERE id = %(id)s AND state = 'waiting' AND approval_id = %(approval_id)s
"""
_ASK_AGAIN: Final = """
    UPDATE decisions SET approval_id = %(next)s, due_at = %(due_at)s
    WHERE id = %(id)s AND state = 'waiting' AND approval_id = %(approval_id)s
"""


# What was approved while its node is stopped waits on; the guard of its commit has the last word.
_DUE: Final = f"""
    SELECT d.id, a.id FROM decisions AS d JOIN approvals AS a ON a.id = d.approval_id
    WHERE d.state = 'waiting' AND (a.state <> 'pending' OR a.expires_at <= statement_timestamp())
        AND (a.state <> 'approved' OR NOT {flags.is_stopped("d.node")})
    ORDER BY coalesce(a.settled_at, a.expires_at) LIMIT {AT_ONCE}
"""


def subject(decision_id: UUID) -> str:
    """How the ledger and the approvals name a decision."""
    return f"decision/{decision_id}"


def proposal(decision: Decision, escalation: Escalation) -> requests.Proposal:
    """What a person is asked about a decision, and for how long."""
    said = {
        "decision": str(decision.id),
        "node": decision.node,
        "policy": decision.policy_reference,
        "proposed": decision.verdict.value,
        "level": decision.level.value,
        "reasons": [{"rule": reason.rule, "text": reason.text} for reason in decision.reasons],
        "context_sha256": decision.context_sha256,
        "event": decision.event,
        "to": escalation.to,
    }
    why = " ".join(reason.text for reason in decision.reasons)
    return requests.Proposal(
        kind=KIND,
        subject=subject(decision.id),
        content=canonical(said),
        reason=f"{decision.node} proposes to {decision.verdict}. {why}"[: requests.MAX_REASON],
        media_type="application/json",
        lifetime=max(timedelta(hours=escalation.within_hours), requests.SHORTEST),
    )


def resolve(
    connection: Connection, principal: Principal, decision_id: UUID, verdict: Verdict, reason: str
) -> Change[Decision]:
    """Grant what was asked for, or deny it, as the person who decides; a denial needs a reason.

    Raises Forbidden, NotFound; Conflict for what does not wait, or whose deadline has passed; InvalidInput for the
    reason; PreconditionFailed where somebody else came first. While the node is stopped, the commit of an approval
    raises Conflict; a denial commits.
    """
    principal.require(PERMISSION)
    decision = get_decision(connection, decision_id)
    if decision.state is not State.WAITING or decision.approval_id is None:
        what = f"This decision is {decision.state}: it waits for nobody."
        raise Conflict("decision_not_waiting", what, field="id")
    approval = approvals.get_approval(connection, decision.approval_id)
    # Whoever may review decisions may decide the approvals by which they are asked.
    reviewer = replace(principal, scopes=principal.scopes | {"approvals:decide"})
    decided = decisions.decide(
        connection, reviewer, approval.id, verdict, reason=reason, seen=frozenset({approval.etag})
    )
    return _settled(principal, decision, State.RESOLVED, Ruling(verdict.value), principal.kept(reason)).joined(decided)


def due(connection: Connection) -> tuple[Change[Decision], ...]:
    """One change for each decision that waits no longer: its approval was decided elsewhere, or its deadline passed;
    at most `AT_ONCE`.

    What was approved at a node that is stopped is not due. Each commits once; where another process was first, or the
    node was stopped meanwhile, it raises Conflict.
    """
    found = connection.execute(_DUE).fetchall()
    return tuple(_followed(connection, get_decision(connection, one), approval_id) for one, approval_id in found)


def settle_due(database: Database, ledger: Ledger) -> int:
    """Write what is due, as the studio; returns how many this call wrote.

    Another process may write the same, and the ledger may be busy: what is not written now is written by the next look.
    """
    changes = database.read(due)
    written = 0
    try:
        futures = [ledger.commit(change) for change in changes]
        for future in futures:
            with contextlib.suppress(Conflict):
                future.result()
                written += 1
    except Unavailable as error:
        logger.warning("decisions past their deadline are settled later: %s", error)
    return written


def _followed(connection: Connection, decision: Decision, approval_id: UUID) -> Change[Decision]:
    approval = approvals.get_approval(connection, approval_id)
    if approval.state is Standing.EXPIRED:
        return _lapsed(connection, decision, approval)
    if approval.state is Standing.WITHDRAWN:
        return _settled(_STUDIO, decision, State.RESOLVED, Ruling.DENY, "The question was withdrawn.")
    last = approval.decisions[-1]
    by = Principal(last.decided_by, last.role, frozenset())
    return _settled(by, decision, State.RESOLVED, Ruling(last.verdict.value), last.reason)


def _lapsed(connection: Connection, decision: Decision, approval: Approval) -> Change[Decision]:
    if decision.on_silence == "deny":
        return _settled(_STUDIO, decision, State.LAPSED, Ruling.DENY, "Nobody decided in time.")
    content = approvals.get_content(connection, approval.id)
    same = requests.Proposal(
        kind=KIND,
        subject=subject(decision.id),
        content=content.data,
        reason=approval.reason,
        media_type=content.media_type,
        lifetime=approval.expires_at - approval.requested_at,
    )
    asked = requests.request(connection, _STUDIO, same)
    again = asked.result(())
    told = {"due_at": format_time(again.expires_at), "approval": str(again.id)}
    entry = NewEntry(CHAIN, "decision.asked_again", _STUDIO.actor, subject(decision.id), told)
    values = {"id": decision.id, "approval_id": approval.id, "next": again.id, "due_at": again.expires_at}
    waits = replace(decision, approval_id=again.id, due_at=again.expires_at)
    return Change((entry,), (Statement(_ASK_AGAIN, values, 1, _raced(decision)),), lambda _: waits).joined(asked)


def _settled(by: Principal, decision: Decision, state: State, effect: Ruling, reason: str) -> Change[Decision]:
    settled = replace(
        decision, state=state, effect=effect, settled_by=by.actor, settled_reason=reason, settled_at=datetime.now(UTC)
    )
    values = {
        "id": decision.id,
        "approval_id": decision.approval_id,
        "state": state.value,
        "effect": effect.value,
        "by": by.actor,
        "reason": reason,
        "at": settled.settled_at,
    }
    # Entries cannot be deleted, so that what people wrote is redacted; the row keeps it.
    told = {"effect": effect.value, "proposed": decision.verdict.value, "reason": redact(reason).text}
    kind, name = f"decision.{state}", subject(decision.id)
    entries = (
        NewEntry(CHAIN, kind, by.actor, name, told),
        *audited(by, kind, resource=name, meta={"node": decision.node, **told}, critical=True),
    )
    guards = (flags.require_running(decision.node),) if effect is Ruling.APPROVE else ()
    return Change(entries, (*guards, Statement(_SETTLE, values, 1, _raced(decision))), lambda _: settled)


def _raced(decision: Decision) -> Conflict:
    return Conflict("decision_settled", f"Decision {decision.id} was settled meanwhile.", field="id")
