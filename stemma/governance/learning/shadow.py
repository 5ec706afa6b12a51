"""Shadows: what a candidate would have decided beside the live policy, without effect.

The flag `shadow` of a node names the candidate. Its verdicts are made of the stored contexts after the decisions, so
that it can neither slow nor change them, and are what it would have said at that moment: a verdict depends on nothing
but policy, event and context.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from stemma.errors import NotFound
from stemma.governance import policies
from stemma.governance.decisions import flags
from stemma.governance.decisions.judging import judge
from stemma.governance.evaluation import Reason
from stemma.governance.learning.comparing import Comparison, compare
from stemma.governance.learning.logged import Said, read
from stemma.governance.policy import BASELINE, Level, Ruling
from stemma.store.database import Connection

AT_ONCE: Final = 2_000
_LACKING: Final = """
    SELECT d.id FROM decisions AS d
    WHERE d.node = %(node)s AND d.decided_at >= %(since)s AND NOT EXISTS (
        SELECT FROM shadow_decisions AS s
        WHERE s.decision_id = d.id AND s.policy = %(policy)s AND s.variant = 'baseline')
    ORDER BY d.position LIMIT %(limit)s
"""
_CONTEXTS: Final = """
    SELECT d.id, c.content FROM decisions AS d JOIN decision_contexts AS c ON c.sha256 = d.context_sha256
    WHERE d.id = ANY(%s)
"""
_INSERT: Final = """
    INSERT INTO shadow_decisions (decision_id, policy, policy_sha256, variant, verdict, level, reasons, verdict_sha256)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""
_SHADOWS: Final = """
    SELECT decision_id, verdict, level, reasons FROM shadow_decisions WHERE policy = %s AND variant = 'baseline'
        AND decision_id = ANY(%s)
"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What runs in the shadow at a node, since when; `policy` is `name@version`."""

    node: str
    policy: str
    since: datetime


def candidates(connection: Connection) -> tuple[Candidate, ...]:
    """The candidates that the flags name, by node."""
    return tuple(
        Candidate(flag.node, policies.find(connection, flag.value).reference, flag.set_at)
        for flag in flags.list_flags(connection)
        if flag.flag == flags.SHADOW
    )


def candidate_of(connection: Connection, node: str) -> Candidate:
    """The candidate at a node; raises NotFound where there is none."""
    found = next((one for one in candidates(connection) if one.node == node), None)
    if found is None:
        hint = "Set the flag `shadow` of the node to a policy, such as finance.discounts@2.0.0-rc.1."
        raise NotFound("shadow_unset", f"Nothing runs in the shadow at {node[:63]!r}.", field="node", hint=hint)
    return found


def fill(connection: Connection) -> int:
    """Write what each candidate says of the decisions since its flag was set that it has not seen, at most `AT_ONCE`
    of each, in the caller's transaction; returns how many.
    """
    return sum(_fill(connection, candidate) for candidate in candidates(connection))


def compared(connection: Connection, node: str, *, policy: str | None = None, last: int = 1_000) -> Comparison:
    """The last decisions of a node beside what the shadow said: the present candidate, or an earlier `policy`.

    Raises NotFound where nothing runs in the shadow and no policy is named, InvalidInput for what is no reference.
    """
    name = policies.find(connection, policy).reference if policy else candidate_of(connection, node).policy
    cases = {case.id: case for case in read(connection, last=last, node=node)}
    rows = connection.cursor(row_factory=dict_row).execute(_SHADOWS, (name, list(cases))).fetchall()
    told = {row["decision_id"]: _said(row) for row in rows}
    return compare((case, told[case.id]) for case in cases.values() if case.id in told)


def _fill(connection: Connection, candidate: Candidate) -> int:
    policy = policies.load(connection, candidate.policy)
    wanted = {"node": candidate.node, "since": candidate.since, "policy": candidate.policy, "limit": AT_ONCE}
    lacking = [row[0] for row in connection.execute(_LACKING, wanted)]
    made = []
    for decision_id, content in connection.execute(_CONTEXTS, (lacking,)):
        rests_on = json.loads(bytes(content))
        verdict = judge(policy, rests_on["event"], rests_on["context"], BASELINE)
        reasons = Jsonb([{"rule": reason.rule, "text": reason.text} for reason in verdict.reasons])
        hashes = bytes.fromhex(verdict.policy_sha256), bytes.fromhex(verdict.sha256)
        made.append(
            (decision_id, verdict.policy, hashes[0], BASELINE, verdict.verdict.value, verdict.level.value, reasons,
             hashes[1])
        )  # fmt: skip
    connection.cursor().executemany(_INSERT, made)
    return len(made)


def _said(row: dict[str, Any]) -> Said:
    reasons = tuple(Reason(reason["rule"], reason["text"]) for reason in row["reasons"])
    return Said(Ruling(row["verdict"]), Level(row["level"]), reasons)
