"""The deadline: an approval that nobody decided in time counts as denied from that moment, whoever looks first.

Reads say so by themselves; here the row and the ledger are brought after, once.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Final

from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.approvals.catalog import get_approval
from stemma.approvals.model import Approval
from stemma.approvals.settling import settle
from stemma.approvals.steps import notified, step
from stemma.errors import Conflict, Unavailable
from stemma.ledger.change import Change
from stemma.ledger.service import Ledger
from stemma.store.database import Connection, Database

logger = logging.getLogger(__name__)

AT_ONCE: Final = 100
_STUDIO: Final = Principal("studio", Role.VIEWER, frozenset())


def expire_due(connection: Connection) -> tuple[Change[Approval], ...]:
    """One change for each pending approval past its deadline, those that waited longest first, at most `AT_ONCE`.

    Each commits once; where another process was first, it raises PreconditionFailed.
    """
    due = connection.execute(
        "SELECT id FROM approvals WHERE state = 'pending' AND expires_at <= statement_timestamp()"
        " ORDER BY expires_at LIMIT %s",
        (AT_ONCE,),
    ).fetchall()
    return tuple(_expire(get_approval(connection, approval_id)) for (approval_id,) in due)


def settle_due(database: Database, ledger: Ledger) -> int:
    """Write what expired, as the studio; returns how many this call wrote.

    Another process may write the same, and the ledger may be busy: what is not written now is written by the next look.
    """
    due = database.read(expire_due)
    written = 0
    try:
        futures = [ledger.commit(change) for change in due]
        for future in futures:
            with contextlib.suppress(Conflict):
                future.result()
                written += 1
    except Unavailable as error:
        logger.warning("expired approvals are settled later: %s", error)
    return written


def _expire(approval: Approval) -> Change[Approval]:
    entries = step("approval.expired", _STUDIO, approval)
    return Change(entries, (settle(approval), notified("approval.expired", approval)), lambda _: approval)
