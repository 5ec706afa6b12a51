"""The pure part of a decision: what a policy says to an event in a context, and what a stopped node makes of it.

It is asked when a decision is made and again when one is replayed, with what was stored of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from stemma.governance.evaluation import Applicable, Reason, Verdict, evaluate
from stemma.governance.policy import Level, Ruling
from stemma.ledger.entries import canonical

STOPPED: Final = Reason("flag/stopped", "The node is stopped, so that a person decides.")
_ALONE: Final = (Level.AL2, Level.AL3)


@dataclass(frozen=True, slots=True)
class Rested:
    """What a verdict rests on, as it is stored: the canonical JSON of `{context, event}`, and what that says."""

    content: bytes
    event: Mapping[str, Any]
    context: Mapping[str, Any]


def rested(event: Mapping[str, Any], context: Mapping[str, Any]) -> Rested:
    """The event and context as they are stored; raises InvalidInput for what has no canonical form."""
    return Rested(canonical({"context": context, "event": event}), event, context)


def judge(policy: Applicable, event: Mapping[str, Any], context: Mapping[str, Any], variant: str) -> Verdict:
    """What holds: the policy's verdict, escalated where the context says that the node is stopped.

    Raises InvalidInput for a variant that the policy does not have.
    """
    said = evaluate(policy, event, context, variant=variant)
    if context.get("stopped") is True:
        return replace(said, verdict=Ruling.ESCALATE, level=Level.AL0, reasons=(STOPPED, *said.reasons))
    return said


def takes_effect(verdict: Verdict) -> bool:
    """Whether it is carried out without anybody: approvals and denials from AL2 on."""
    return verdict.verdict is not Ruling.ESCALATE and verdict.level in _ALONE
