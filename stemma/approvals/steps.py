"""What the ledger keeps of an approval's steps, on the chain `approvals`, the audit chain and the Historian's.

Entries cannot be deleted, so that what people wrote is redacted here; the approval's own row keeps it as it was. The
content and the diff are named by their hashes alone.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from stemma.access.principal import Principal
from stemma.approvals.model import Approval, Verdict
from stemma.ledger.entries import NewEntry, format_time
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.notify.messages import Message
from stemma.notify.outbox import enqueue
from stemma.redaction import redact

CHAIN: Final = "approvals"


def step(
    action: str, principal: Principal, approval: Approval, *, verdict: Verdict | None = None, reason: str = ""
) -> tuple[NewEntry, ...]:
    """The entries of one step, such as `approval.denied`; `approval` as it is after the step."""
    name = f"approval:{approval.id}"
    subject = redact(approval.subject).text
    data: dict[str, Any] = {
        "kind": approval.kind,
        "subject": subject,
        "sha256": approval.content_sha256,
        "diff_sha256": hashlib.sha256(approval.diff.encode()).hexdigest(),
        "risk": approval.risk,
        "requested_by": approval.requested_by,
        "deciders": list(approval.deciders),
        "second_person": approval.second_person,
        "approvals_needed": approval.approvals_needed,
        "expires_at": format_time(approval.expires_at),
        "state": approval.state,
        "version": approval.version,
        "role": principal.role if verdict else None,
        "verdict": verdict,
        "reason": redact(reason).text,
    }
    meta = {"kind": approval.kind, "subject": subject, "risk": approval.risk, "state": approval.state}
    return (
        NewEntry(CHAIN, action, principal.actor, name, data),
        *audited(principal, action, resource=name, meta=meta, critical=True),
    )


def notified(action: str, approval: Approval) -> Statement:
    """The notification of one step, for whoever subscribed to it."""
    titles = {"approval.requested": "Approval asked for", "approval.expired": "Approval expired"}
    data = {
        "approval": str(approval.id),
        "kind": approval.kind,
        "subject": approval.subject,
        "risk": approval.risk,
        "requested_by": approval.requested_by,
        "expires_at": format_time(approval.expires_at),
    }
    return enqueue(Message(action, f"{titles[action]}: {approval.kind} {approval.subject}", approval.reason, data))
