"""Asking for an approval, and taking the question back."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from stemma.access.permissions import PERMISSIONS, Role
from stemma.access.principal import Principal
from stemma.approvals.catalog import get_approval
from stemma.approvals.model import Approval, Risk, State
from stemma.approvals.settling import require_pending, require_seen, settle
from stemma.approvals.steps import notified, step
from stemma.errors import Forbidden, InvalidInput, TooLarge
from stemma.ledger.change import Change
from stemma.ledger.writer import Statement, row
from stemma.store.database import Connection, database_time

MAX_CONTENT_BYTES: Final = 1 << 20
MAX_DIFF: Final = 1 << 18
MAX_REASON: Final = 4_000
MAX_SUBJECT: Final = 300
SHORTEST: Final = timedelta(minutes=1)
LONGEST: Final = timedelta(days=90)
DEFAULT_LIFETIME: Final = timedelta(days=3)

_KIND = re.compile(r"[a-z0-9][a-z0-9_.:-]{0,62}")
_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
# RFC 6838, 4.2; of parameters only the one that text needs.
_MEDIA_TYPE = re.compile(rf"{_NAME}/{_NAME}(; ?charset=[A-Za-z0-9_-]{{1,40}})?")
_AS_THEY_ARE: Final = (
    "id", "kind", "subject", "media_type", "content_sha256", "diff", "reason", "risk", "deciders", "second_person",
    "approvals_needed", "requested_by", "requested_at", "expires_at",
)  # fmt: skip
_INSERT: Final = """
    INSERT INTO approvals (id, kind, subject, media_type, content, content_sha256, diff, reason, risk, deciders,
        second_person, approvals_needed, requested_by, requested_at, expires_at)
    SELECT id, kind, subject, media_type, decode(content, 'hex'), decode(content_sha256, 'hex'), diff, reason, risk,
        deciders, second_person, approvals_needed, requested_by, requested_at, expires_at
    FROM json_to_recordset(%(rows)s::json) AS (
        id uuid, kind text, subject text, media_type text, content text, content_sha256 text, diff text, reason text,
        risk text, deciders text[], second_person boolean, approvals_needed smallint, requested_by text,
        requested_at timestamptz, expires_at timestamptz)
"""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What somebody is asked to approve, and who may: `deciders` empty means every role with `approvals:decide`.

    With `second_person` the requester may not decide; with `approvals_needed` 2, two different principals have to
    approve. `lifetime` is how long there is to decide.
    """

    kind: str
    subject: str
    content: bytes
    reason: str
    media_type: str = "application/octet-stream"
    diff: str = ""
    risk: Risk = Risk.MEDIUM
    deciders: tuple[Role, ...] = ()
    second_person: bool = False
    approvals_needed: int = 1
    lifetime: timedelta = DEFAULT_LIFETIME


def request(
    connection: Connection, principal: Principal, proposal: Proposal, *, now: datetime | None = None
) -> Change[Approval]:
    """Ask for an approval of exactly these bytes; `now` is the database's time, where the caller has just asked for it.

    Raises InvalidInput that names the field, TooLarge over `MAX_CONTENT_BYTES`. Whether the principal may do what it
    asks for is its caller's business.
    """
    _check(proposal)
    now = now or database_time(connection)
    approval = Approval(
        id=uuid4(),
        kind=proposal.kind,
        subject=proposal.subject,
        media_type=proposal.media_type,
        content_sha256=hashlib.sha256(proposal.content).hexdigest(),
        size=len(proposal.content),
        risk=proposal.risk,
        reason=proposal.reason,
        deciders=proposal.deciders,
        second_person=proposal.second_person,
        approvals_needed=proposal.approvals_needed,
        requested_by=principal.actor,
        requested_at=now,
        expires_at=now + proposal.lifetime,
        state=State.PENDING,
        version=1,
        settled_at=None,
        consumed_by=None,
        consumed_at=None,
        diff=proposal.diff,
        decisions=(),
    )
    entries = step("approval.requested", principal, approval, reason=approval.reason)
    companions = (_insert(approval, proposal.content), notified("approval.requested", approval))
    return Change(entries, companions, lambda _: approval)


def withdraw(
    connection: Connection, principal: Principal, approval_id: UUID, *, seen: frozenset[str]
) -> Change[Approval]:
    """Take a pending approval back; `seen` are ETags of which one has to be its present one.

    Raises NotFound; Forbidden unless the principal asked for it or may withdraw anybody's; Conflict when it is settled;
    PreconditionFailed when it is not as seen.
    """
    approval = get_approval(connection, approval_id)
    require_may_withdraw(principal, approval)
    require_seen(approval, seen)
    withdrawn = replace(
        approval, state=State.WITHDRAWN, version=approval.version + 1, settled_at=database_time(connection)
    )
    return Change(step("approval.withdrawn", principal, withdrawn), (settle(withdrawn),), lambda _: withdrawn)


def require_may_withdraw(principal: Principal, approval: Approval) -> None:
    """Raises Forbidden unless the principal asked for it or may withdraw anybody's, Conflict when it is settled."""
    if principal.actor != approval.requested_by and not principal.may("approvals:withdraw-any"):
        hint = "Ask an admin to withdraw it, or somebody who may decide to deny it."
        raise Forbidden("approval_of_another", "Only who asked for an approval may withdraw it.", hint=hint)
    require_pending(approval)


def _check(proposal: Proposal) -> None:
    if not _KIND.fullmatch(proposal.kind):
        hint = "Write up to 63 lower-case letters, digits, `_`, `.`, `:` and `-`."
        raise InvalidInput("kind_invalid", f"{proposal.kind!r} is no kind of approval.", field="kind", hint=hint)
    if not 0 < len(proposal.subject) <= MAX_SUBJECT or not proposal.subject.isprintable():
        what = f"A subject has 1 to {MAX_SUBJECT} printable characters."
        raise InvalidInput("subject_invalid", what, field="subject")
    if not _MEDIA_TYPE.fullmatch(proposal.media_type):
        hint = "Write it as in `text/markdown` or `text/plain; charset=utf-8`."
        raise InvalidInput("media_type_invalid", "This is no media type.", field="media_type", hint=hint)
    if len(proposal.content) > MAX_CONTENT_BYTES:
        what = f"The content has {len(proposal.content):,} bytes; at most {MAX_CONTENT_BYTES:,} can be approved."
        hint = "Have a manifest approved that names the files with their hashes."
        raise TooLarge("content_too_large", what, field="content", hint=hint)
    check_text("diff", proposal.diff, at_most=MAX_DIFF)
    check_text("reason", proposal.reason, at_most=MAX_REASON, required=True)
    if proposal.approvals_needed not in (1, 2):
        raise InvalidInput(
            "approvals_needed_invalid", "One or two approvals can be asked for.", field="approvals_needed"
        )
    if not SHORTEST <= proposal.lifetime <= LONGEST:
        what = f"There is at least {SHORTEST} and at most {LONGEST.days} days to decide."
        raise InvalidInput("lifetime_invalid", what, field="lifetime")
    powerless = [role for role in proposal.deciders if role not in PERMISSIONS["approvals:decide"]]
    if powerless:
        what = f"The role {powerless[0]} may not decide."
        hint = f"Roles that may are {', '.join(sorted(PERMISSIONS['approvals:decide']))}."
        raise InvalidInput("decider_invalid", what, field="deciders", hint=hint)


def check_text(name: str, text: str, *, at_most: int, required: bool = False) -> None:
    """Raises InvalidInput that names the field for text that is too long, blank or not storable."""
    if len(text) > at_most:
        raise InvalidInput(f"{name}_too_long", f"It has more than {at_most:,} characters.", field=name)
    if required and not text.strip():
        raise InvalidInput(f"{name}_missing", "Say why, in a sentence.", field=name)
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        what = "It holds U+0000 or half a surrogate pair, which is no text."
        raise InvalidInput("text_invalid", what, field=name, hint="Remove that character.")


def _insert(approval: Approval, content: bytes) -> Statement:
    given = {name: getattr(approval, name) for name in _AS_THEY_ARE}
    return Statement(_INSERT, row({**given, "content": content}), rows=1, as_rows=True)
