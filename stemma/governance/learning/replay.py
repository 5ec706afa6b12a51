"""Replaying decisions: what another policy says in the very contexts in which they were made, or whether the recorded
one still says the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from stemma.errors import InvalidInput, StemmaError
from stemma.governance import policies
from stemma.governance.evaluation import Applicable, evaluate
from stemma.governance.learning.comparing import MAX_SHOWN, Comparison, compare
from stemma.governance.learning.drawing import Draw
from stemma.governance.learning.logged import Logged, Said, read
from stemma.governance.policy import BASELINE
from stemma.store.database import Connection


@dataclass(frozen=True, slots=True)
class Reproduced:
    """How many decisions were made again with their recorded policy, context and draw, and which of them differ: in the
    hash of their verdict, or in the variant that their seed draws. At most `MAX_SHOWN` are named, with the reason.
    """

    replayed: int
    same: int
    different: tuple[tuple[UUID, str], ...]


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
    verdict = evaluate(policy, case.event, case.context, variant=variant)
    return Said(verdict.verdict, verdict.level, verdict.reasons)


def reproduce(connection: Connection, *, last: int, node: str | None = None) -> Reproduced:
    """Make the last decisions again, of all nodes or of one, each by what is recorded of it."""
    replayed = wrong = 0
    different: list[tuple[UUID, str]] = []
    for case, why in _again(connection, read(connection, last=last, node=node)):
        replayed += 1
        if why is not None:
            wrong += 1
            if len(different) < MAX_SHOWN:
                different.append((case.id, why))
    return Reproduced(replayed, replayed - wrong, tuple(different))


def _again(connection: Connection, cases: Iterator[Logged]) -> Iterator[tuple[Logged, str | None]]:
    loaded: dict[str, Applicable] = {}
    for case in cases:
        if case.draw is not None and (drawn := Draw.of_content(case.draw).again) != case.variant:
            yield case, f"its seed draws {drawn}, not {case.variant}"
            continue
        try:
            if case.policy not in loaded:
                loaded[case.policy] = policies.load(connection, case.policy)
            verdict = evaluate(loaded[case.policy], case.event, case.context, variant=case.variant)
        except StemmaError as error:
            yield case, error.message
            continue
        same = verdict.sha256 == case.verdict_sha256
        yield case, None if same else f"it says {verdict.verdict} at {verdict.level}, with another hash"
