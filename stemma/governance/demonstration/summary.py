"""What the governance loop came to on the samples: counts of what was done, what was learned, what refusing saved, and
whether every decision comes out as it was recorded.

Of every order the sample knows the profit, refused or not. So the estimates, which see only what was given, stand
beside what was so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from stemma.errors import Conflict
from stemma.governance import nodes, policies
from stemma.governance.decisions.replaying import replay_all
from stemma.governance.demonstration.happenings import FINANCE, METRIC, PEOPLE
from stemma.governance.learning import catalog
from stemma.governance.learning.assessment import Rate, Standing
from stemma.governance.learning.catalog import Promotion
from stemma.governance.learning.estimates import savings_of
from stemma.governance.learning.offpolicy import Interval
from stemma.governance.learning.standing import reference, standing
from stemma.governance.learning.valued import Case, Done, cases
from stemma.governance.memory.inputs import types_of
from stemma.governance.nodes import Node
from stemma.store.database import Connection

_EVERY: Final = 1_000_000
_EVENTS: Final = """
    SELECT type, count(*) FROM events WHERE type = ANY(%s) GROUP BY type ORDER BY type
"""
_DECIDED: Final = """
    SELECT level, verdict, count(*) AS decisions,
        count(*) FILTER (WHERE state = 'final') AS alone,
        count(*) FILTER (WHERE state IN ('resolved', 'lapsed')) AS by_people,
        count(*) FILTER (WHERE state = 'waiting') AS waiting
    FROM decisions WHERE node = %s GROUP BY level, verdict ORDER BY level DESC, verdict
"""
_OUTCOMES: Final = """
    SELECT count(*), count(*) FILTER (WHERE o.success), count(*) FILTER (WHERE NOT o.success),
        count(*) FILTER (WHERE o.counted)
    FROM outcomes AS o JOIN decisions AS d ON d.id = o.decision_id WHERE d.node = %s
"""


@dataclass(frozen=True, slots=True)
class Decided:
    """How many decisions of a level came to a verdict; who carried them out, or that they wait."""

    level: str
    verdict: str
    decisions: int
    alone: int
    by_people: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Outcomes that were told; `counted` of them are of decisions that took effect alone, from which is learned."""

    told: int
    successes: int
    failures: int
    counted: int


@dataclass(frozen=True, slots=True)
class Variant:
    """A variant's counts and posterior, with which propensity it is drawn now, and how it stands beside the baseline;
    of the baseline itself `standing` is None.
    """

    rate: Rate
    propensity: float
    standing: Standing | None
    why: str | None


@dataclass(frozen=True, slots=True)
class Desk:
    """What happened at a node. `policy` is the one in force, `promotions` are all that were proposed there."""

    node: str
    policy: str
    events: Mapping[str, int]
    decided: tuple[Decided, ...]
    outcomes: Outcomes
    variants: tuple[Variant, ...]
    promotions: tuple[Promotion, ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """The total value of `count` decisions that were not given, as it was estimated from those that were (`how`), and
    as the sample knows it.
    """

    of: str
    how: str
    count: int
    estimated: Interval | None
    known: float

    @property
    def holds(self) -> bool:
        """Whether the interval has the truth in it."""
        return self.estimated is not None and self.estimated.low <= self.known <= self.estimated.high


@dataclass(frozen=True, slots=True)
class Saved:
    """What refusing did, by `metric`. `observed` is the value of the `given`, `all` what giving everything would have
    brought, as the sample knows. The estimates are counterfactual: nobody observed what they are about.
    """

    metric: str
    given: int
    observed: float
    estimates: tuple[Estimate, ...]
    refused: int
    refused_known: float
    all: float


@dataclass(frozen=True, slots=True)
class Summary:
    """What the loop came to; `saved` is None as long as too few outcomes are known. `replayed` decisions were made
    again, of which `differing` came out otherwise.
    """

    desks: tuple[Desk, ...]
    saved: Saved | None
    replayed: int
    differing: tuple[UUID, ...]


def summarize(connection: Connection, known: Mapping[UUID, float]) -> Summary:
    """How the nodes of the samples stand; `known` has the profit of each order, given or not, by its event."""
    replayed = [replay_all(connection, node=name) for name in (FINANCE, PEOPLE)]
    return Summary(
        desks=tuple(_desk(connection, nodes.load(connection, name)) for name in (FINANCE, PEOPLE)),
        saved=_saved(connection, known),
        replayed=sum(one.decisions for one in replayed),
        differing=tuple(decision for one in replayed for decision in one.differing),
    )


def _desk(connection: Connection, node: Node) -> Desk:
    stand = standing(connection, node)
    compared = {one.rate.variant: one for one in stand.assessment.variants}
    rates = (stand.assessment.baseline, *(one.rate for one in compared.values()))
    counts = connection.execute(_OUTCOMES, (node.name,)).fetchone()
    assert counts is not None
    return Desk(
        node=node.name,
        policy=stand.policy.reference,
        events=dict(connection.execute(_EVENTS, (sorted(types_of(node)),)).fetchall()),
        decided=tuple(Decided(*row) for row in connection.execute(_DECIDED, (node.name,)).fetchall()),
        outcomes=Outcomes(*counts),
        variants=tuple(
            Variant(
                rate,
                stand.propensities[rate.variant],
                compared[rate.variant].standing if rate.variant in compared else None,
                compared[rate.variant].why if rate.variant in compared else None,
            )
            for rate in rates
        ),
        promotions=catalog.list_promotions(connection, node=node.name).data,
    )


def _saved(connection: Connection, known: Mapping[UUID, float]) -> Saved | None:
    node = nodes.load(connection, FINANCE)
    policy = policies.load(connection, reference(connection, node))
    every = cases(connection, node, policy, metric=METRIC, last=_EVERY)
    # What somebody else asked is not in the sample; nobody knows what would have come of it.
    found = [case for case in every if case.logged.event_id in known]
    try:
        saved = savings_of(found, node=FINANCE, metric=METRIC)
    except Conflict:
        return None

    def truth(these: Sequence[Case]) -> float:
        return sum(known[case.logged.event_id] for case in these)

    overlap = [case for case in found if not case.alone and case.chance > 0.0]
    of = "not given alone, though by another variant"
    estimates = [Estimate(of, "weighted", len(overlap), saved.weighted, truth(overlap))] if overlap else []
    for group in saved.not_given:
        beyond = [case for case in found if case.done is group.done and case.chance == 0.0]
        of = f"{group.done}, given by no variant"
        estimates += [
            Estimate(of, f"modelled, {one.model}", len(beyond), one.total, truth(beyond)) for one in group.models
        ]
    refused = [case for case in found if case.done is Done.REFUSED]
    return Saved(
        metric=METRIC,
        given=saved.observed.count,
        observed=saved.observed.total,
        estimates=tuple(estimates),
        refused=len(refused),
        refused_known=truth(refused),
        all=truth(found),
    )
