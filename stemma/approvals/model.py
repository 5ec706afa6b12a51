"""What an approval is: its words, its rule of who may decide, and the ETag of what a decider saw."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from stemma.access.permissions import Role


class State(StrEnum):
    """Where an approval stands; every state but `pending` is final."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


class Risk(StrEnum):
    """How bad it is if the decision is wrong, in the requester's words."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Verdict(StrEnum):
    """What one decider says."""

    APPROVE = "approve"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Decision:
    """One decider's verdict, with the role in which they gave it."""

    decided_by: str
    role: Role
    verdict: Verdict
    reason: str
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class ApprovalSummary:
    """An approval as listed; `size` in bytes, `deciders` empty where every role with `approvals:decide` may decide.

    `settled_at` is when it left `pending`; of an expired one it is the deadline.
    """

    id: UUID
    kind: str
    subject: str
    media_type: str
    content_sha256: str
    size: int
    risk: Risk
    reason: str
    deciders: tuple[Role, ...]
    second_person: bool
    approvals_needed: int
    requested_by: str
    requested_at: datetime
    expires_at: datetime
    state: State
    version: int
    settled_at: datetime | None
    consumed_by: str | None
    consumed_at: datetime | None

    @property
    def etag(self) -> str:
        """Names these exact bytes in this state; another step makes another one. Without HTTP's quotes."""
        seen = f"{self.id} {self.content_sha256} {self.version}"
        return hashlib.sha256(seen.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Approval(ApprovalSummary):
    """An approval with the diff that its requester gave and the verdicts so far, in their order."""

    diff: str
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class Content:
    """The exact bytes that are approved."""

    media_type: str
    data: bytes
    sha256: str
