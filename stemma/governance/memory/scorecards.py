"""How the variants of each policy stand at the end of each day, by all that was observed until then.

Counts are cumulative, so that a late outcome changes the scorecards of its day and of those after it. What the counts
mean is said by `stemma.governance.learning`; whoever approves a promotion does so there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any, Final

import rfc8785
from psycopg.types.json import Jsonb

from stemma.governance.learning.assessment import assess
from stemma.governance.learning.stats import VariantStats
from stemma.governance.memory.days import Made, Product, Report, bring_up
from stemma.governance.memory.features import by_node
from stemma.governance.memory.inputs import Key, Span, day_hashes, hashed, published_nodes
from stemma.governance.memory.versions import SCORECARDS
from stemma.governance.nodes import Learning, Node
from stemma.governance.policy import BASELINE
from stemma.store.database import Connection, Database

# Draws count on the day of their event, outcomes on the day on which they were observed.
_TALLIES: Final = """
    SELECT node, day, policy, variant, sum(draws)::bigint, sum(successes)::bigint, sum(failures)::bigint FROM (
        SELECT node, (occurred_at AT TIME ZONE 'UTC')::date AS day, policy || '@' || policy_version AS policy, variant,
            count(*) AS draws, 0 AS successes, 0 AS failures
        FROM decisions WHERE occurred_at < %(until)s GROUP BY 1, 2, 3, 4
        UNION ALL
        SELECT d.node, (o.observed_at AT TIME ZONE 'UTC')::date, d.policy || '@' || d.policy_version, d.variant,
            0, count(*) FILTER (WHERE o.success), count(*) FILTER (WHERE NOT o.success)
        FROM outcomes AS o JOIN decisions AS d ON d.id = o.decision_id
        WHERE o.counted AND o.observed_at < %(until)s GROUP BY 1, 2, 3, 4
    ) AS counted GROUP BY 1, 2, 3, 4 ORDER BY 2
"""

Tallies = dict[str, dict[str, tuple[int, int, int]]]
"""By policy (`name@version`) and variant: draws, successes, failures."""


def tallies(connection: Connection, known: Sequence[Node], span: Span) -> dict[Key, Tallies]:
    """What was drawn and observed by the end of each day on which anything happened."""
    active = day_hashes(connection, known, span)
    by_day: dict[date, list[Any]] = defaultdict(list)
    for node, day, *counted in connection.execute(_TALLIES, span.parameters).fetchall():
        by_day[day].append((node, *counted))
    wanted: dict[date, list[str]] = defaultdict(list)
    for node, day in active:
        wanted[day].append(node)
    so_far: dict[str, Tallies] = defaultdict(lambda: defaultdict(dict))
    found: dict[Key, Tallies] = {}
    for day in sorted({*by_day, *wanted}):
        for node, policy, variant, *counts in by_day[day]:
            before = so_far[node][policy].get(variant, (0, 0, 0))
            draws, successes, failures = (a + b for a, b in zip(before, counts, strict=True))
            so_far[node][policy][variant] = draws, successes, failures
        for node in wanted[day]:
            found[node, day] = {policy: dict(variants) for policy, variants in sorted(so_far[node].items())}
    return found


def inputs(known: Sequence[Node], counted: Mapping[Key, Tallies]) -> dict[Key, bytes]:
    """What the scorecard of each day is made of: the counts, and the guardrails by which they are assessed."""
    rules = {node.name: rfc8785.dumps(_guardrails(node).model_dump(mode="json")) for node in known}
    return {
        (name, day): hashed(
            [
                SCORECARDS.encode(),
                rules[name],
                rfc8785.dumps({policy: {v: list(n) for v, n in by.items()} for policy, by in found.items()}),
            ]
        )
        for (name, day), found in counted.items()
    }


def sync_scorecards(database: Database, span: Span) -> Report:
    """Bring the scorecards of a span of days up to what was drawn and observed."""
    with database.transaction() as connection:
        known = published_nodes(connection)
        by_name = {node.name: node for node in known}
        counted = tallies(connection, known, span)

        def make(connection: Connection, anew: Collection[Key]) -> Mapping[Key, Made]:
            for name, days in by_node(anew).items():
                connection.execute("DELETE FROM scorecards WHERE node = %s AND day = ANY (%s)", (name, days))
            contents = {key: _content(by_name[key[0]], counted[key]) for key in anew if key in counted}
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO scorecards (node, day, content) VALUES (%s, %s, %s)",
                    [(*key, Jsonb(content)) for key, content in contents.items()],
                )
            return {key: Made(hashed([rfc8785.dumps(content)]), 1) for key, content in contents.items()}

        return bring_up(connection, Product.SCORECARDS, span, inputs(known, counted), make)


def _content(node: Node, counted: Tallies) -> dict[str, Any]:
    return {
        "policies": {
            policy: assess(
                [
                    VariantStats(variant, *variants.get(variant, (0, 0, 0)))
                    for variant in (BASELINE, *sorted(set(variants) - {BASELINE}))
                ],
                _guardrails(node),
            ).content()
            for policy, variants in counted.items()
        }
    }


def _guardrails(node: Node) -> Learning:
    return node.learning or Learning()
