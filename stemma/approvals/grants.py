"""Using what was approved: the check before a capability acts, and the use that can happen once.

approval = require_approved(connection, kind="publish", subject="site", content_sha256=sha256)
ledger.commit(publish(...).joined(consume(connection, principal, approval.id)))
"""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from stemma.access.principal import Principal
from stemma.approvals.catalog import get_approval
from stemma.approvals.model import Approval, State
from stemma.approvals.steps import step
from stemma.errors import Conflict, NotApproved
from stemma.ledger.change import Change
from stemma.ledger.writer import Statement
from stemma.store.database import Connection, database_time

_USABLE_FIRST = """
    SELECT id FROM approvals
    WHERE content_sha256 = decode(%(sha256)s, 'hex') AND kind = %(kind)s AND subject = %(subject)s
    ORDER BY state = 'approved' AND consumed_at IS NULL DESC, position DESC LIMIT 1
"""


def require_approved(connection: Connection, *, kind: str, subject: str, content_sha256: str) -> Approval:
    """The newest approval of exactly these bytes for this use that was not consumed; `content_sha256` in hexadecimal.

    Raises NotApproved, which says how the newest one stands where there is one.
    """
    found = connection.execute(_USABLE_FIRST, {"sha256": content_sha256, "kind": kind, "subject": subject}).fetchone()
    approval = get_approval(connection, found[0]) if found else None
    if approval and approval.state is State.APPROVED and approval.consumed_at is None:
        return approval
    hint = "Ask for an approval of exactly these bytes."
    if approval is None:
        raise NotApproved("not_approved", f"These bytes of {subject} were not approved ({kind}).", hint=hint)
    how = "used already" if approval.consumed_at else approval.state.value
    if approval.state is State.PENDING:
        hint = "Somebody has to decide it first."
    raise NotApproved("not_approved", f"Approval {approval.id} of these bytes of {subject} is {how}.", hint=hint)


def consume(connection: Connection, principal: Principal, approval_id: UUID) -> Change[Approval]:
    """Use an approval, once: of several who try, one commits and the others get Conflict.

    Join it with the change that the approval allows, so that neither happens without the other.

    Raises NotFound, NotApproved for one that is not approved, Conflict for one that was used.
    """
    approval = get_approval(connection, approval_id)
    if approval.state is not State.APPROVED:
        raise NotApproved("not_approved", f"Approval {approval.id} is {approval.state}.")
    used = Conflict("approval_used", f"Approval {approval.id} was used already.", hint="Ask for a new one.")
    if approval.consumed_at is not None:
        raise used
    consumed = replace(
        approval,
        version=approval.version + 1,
        consumed_by=principal.actor,
        consumed_at=database_time(connection),
    )
    statement = Statement(
        "UPDATE approvals SET version = %(version)s, consumed_by = %(by)s, consumed_at = %(at)s"
        " WHERE id = %(id)s AND version = %(version)s - 1 AND state = 'approved' AND consumed_at IS NULL",
        {
            "id": consumed.id,
            "version": consumed.version,
            "by": consumed.consumed_by,
            "at": consumed.consumed_at,
        },
        rows=1,
        refusal=used,
    )
    return Change(step("approval.consumed", principal, consumed), (statement,), lambda _: consumed)
