"""What a tool does only after a person has approved exactly that: who asks again then gets it done, once.

An approval is of bytes that say which agent, which tool, with which arguments, and for whom. So one for a caller or an
argument is none for another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import rfc8785

from stemma.agents.tools.model import Found, Use
from stemma.approvals import catalog, grants
from stemma.approvals.model import ApprovalSummary, State
from stemma.approvals.requests import MAX_SUBJECT, Proposal, request
from stemma.errors import Conflict, NotApproved
from stemma.ledger.change import Change
from stemma.store.database import Connection, database_time

T = TypeVar("T")

KIND: Final = "agent:tool"
MOST_WAITING: Final = 5
"""Requests of one caller that wait at once: whoever has an agent ask for anything must not flood those who decide."""
DENIED_FOR: Final = timedelta(days=1)
"""How long after a denial the same is not asked again."""
_LOOKED_THROUGH: Final = 50


@dataclass(frozen=True, slots=True)
class Wanted:
    """A use of a tool that needs an approval; `what` says in a few words what it is done with."""

    use: Use
    tool: str
    arguments: Mapping[str, Any]
    what: str

    @property
    def subject(self) -> str:
        """How the approval names it."""
        said = f"{self.use.context.agent.name}: {self.tool} {self.what}"[:MAX_SUBJECT]
        return "".join(character if character.isprintable() else "\ufffd" for character in said)

    @property
    def content(self) -> bytes:
        """The exact bytes that are approved."""
        context = self.use.context
        said = {"agent": context.agent.name, "caller": context.principal.actor, "tool": self.tool}
        return rfc8785.dumps({**said, "arguments": dict(self.arguments)})


def once_approved(wanted: Wanted, change: Change[T]) -> T | Found:
    """The result of the change where it was approved; else what tells a model that a person has to decide.

    Raises NotApproved where it was denied lately, Conflict where too many wait or the approval was used meanwhile, and
    what the commit raises.
    """
    studio = wanted.use.studio
    prepared = studio.database.read(lambda connection: _prepared(connection, wanted, change))
    if isinstance(prepared, ApprovalSummary):
        return _waiting(prepared)
    done = studio.ledger.commit(prepared).result()
    return _waiting(done) if isinstance(done, ApprovalSummary) else done


def _prepared(connection: Connection, wanted: Wanted, change: Change[T]) -> Change[Any] | ApprovalSummary:
    """What is to be committed: the change with the use of its approval, or a request for one; or the one that waits."""
    principal, sha256 = wanted.use.context.principal, hashlib.sha256(wanted.content).hexdigest()
    try:
        found = grants.require_approved(connection, kind=KIND, subject=wanted.subject, content_sha256=sha256)
    except NotApproved:
        return _asked(connection, wanted, sha256)
    return change.joined(grants.consume(connection, principal, found.id))


def _asked(connection: Connection, wanted: Wanted, sha256: str) -> Change[Any] | ApprovalSummary:
    principal = wanted.use.context.principal
    mine = catalog.list_approvals(connection, kind=KIND, requested_by=principal.actor, limit=_LOOKED_THROUGH).data
    waiting = [approval for approval in mine if approval.state is State.PENDING]
    now = database_time(connection)
    for approval in mine:
        if approval.content_sha256 == sha256 and approval.state is State.PENDING:
            return approval
        lately = approval.settled_at is not None and now - approval.settled_at < DENIED_FOR
        if approval.content_sha256 == sha256 and approval.state is State.DENIED and lately:
            raise NotApproved("tool_use_denied", f"A person denied exactly this: approval {approval.id}.")
    if len(waiting) >= MOST_WAITING:
        what = f"{len(waiting)} requests of this caller's agents wait for a decision already."
        raise Conflict("too_many_waiting", what, hint="Have some of them decided first.")
    reason = f"The agent {wanted.use.context.agent.name} asks for it in a call of {principal.actor}."
    shown = wanted.content.decode()
    proposal = Proposal(KIND, wanted.subject, wanted.content, reason, media_type="application/json", diff=shown)
    return request(connection, principal, proposal)


def _waiting(approval: ApprovalSummary) -> Found:
    told = "A person has to approve this first. Use the tool again, with the same arguments, once it is approved."
    found = {"done": False, "approval": str(approval.id), "state": approval.state.value, "note": told}
    return Found(found, facts={"approval": str(approval.id), "waiting": True})
