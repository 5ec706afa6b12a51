"""Replaying decisions with another policy: what it says in the very contexts in which they were made.

Whether the recorded policy still says what it said belongs to `decisions`.
"""

from __future__ import annotations

from stemma.errors import InvalidInput
from stemma.governance.decisions.judging import judge
from stemma.governance.evaluation import Applicable
from stemma.governance.learning.comparing import Comparison, compare
from stemma.governance.learning.logged import Logged, Said, read
from stemma.governance.policy import BASELINE
from stemma.store.database import Connection


def replay(
    connection: Connection, policy: Applicable, *, last: int, node: str | None = None, variant: str = BASELINE
) -> Comparison:
    """What a policy says of the last decisions of its node, or of another, beside what was said.

    Raises InvalidInput for a variant that it does not have.
    """
    if variant not in policy.parameters:
        raise InvalidInput("variant_unknown", f"{policy.reference} has no variant {variant[:63]!r}.", field="variant")
    cases = read(connection, last=last, node=node or policy.policy.node)
    return compare((case, said(policy, case, variant)) for case in cases)


def said(policy: Applicable, case: Logged, variant: str = BASELINE) -> Said:
    """What a policy says of a decision's event in its context."""
    verdict = judge(policy, case.event, case.context, variant)
    return Said(verdict.verdict, verdict.level, verdict.reasons)
