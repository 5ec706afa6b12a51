"""Deciding again from what was stored: the same policy version, variant and context give the same verdict hash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from stemma.governance import policies
from stemma.governance.decisions.catalog import get_decision, list_decisions
from stemma.governance.decisions.judging import judge
from stemma.governance.decisions.model import Decision
from stemma.governance.evaluation import Verdict
from stemma.store.database import Connection

_PAGE: Final = 200


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many decisions were made again, and which of them came out otherwise."""

    decisions: int
    differing: tuple[UUID, ...]


def again(connection: Connection, decision_id: UUID) -> Verdict:
    """The verdict that the stored context leads to now; raises NotFound.

    Its `sha256` is the decision's `verdict_sha256`, unless something that was stored was altered.
    """
    return _again(connection, get_decision(connection, decision_id))


def replay_all(connection: Connection, *, node: str | None = None) -> Replayed:
    """Make every decision again, of all nodes or of one."""
    count, differing, cursor = 0, [], None
    while True:
        page = list_decisions(connection, node=node, cursor=cursor, limit=_PAGE)
        for one in page.data:
            decision = get_decision(connection, one.id)
            count += 1
            if _again(connection, decision).sha256 != decision.verdict_sha256:
                differing.append(one.id)
        cursor = page.next_cursor
        if cursor is None:
            return Replayed(count, tuple(differing))


def _again(connection: Connection, decision: Decision) -> Verdict:
    policy = policies.load(connection, decision.policy_reference)
    return judge(policy, decision.event, decision.context, decision.variant)
