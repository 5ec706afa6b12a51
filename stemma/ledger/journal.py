"""Entries of the two chains that every capability writes to: what changed (`historian`) and who did it (`audit`).

How an entry is kept and read is the ledger's business; here is only what these two kinds of entries say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from stemma.access.principal import Principal
from stemma.ledger.entries import NewEntry

HISTORIAN: Final = "historian"
AUDIT: Final = "audit"


def transition(kind: str, *, subject: str, actor: str, data: Mapping[str, Any]) -> NewEntry:
    """A state transition of the studio, such as `index.activated`, for the Historian."""
    return NewEntry(HISTORIAN, kind, actor, subject, data)


def audited(
    principal: Principal, action: str, *, resource: str, meta: Mapping[str, Any], critical: bool = False
) -> tuple[NewEntry, ...]:
    """The audit row of an action, such as `key.created`; a critical one is mirrored to the Historian."""
    row = NewEntry(AUDIT, action, principal.actor, resource, {"action": action, "resource": resource, "meta": meta})
    if not critical:
        return (row,)
    return row, transition(action, subject=resource, actor=principal.actor, data=meta)
