"""What one policy said beside what another says of the same decisions, and how those ended where that is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from stemma.governance.learning.logged import Logged, Said
from stemma.governance.policy import Ruling

MAX_SHOWN: Final = 200


@dataclass(frozen=True, slots=True)
class Transition:
    """Decisions in which the verdict `before` meets `after`: how many, and how many of them succeeded and failed.

    The outcomes are those of what was done. What would have come of the other verdict nobody saw.
    """

    before: Ruling
    after: Ruling
    count: int
    successes: int
    failures: int


@dataclass(frozen=True, slots=True)
class Difference:
    """One decision of which the two say something else."""

    decision_id: UUID
    event_id: UUID
    occurred_at: datetime
    before: Said
    after: Said
    effect: Ruling | None
    success: bool | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many decisions were compared, in how many something differs, and in how many the verdict, the level or the
    reasons do; `differences` are the newest, at most `MAX_SHOWN`.
    """

    compared: int
    different: int
    verdicts: int
    levels: int
    reasons: int
    transitions: tuple[Transition, ...]
    differences: tuple[Difference, ...]


def compare(pairs: Iterable[tuple[Logged, Said]]) -> Comparison:
    """Compare what was said with what the other says; the newest decision first."""
    counts: Counter[str] = Counter()
    ends: Counter[tuple[Ruling, Ruling, bool | None]] = Counter()
    shown: list[Difference] = []
    for case, after in pairs:
        before = case.said
        counts["compared"] += 1
        ends[before.verdict, after.verdict, case.success] += 1
        differing = [part for part in Said.__slots__ if getattr(before, part) != getattr(after, part)]
        counts.update(differing)
        if differing:
            counts["different"] += 1
            if len(shown) < MAX_SHOWN:
                shown.append(
                    Difference(case.id, case.event_id, case.occurred_at, before, after, case.effect, case.success)
                )
    return Comparison(
        compared=counts["compared"],
        different=counts["different"],
        verdicts=counts["verdict"],
        levels=counts["level"],
        reasons=counts["reasons"],
        transitions=tuple(_transitions(ends)),
        differences=tuple(shown),
    )


def _transitions(ends: Counter[tuple[Ruling, Ruling, bool | None]]) -> Iterable[Transition]:
    for before, after in sorted({(before, after) for before, after, _ in ends}):
        known = {success: ends[before, after, success] for success in (True, False, None)}
        yield Transition(before, after, sum(known.values()), known[True], known[False])
