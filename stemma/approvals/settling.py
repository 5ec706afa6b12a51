"""What every step away from `pending` has in common: what has to hold before it, and the row's guarded update."""

from __future__ import annotations

from stemma.approvals.model import Approval, State
from stemma.errors import Conflict, PreconditionFailed
from stemma.ledger.entries import format_time
from stemma.ledger.writer import Statement

_ADVICE = "Look at it again, and repeat with its present ETag what still holds."


def require_pending(approval: Approval) -> None:
    """Raises Conflict for an approval that is settled already, by whomever."""
    if approval.state is State.EXPIRED:
        what = f"The time to decide ended at {format_time(approval.expires_at)}; it counts as denied."
        raise Conflict("approval_expired", what, field="id", hint="Ask for a new approval.")
    if approval.state is not State.PENDING:
        raise Conflict("approval_settled", f"This approval is {approval.state} already.", field="id")


def require_seen(approval: Approval, seen: frozenset[str]) -> None:
    """Raises PreconditionFailed unless one of the ETags is the approval's present one."""
    if approval.etag not in seen:
        what = "The approval is not as it was when this ETag was given."
        raise PreconditionFailed("approval_changed", what, field="etag", hint=_ADVICE)


def settle(after: Approval) -> Statement:
    """Bring the row from the version before to `after`, which may still be pending.

    The transaction that commits it decides by the database's clock: past its deadline an approval can only expire, and
    before it, it cannot. Of several that start from the same version one gets through, the others are refused.
    """
    meanwhile = "The approval was decided, withdrawn or expired meanwhile."
    return Statement(
        "UPDATE approvals SET state = %(state)s, version = %(version)s, settled_at = %(settled_at)s"
        " WHERE id = %(id)s AND version = %(version)s - 1 AND state = 'pending'"
        " AND (expires_at <= clock_timestamp()) = (%(state)s = 'expired')",
        {"id": after.id, "state": after.state.value, "version": after.version, "settled_at": after.settled_at},
        rows=1,
        refusal=PreconditionFailed("approval_changed", meanwhile, field="etag", hint=_ADVICE),
    )
