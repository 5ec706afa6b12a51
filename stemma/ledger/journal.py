"""Entries of the two chains that every capability writes to: what changed (`historian`) and who did it (`audit`).

How an entry is kept and read is the ledger's business; here is only what these two kinds of entries say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID, uuid5

from stemma.access.principal import Principal
from stemma.ledger.entries import NewEntry
from stemma.redaction import redact

HISTORIAN: Final = "historian"
AUDIT: Final = "audit"

_RUNS: Final = UUID("3f1d2a60-0a8b-4d0e-8f1c-5d6f7a9e2b44")
_REASON: Final = 1000


def transition(kind: str, *, subject: str, actor: str, data: Mapping[str, Any]) -> NewEntry:
    """A state transition of the studio, such as `index.activated`, for the Historian."""
    return NewEntry(HISTORIAN, kind, actor, subject, data)


def run_failed(
    run_id: str, *, job: str, assets: Sequence[str], partition: str | None, step: str | None, reason: str
) -> NewEntry:
    """A run that failed; one entry for each, however often it is told. The reason is redacted and cut."""
    told = redact(reason.encode(errors="replace").decode()).text[:_REASON]
    data = {"job": job, "assets": list(assets), "partition": partition, "step": step, "reason": told}
    entry = transition("run.failed", subject=f"run/{run_id}", actor="dagster", data=data)
    return replace(entry, id=uuid5(_RUNS, run_id))


def audited(
    principal: Principal, action: str, *, resource: str, meta: Mapping[str, Any], critical: bool = False
) -> tuple[NewEntry, ...]:
    """The audit row of an action, such as `key.created`; a critical one is mirrored to the Historian."""
    row = NewEntry(AUDIT, action, principal.actor, resource, {"action": action, "resource": resource, "meta": meta})
    if not critical:
        return (row,)
    return row, transition(action, subject=resource, actor=principal.actor, data=meta)
