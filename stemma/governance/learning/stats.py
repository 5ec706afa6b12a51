"""What was drawn of each variant and how it ended: the counts that learning rests on.

One row for each node, policy version and variant; a variant without a row has drawn nothing. The counts change in the
transaction of what is counted: draws by the statement made here, outcomes by those of `outcomes`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg.rows import class_row

from stemma.governance.evaluation import Applicable
from stemma.governance.learning.posteriors import Beta
from stemma.governance.policy import BASELINE
from stemma.ledger.writer import Statement, row
from stemma.store.database import Connection

_DRAWN: Final = """
    INSERT INTO policy_variants_stats AS stats (node, policy, variant, draws, updated_at)
    SELECT node, policy, variant, count(*), clock_timestamp()
    FROM json_to_recordset(%(rows)s::json) AS (node text, policy text, variant text) GROUP BY node, policy, variant
    ON CONFLICT (node, policy, variant)
        DO UPDATE SET draws = stats.draws + excluded.draws, updated_at = excluded.updated_at
"""


@dataclass(frozen=True, slots=True)
class VariantStats:
    """A variant's counts; `stopped_at` is when the stop rule took its traffic away, `stopped_why` in words."""

    variant: str
    draws: int = 0
    successes: int = 0
    failures: int = 0
    stopped_at: datetime | None = None
    stopped_why: str | None = None

    @property
    def samples(self) -> int:
        """Outcomes that were a success or a failure."""
        return self.successes + self.failures

    @property
    def posterior(self) -> Beta:
        """What is known of its rate of success, from a uniform prior."""
        return Beta(1.0 + self.successes, 1.0 + self.failures)


def variants_of(policy: Applicable) -> tuple[str, ...]:
    """The variants of a policy, the baseline first, the others by name."""
    return (BASELINE, *sorted(policy.policy.variants))


def load(connection: Connection, node: str, policy: str, variants: Iterable[str]) -> tuple[VariantStats, ...]:
    """The counts of these variants of `policy` (`name@version`) at a node, in their order; zeros where there are none.

    Variants that are not named are left out.
    """
    rows = (
        connection.cursor(row_factory=class_row(VariantStats))
        .execute(
            "SELECT variant, draws, successes, failures, stopped_at, stopped_why FROM policy_variants_stats"
            " WHERE node = %s AND policy = %s",
            (node, policy),
        )
        .fetchall()
    )
    found = {row.variant: row for row in rows}
    return tuple(found.get(variant, VariantStats(variant)) for variant in variants)


def drawn(node: str, policy: str, variant: str) -> Statement:
    """The statement that counts a draw; it belongs to the decision's transaction."""
    return Statement(_DRAWN, row({"node": node, "policy": policy, "variant": variant}), as_rows=True)
