"""Simulating a policy, published or not, on past events: what it says, and how that differs from what was decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from psycopg.rows import dict_row

from stemma.errors import InvalidInput
from stemma.governance.decisions.judging import judge
from stemma.governance.evaluation import Applicable
from stemma.governance.learning.comparing import Comparison, compare
from stemma.governance.learning.logged import Logged, Said, read
from stemma.governance.policy import BASELINE, Level, Ruling
from stemma.ledger.entries import format_time
from stemma.store.database import Connection

# What is known of an event that nobody decided.
_NOTHING: Final[dict[str, Any]] = {"confidence": 0.0, "similar": [], "features": {}, "snapshot": None}
_UNDECIDED: Final = """
    SELECT e.id, e.type, e.entity, e.occurred_at, e.correlation_id, e.data FROM events AS e
    WHERE e.type = ANY(%(types)s) AND NOT EXISTS (
        SELECT FROM decisions AS d WHERE d.event_id = e.id AND d.node = %(node)s)
    ORDER BY e.position DESC LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a policy says of past events. `decided` of them are in the context of their decision, and are compared with
    it; the others were never decided at this node, so that nothing is known but the event.

    `rules` says how often each rule answers, `unused` which never do.
    """

    policy: str
    variant: str
    events: int
    decided: int
    verdicts: Mapping[str, int]
    levels: Mapping[str, int]
    rules: Mapping[str, int]
    unused: tuple[str, ...]
    comparison: Comparison


def simulate(connection: Connection, policy: Applicable, *, last: int, variant: str = BASELINE) -> Simulation:
    """What the policy says of the last events of its types, first of all of those that its node decided.

    Raises InvalidInput for a variant that it does not have.
    """
    if variant not in policy.parameters:
        raise InvalidInput("variant_unknown", f"{policy.reference} has no variant {variant[:63]!r}.", field="variant")
    tally = _Tally()
    node, types = policy.policy.node, policy.policy.events

    def decided() -> Iterator[tuple[Logged, Said]]:
        for case in read(connection, last=last, node=node, types=types):
            yield case, tally.add(policy, case.event, case.context, variant)

    comparison = compare(decided())
    wanted = {"types": types, "node": node, "limit": last - comparison.compared}
    for row in connection.cursor(row_factory=dict_row).execute(_UNDECIDED, wanted):
        seen = {**row, "id": str(row["id"]), "occurred_at": format_time(row["occurred_at"])}
        tally.add(policy, seen, _NOTHING, variant)
    all_rules = [rule.id for bundle in policy.bundles for rule in bundle]
    return Simulation(
        policy=policy.reference,
        variant=variant,
        events=tally.events,
        decided=comparison.compared,
        verdicts={ruling.value: tally.verdicts[ruling] for ruling in Ruling},
        levels={level.value: tally.levels[level] for level in Level},
        rules=dict(tally.rules.most_common()),
        unused=tuple(rule for rule in all_rules if rule not in tally.rules),
        comparison=comparison,
    )


class _Tally:
    def __init__(self) -> None:
        self.events = 0
        self.verdicts: Counter[Ruling] = Counter()
        self.levels: Counter[Level] = Counter()
        self.rules: Counter[str] = Counter()

    def add(self, policy: Applicable, event: Mapping[str, Any], context: Mapping[str, Any], variant: str) -> Said:
        verdict = judge(policy, event, context, variant)
        self.events += 1
        self.verdicts[verdict.verdict] += 1
        self.levels[verdict.level] += 1
        self.rules.update(reason.rule for reason in verdict.reasons)
        return Said(verdict.verdict, verdict.level, verdict.reasons)
