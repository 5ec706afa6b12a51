"""What a decision is as it is kept and read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal
from uuid import UUID

from stemma.governance.evaluation import Reason
from stemma.governance.policy import Level, Ruling

CHAIN: Final = "decisions"

Silence = Literal["deny", "escalate"]


class State(StrEnum):
    """How a decision stands: `final` took effect alone, `waiting` is before a person, `resolved` was decided by one,
    `lapsed` by its deadline.
    """

    FINAL = "final"
    WAITING = "waiting"
    RESOLVED = "resolved"
    LAPSED = "lapsed"


@dataclass(frozen=True, slots=True)
class SimilarCase:
    """An earlier decision about a similar event; `distance` is the cosine distance, from 0 to 2.

    `success` is what its outcome said when this was looked up; None where nothing was known.
    """

    decision_id: UUID
    distance: float
    verdict: Ruling
    effect: Ruling | None
    success: bool | None


@dataclass(frozen=True, slots=True)
class DecisionSummary:
    """A decision as listed. `verdict` is what the policy says; `effect`, approve or deny, is what holds, None while
    nothing does. Of one that waits, or waited, `due_at` is the deadline, and `on_silence` what follows it: a denial, or
    that it is asked again. `latency_ms` is how long the verdict took, without its commit.
    """

    id: UUID
    node: str
    node_version: str
    event_id: UUID
    event_type: str
    entity: str | None
    correlation_id: str | None
    policy: str
    policy_version: str
    variant: str
    verdict: Ruling
    level: Level
    reasons: tuple[Reason, ...]
    state: State
    effect: Ruling | None
    approval_id: UUID | None
    due_at: datetime | None
    on_silence: Silence | None
    settled_by: str | None
    settled_reason: str | None
    settled_at: datetime | None
    occurred_at: datetime
    decided_at: datetime
    decided_by: str
    latency_ms: float
    seq: int
    entry_hash: str

    @property
    def policy_reference(self) -> str:
        """`name@version`."""
        return f"{self.policy}@{self.policy_version}"


@dataclass(frozen=True, slots=True)
class Decision(DecisionSummary):
    """A decision with what it rests on: the event, the context, and the draw of the variant, where one was drawn."""

    policy_sha256: str
    verdict_sha256: str
    context_sha256: str
    draw: Mapping[str, Any] | None
    event: Mapping[str, Any]
    context: Mapping[str, Any]

    @property
    def similar(self) -> tuple[SimilarCase, ...]:
        """The similar cases that the context holds, the nearest first."""
        return tuple(
            SimilarCase(
                UUID(case["decision_id"]),
                case["distance"],
                Ruling(case["verdict"]),
                Ruling(case["effect"]) if case["effect"] else None,
                case["success"],
            )
            for case in self.context["similar"]
        )
