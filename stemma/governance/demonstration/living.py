"""Living through the sample year: what is missing of a month is recorded, decided, settled and observed, in this order.

What is missing is read from the database, so that a demonstration that was interrupted goes on where it stopped, and
one that is whole writes nothing. A month is decided before its outcomes are told, as whoever decides does not know
them; so each month is decided by what those before it taught.

People have to be stood in for. They do what the policy proposes; where it leaves the request to them, they give what
was given in the sample, in which everything was. What came last is left open for whoever looks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from datetime import date, timedelta
from functools import partial
from itertools import groupby, islice
from typing import Final, TypeVar
from uuid import UUID

from psycopg.rows import class_row

from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.approvals.model import Verdict
from stemma.errors import Conflict, PreconditionFailed
from stemma.governance.decisions import judging, review
from stemma.governance.decisions.deciding import Decider, NodeStopped
from stemma.governance.demonstration.happenings import Happening
from stemma.governance.events import recording
from stemma.governance.events.catalog import find_events
from stemma.governance.learning.tending import tend
from stemma.governance.memory.inputs import Span
from stemma.governance.memory.staleness import stale_days
from stemma.governance.outcomes import recording as outcomes
from stemma.governance.outcomes.model import NewOutcome
from stemma.ledger.service import Ledger
from stemma.progress import Progress, ReportProgress
from stemma.store.database import Connection, Database

STAND_IN: Final = Principal("demonstration", Role.REVIEWER, frozenset({"decide:review"}))
"""Who settles, in the sample year, what waits for a person."""
_LEFT_OPEN: Final = timedelta(days=3)
_THREADS: Final = 8
_TRIES: Final = 3
_AS_PROPOSED: Final = "As the policy proposes."
_AS_THEN: Final = "It was given in the sample."
_STANDING: Final = """
    SELECT DISTINCT ON (d.event_id) d.event_id, d.id, d.state, d.verdict, d.effect,
        d.reasons -> 0 ->> 'rule' AS first_rule, o.decision_id IS NOT NULL AS observed
    FROM decisions AS d LEFT JOIN outcomes AS o ON o.decision_id = d.id
    WHERE d.event_id = ANY(%s::uuid[]) ORDER BY d.event_id, d.position
"""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Month:
    """The happenings of one month, in the order of time; `last` is the last day of all months."""

    happenings: tuple[Happening, ...]
    last: date

    @property
    def span(self) -> Span:
        """Its days."""
        return Span(self.happenings[0].at.date(), self.happenings[-1].at.date())

    def is_left_open(self, one: Happening) -> bool:
        """Whether a request is left to whoever looks."""
        return one.at.date() > self.last - _LEFT_OPEN


@dataclass(frozen=True, slots=True)
class Lived:
    """What was written: events, decisions, what the stand-in settled, outcomes, and what learning did of itself."""

    events: int
    decisions: int
    settled: int
    outcomes: int
    learned: int


@dataclass(frozen=True, slots=True)
class _Standing:
    event_id: UUID
    id: UUID
    state: str
    verdict: str
    effect: str | None
    first_rule: str | None
    observed: bool


def months(found: Sequence[Happening]) -> tuple[Month, ...]:
    """What happens, by months."""
    last = found[-1].at.date()
    by_month = groupby(found, key=lambda one: (one.at.year, one.at.month))
    return tuple(Month(tuple(each), last) for _, each in by_month)


def observed_days(found: Sequence[Happening]) -> Span:
    """The days on which anything happens or is observed."""
    return Span(found[0].at.date(), max((one.observed_at or one.at).date() for one in found))


def missing(connection: Connection, found: Sequence[Month]) -> tuple[Month, ...]:
    """The months of which something is missing: an event, a decision, an outcome, or a day that memory lacks."""
    everything = [one for month in found for one in month.happenings]
    recorded = find_events(connection, {one.event.id for one in everything})
    standing = _standing(connection, everything)
    days = stale_days(connection, Span(found[0].span.first, found[-1].span.last))
    stale = {day for of in days.values() for day in of}

    def lacks(month: Month) -> bool:
        return any(
            one.event.id not in recorded or _due(month, one, standing.get(one.event.id)) for one in month.happenings
        ) or any(month.span.first <= day <= month.span.last for day in stale)

    return tuple(month for month in found if lacks(month))


def together(done: Iterable[Lived]) -> Lived:
    """What was written in all."""
    return Lived(*map(sum, zip(*(astuple(each) for each in done), strict=True)))


class Year:
    """Lives through months, with what is worth keeping from one to the next."""

    def __init__(self, database: Database, ledger: Ledger, decider: Decider, principal: Principal) -> None:
        self._database = database
        self._ledger = ledger
        self._decider = decider
        self._principal = principal

    def live(self, month: Month, report: ReportProgress = lambda _: None) -> Lived:
        """Do what is missing of a month. Raises what recording, deciding and observing raise; what was done stays."""
        events = self._record(month)
        decided = self._decide(month, report)
        settled = self._settle(month, report)
        observed = self._observe(month)
        return Lived(events, decided, settled, observed, tend(self._database, self._ledger))

    def _record(self, month: Month) -> int:
        known = self._database.read(lambda c: find_events(c, {one.event.id for one in month.happenings}))
        new = [one.event for one in month.happenings if one.event.id not in known]
        for batch in _batches(new, recording.MAX_EVENTS):
            make = partial(recording.record, principal=self._principal, events=batch)
            self._ledger.commit(self._database.read(make)).result()
        return len(new)

    def _decide(self, month: Month, report: ReportProgress) -> int:
        standing = self._read(month)
        asked = [one for one in month.happenings if one.node and one.event.id not in standing]
        return _each(self._decide_one, asked, "decide", "requests", report)

    def _decide_one(self, one: Happening) -> None:
        assert one.node is not None
        for left in reversed(range(_TRIES)):
            try:
                self._ledger.commit(self._decider.decide(self._principal, one.node, one.event.id)).result()
                return
            except NodeStopped:
                if not left:
                    raise

    def _settle(self, month: Month, report: ReportProgress) -> int:
        standing = self._read(month)
        waiting = [
            standing[one.event.id]
            for one in month.happenings
            if one.event.id in standing and _is_settled_by_stand_in(month, one, standing[one.event.id])
        ]
        return _each(self._settle_one, waiting, "settle as people", "requests", report)

    def _settle_one(self, one: _Standing) -> None:
        verdict = Verdict.DENY if one.verdict == "deny" else Verdict.APPROVE
        why = _AS_THEN if one.verdict == "escalate" else _AS_PROPOSED
        make = partial(review.resolve, principal=STAND_IN, decision_id=one.id, verdict=verdict, reason=why)
        # Somebody may look at the queue meanwhile, and what they say holds.
        with contextlib.suppress(Conflict, PreconditionFailed):
            self._ledger.commit(self._database.read(make)).result()

    def _observe(self, month: Month) -> int:
        standing = self._read(month)
        told = [
            NewOutcome(standing[one.event.id].id, one.metrics, one.observed_at)
            for one in month.happenings
            if one.metrics and _is_unobserved(standing.get(one.event.id))
        ]
        for batch in _batches(told, outcomes.MAX_OUTCOMES):
            make = partial(outcomes.record, principal=self._principal, outcomes=batch)
            self._ledger.commit(self._database.read(make)).result()
        return len(told)

    def _read(self, month: Month) -> dict[UUID, _Standing]:
        return self._database.read(lambda connection: _standing(connection, month.happenings))


def _standing(connection: Connection, found: Iterable[Happening]) -> dict[UUID, _Standing]:
    """The first decision about each event that was decided."""
    ids = "{" + ",".join(one.event.id.hex for one in found if one.node) + "}"
    rows = connection.cursor(row_factory=class_row(_Standing)).execute(_STANDING, (ids,))
    return {row.event_id: row for row in rows}


def _due(month: Month, one: Happening, standing: _Standing | None) -> bool:
    if one.node is None:
        return False
    return standing is None or _is_settled_by_stand_in(month, one, standing) or _is_unobserved(standing)


def _is_settled_by_stand_in(month: Month, one: Happening, standing: _Standing) -> bool:
    """What waits because the node is stopped waits for who stopped it."""
    return standing.state == "waiting" and not month.is_left_open(one) and standing.first_rule != judging.STOPPED.rule


def _is_unobserved(standing: _Standing | None) -> bool:
    return standing is not None and standing.effect == "approve" and not standing.observed


def _each(do: Callable[[T], None], given: Sequence[T], stage: str, unit: str, report: ReportProgress) -> int:
    """Do it to each, begun in their order, a few at the same time; what fails stops those that were not begun."""
    began = time.monotonic()
    with ThreadPoolExecutor(_THREADS) as threads:
        try:
            for done, _ in enumerate(threads.map(do, given), start=1):
                report(Progress(stage, unit, done, len(given), time.monotonic() - began))
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return len(given)


def _batches(given: Sequence[T], size: int) -> Iterable[list[T]]:
    waiting = iter(given)
    while batch := list(islice(waiting, size)):
        yield batch
