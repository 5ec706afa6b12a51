"""Recording outcomes: what was observed, what it means by the node's reward, and what it adds to the statistics.

An outcome counts for a variant where its decision took effect as drawn: it was final, and approved. What a person
decided says nothing of what the policy would have done, and of what was refused nothing can be observed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from psycopg.rows import class_row

from stemma.access.principal import Principal
from stemma.errors import Conflict, InvalidInput, NotFound
from stemma.governance import nodes
from stemma.governance.outcomes.catalog import find_outcomes
from stemma.governance.outcomes.model import Metric, NewOutcome, Outcome
from stemma.ledger.change import Change
from stemma.ledger.entries import NewEntry, canonical, format_time
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.rules.conditions import checked, language
from stemma.store.database import Connection

MAX_OUTCOMES: Final = 1_000
"""Outcomes that are recorded together."""
CHAIN: Final = "decisions"
RECORDED: Final = "outcome.recorded"

_AHEAD: Final = timedelta(days=1)
_DECISIONS: Final = """
    SELECT id, node, node_version, policy || '@' || policy_version AS policy, variant, state, effect
    FROM decisions WHERE id = ANY(%s::uuid[])
"""
# A first revision meets no row, a later one the row that it was made from; else this affects fewer rows.
_WRITE: Final = """
    INSERT INTO outcomes (decision_id, metrics, success, counted, observed_at, revision, updated_at, updated_by)
    SELECT decision_id, metrics, success, counted, observed_at, revision, %(updated_at)s, %(updated_by)s
    FROM json_to_recordset(%(rows)s::json) AS given (
        decision_id uuid, metrics jsonb, success boolean, counted boolean, observed_at timestamptz, revision integer)
    ORDER BY decision_id
    ON CONFLICT (decision_id) DO UPDATE SET
        metrics = EXCLUDED.metrics, success = EXCLUDED.success, observed_at = EXCLUDED.observed_at,
        revision = EXCLUDED.revision, updated_at = EXCLUDED.updated_at, updated_by = EXCLUDED.updated_by
    WHERE outcomes.revision = EXCLUDED.revision - 1 AND outcomes.counted = EXCLUDED.counted
"""
_BEGIN: Final = """
    INSERT INTO policy_variants_stats (node, policy, variant, updated_at)
    SELECT node, policy, variant, %(updated_at)s
    FROM json_to_recordset(%(rows)s::json) AS given (node text, policy text, variant text)
    ORDER BY node, policy, variant
    ON CONFLICT DO NOTHING
"""
_ADD: Final = """
    UPDATE policy_variants_stats AS stats SET
        successes = stats.successes + given.successes, failures = stats.failures + given.failures,
        updated_at = %(updated_at)s
    FROM json_to_recordset(%(rows)s::json) AS given (
        node text, policy text, variant text, successes bigint, failures bigint)
    WHERE (stats.node, stats.policy, stats.variant) = (given.node, given.policy, given.variant)
"""


@dataclass(frozen=True, slots=True)
class _Decision:
    id: UUID
    node: str
    node_version: str
    policy: str
    variant: str
    state: str
    effect: str | None

    @property
    def counts(self) -> bool:
        """Whether it took effect as drawn; that never changes."""
        return self.state == "final" and self.effect == "approve"


def record(connection: Connection, principal: Principal, outcomes: Sequence[NewOutcome]) -> Change[tuple[Outcome, ...]]:
    """Record 1 to `MAX_OUTCOMES` outcomes, with an entry of the chain `decisions` for each that says something new.

    Raises Forbidden; InvalidInput that names the place of the first that is wrong, such as
    `/outcomes/2/metrics/profit`; NotFound for an unknown decision; Conflict where a decision has not taken effect yet,
    and, when it is written, where another outcome of it came at the same time.
    """
    principal.require("decide:write")
    if not 0 < len(outcomes) <= MAX_OUTCOMES:
        what = f"{len(outcomes):,} outcomes were given; 1 to {MAX_OUTCOMES:,} are recorded together."
        raise InvalidInput("outcomes_invalid", what, field="outcomes", hint="Send them in parts.")
    now = datetime.now(UTC)
    decisions = _decisions(connection, outcomes)
    before = find_outcomes(connection, decisions)
    after: dict[UUID, Outcome] = {}
    for place, given in enumerate(outcomes):
        field = f"/outcomes/{place}"
        if given.decision_id in after:
            what = f"The decision {given.decision_id} is named twice."
            raise InvalidInput("outcomes_invalid", what, field=f"{field}/decision_id")
        decision = _settled(decisions.get(given.decision_id), given, field)
        node = nodes.load(connection, f"{decision.node}@{decision.node_version}")
        there = before.get(decision.id)
        after[decision.id] = _told(principal, decision, node.reward, given, there, now, field)
    result = tuple(after.values())
    new = [outcome for outcome in result if outcome != before.get(outcome.decision_id)]
    if not new:
        entries = audited(principal, "outcomes.repeated", resource="outcomes", meta={"count": len(result)})
        return Change(entries, (), lambda _: result)
    entries = tuple(_entry(principal, decisions[outcome.decision_id], outcome) for outcome in new)
    added = _added(decisions, before, new)
    return Change(entries, (_write(principal, now, new), *_count(now, added)), lambda _: result)


def _decisions(connection: Connection, outcomes: Sequence[NewOutcome]) -> dict[UUID, _Decision]:
    ids = "{" + ",".join(outcome.decision_id.hex for outcome in outcomes) + "}"
    rows = connection.cursor(row_factory=class_row(_Decision)).execute(_DECISIONS, (ids,))
    return {decision.id: decision for decision in rows}


def _settled(decision: _Decision | None, given: NewOutcome, field: str) -> _Decision:
    if decision is None:
        what = f"There is no decision {given.decision_id}."
        raise NotFound("decision_unknown", what, field=f"{field}/decision_id")
    if decision.effect is None:
        what = f"The decision {decision.id} has not taken effect: a person is to decide."
        raise Conflict("decision_open", what, field=f"{field}/decision_id", hint="Resolve it first.")
    return decision


def _told(
    principal: Principal,
    decision: _Decision,
    reward: nodes.Reward,
    given: NewOutcome,
    before: Outcome | None,
    now: datetime,
    field: str,
) -> Outcome:
    """The outcome with what is new of it; the one that is there where nothing is."""
    observed_at = _checked_time(given.observed_at or (before.observed_at if before else now), now, field)
    metrics = {**(before.metrics if before else {}), **_checked(reward, given.metrics, f"{field}/metrics")}
    if before is not None and (before.metrics, before.observed_at) == (metrics, observed_at):
        return before
    return Outcome(
        decision_id=decision.id,
        metrics=metrics,
        success=_success(reward, metrics),
        counted=decision.counts,
        observed_at=observed_at,
        revision=before.revision + 1 if before else 1,
        updated_at=now,
        updated_by=principal.actor,
    )


def _checked_time(at: datetime, now: datetime, field: str) -> datetime:
    if at.tzinfo is None or at > now + _AHEAD:
        what = "The time names no zone." if at.tzinfo is None else "The time is more than a day ahead."
        hint = "Write it as RFC 3339 says, such as 2026-01-31T12:00:00Z."
        raise InvalidInput("outcome_time_invalid", what, field=f"{field}/observed_at", hint=hint)
    return at


def _checked(reward: nodes.Reward, metrics: Mapping[str, Any], field: str) -> dict[str, Metric]:
    """The metrics as numbers, texts and truth values of the types that the node declares."""
    if not metrics:
        raise InvalidInput("metrics_invalid", "There is no metric.", field=field)
    found: dict[str, Metric] = {}
    for name, value in metrics.items():
        if name not in reward.metrics:
            hint = f"The node knows {', '.join(reward.metrics)}."
            what = f"The node has no metric {name[:60]!r}."
            raise InvalidInput("metric_unknown", what, field=f"{field}/{name[:60]}", hint=hint)
        try:
            found[name] = checked(name, reward.metrics[name], value)
        except InvalidInput as error:
            raise InvalidInput("metric_invalid", error.message, field=f"{field}/{name}") from None
    return found


def _success(reward: nodes.Reward, metrics: Mapping[str, Metric]) -> bool | None:
    """What the reward makes of the metrics: failure before success, neither as long as one is missing."""
    if metrics.keys() < reward.metrics.keys():
        return None
    spoken = language(tuple(sorted(reward.metrics.items())))
    values = spoken.bind(metrics)
    if spoken.compile(reward.failure).ask(values).holds:
        return False
    return True if spoken.compile(reward.success).ask(values).holds else None


def _entry(principal: Principal, decision: _Decision, outcome: Outcome) -> NewEntry:
    # A metric may be a text that somebody wrote; its hash is enough to show that it was not changed.
    data = {
        "node": decision.node,
        "policy": decision.policy,
        "variant": decision.variant,
        "metrics_sha256": hashlib.sha256(canonical(dict(outcome.metrics))).hexdigest(),
        "success": outcome.success,
        "counted": outcome.counted,
        "observed_at": format_time(outcome.observed_at),
        "revision": outcome.revision,
    }
    return NewEntry(CHAIN, RECORDED, principal.actor, f"decision/{decision.id}", data)


def _added(
    decisions: Mapping[UUID, _Decision], before: Mapping[UUID, Outcome], new: Sequence[Outcome]
) -> dict[tuple[str, str, str], Counter[bool]]:
    """By node, policy and variant, how many more successes (True) and failures (False) there are than before."""
    added: dict[tuple[str, str, str], Counter[bool]] = {}
    for outcome in new:
        decision, there = decisions[outcome.decision_id], before.get(outcome.decision_id)
        if not outcome.counted:
            continue
        counts = added.setdefault((decision.node, decision.policy, decision.variant), Counter())
        if outcome.success is not None:
            counts[outcome.success] += 1
        if there is not None and there.success is not None:
            counts[there.success] -= 1
    return {learner: counts for learner, counts in added.items() if any(counts.values())}


def _write(principal: Principal, now: datetime, new: Sequence[Outcome]) -> Statement:
    rows = [
        {
            "decision_id": str(outcome.decision_id),
            "metrics": outcome.metrics,
            "success": outcome.success,
            "counted": outcome.counted,
            "observed_at": outcome.observed_at.isoformat(),
            "revision": outcome.revision,
        }
        for outcome in new
    ]
    parameters = {"rows": json.dumps(rows), "updated_at": now, "updated_by": principal.actor}
    what = "Another outcome of one of these decisions came at the same time."
    refusal = Conflict("outcomes_raced", what, field="outcomes", hint="Look at it, and send yours again.")
    return Statement(_WRITE, parameters, rows=len(new), refusal=refusal)


def _count(now: datetime, added: Mapping[tuple[str, str, str], Counter[bool]]) -> tuple[Statement, ...]:
    if not added:
        return ()
    rows = [
        {"node": node, "policy": policy, "variant": variant, "successes": counts[True], "failures": counts[False]}
        for (node, policy, variant), counts in sorted(added.items())
    ]
    parameters = {"rows": json.dumps(rows), "updated_at": now}
    return Statement(_BEGIN, parameters), Statement(_ADD, parameters, rows=len(rows))
