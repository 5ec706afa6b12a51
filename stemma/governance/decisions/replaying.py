"""Deciding again from what was stored: the same policy version, variant and context give the same verdict hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from uuid import UUID

from stemma.governance import policies
from stemma.governance.decisions.catalog import each_decision, get_decision
from stemma.governance.decisions.judging import judge, rested
from stemma.governance.decisions.model import Decision
from stemma.governance.evaluation import Applicable, Verdict
from stemma.governance.learning.drawing import Draw
from stemma.governance.policy import BASELINE
from stemma.store.database import Connection


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many decisions were made again, and which of them came out otherwise."""

    decisions: int
    differing: tuple[UUID, ...]


def again(connection: Connection, decision_id: UUID) -> Verdict:
    """The verdict that the stored context leads to now; raises NotFound.

    Its `sha256` is the decision's `verdict_sha256`, unless something that was stored was altered.
    """
    decision = get_decision(connection, decision_id)
    policy = policies.load(connection, decision.policy_reference)
    return judge(policy, decision.event, decision.context, decision.variant)


def replay_all(connection: Connection, *, node: str | None = None) -> Replayed:
    """Make every decision again, of all nodes or of one."""
    loaded: dict[str, Applicable] = {}
    count, differing = 0, []
    for decision in each_decision(connection, node=node):
        policy = loaded.get(decision.policy_reference)
        if policy is None:
            policy = loaded[decision.policy_reference] = policies.load(connection, decision.policy_reference)
        count += 1
        if _differs(decision, policy):
            differing.append(decision.id)
    return Replayed(count, tuple(differing))


def _differs(decision: Decision, policy: Applicable) -> bool:
    """Whether the verdict is another, the policy or the context is not the one whose hash was recorded, or the recorded
    seed and propensities draw another variant.
    """
    verdict = judge(policy, decision.event, decision.context, decision.variant)
    context = hashlib.sha256(rested(decision.event, decision.context).content).hexdigest()
    drawn = Draw.of_content(decision.draw).again if decision.draw else BASELINE
    recorded = (decision.verdict_sha256, decision.policy_sha256, decision.context_sha256, decision.variant)
    return (verdict.sha256, policy.sha256, context, drawn) != recorded
