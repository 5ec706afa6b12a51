"""What came of decisions is kept with what it means, and counts for a variant exactly once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stemma.access.permissions import Role
from stemma.access.principal import Principal, local_principal
from stemma.errors import Conflict, Forbidden, InvalidInput, NotFound
from stemma.governance.outcomes import recording
from stemma.governance.outcomes.catalog import get_outcome, list_outcomes
from stemma.governance.outcomes.model import NewOutcome, Outcome
from stemma.ledger.change import Change
from stemma.store.database import Database

AT = datetime(2025, 3, 2, tzinfo=UTC)

Commit = Callable[[Change[Any]], Any]
Tell = Callable[..., tuple[Outcome, ...]]


@pytest.fixture
def tell(database: Database, commit: Commit) -> Tell:
    def write(*outcomes: NewOutcome) -> tuple[Outcome, ...]:
        told: tuple[Outcome, ...] = commit(database.read(lambda c: recording.record(c, local_principal(), outcomes)))
        return told

    return write


def profit(decision_id: UUID, amount: float, at: datetime | None = AT) -> NewOutcome:
    return NewOutcome(decision_id, {"profit": amount}, at)


def stats(database: Database) -> dict[str, tuple[int, int]]:
    with database.snapshot() as connection:
        rows = connection.execute("SELECT variant, successes, failures FROM policy_variants_stats").fetchall()
    return {variant: (successes, failures) for variant, successes, failures in rows}


def test_an_outcome_counts_for_its_variant_as_it_is_now(database: Database, tell: Tell, decide: Any) -> None:
    one, other = decide(), decide(variant="strict")
    first, second = tell(profit(one, 5), profit(other, -1))
    assert (first.success, first.counted, first.revision) == (True, True, 1) and second.success is False
    assert stats(database) == {"baseline": (1, 0), "strict": (0, 1)}
    (changed,) = tell(profit(one, -5))
    assert (changed.success, changed.revision) == (False, 2)
    assert stats(database)["baseline"] == (0, 1)
    assert tell(profit(one, -5, None)) == (changed,)
    tell(profit(one, -6))
    assert stats(database) == {"baseline": (0, 1), "strict": (0, 1)}
    assert database.read(lambda c: get_outcome(c, one)).metrics == {"profit": -6}
    with database.snapshot() as connection:
        kinds = connection.execute("SELECT kind, count(*) FROM ledger WHERE chain = 'decisions' GROUP BY 1").fetchall()
    assert kinds == [("outcome.recorded", 4)]


def test_only_what_took_effect_as_drawn_counts(database: Database, tell: Tell, decide: Any) -> None:
    for state, effect in (("final", "deny"), ("resolved", "approve"), ("lapsed", "deny")):
        (told,) = tell(profit(decide(state=state, effect=effect), 3))
        assert told.success is True and not told.counted
    assert stats(database) == {}
    with pytest.raises(Conflict, match="has not taken effect"):
        tell(profit(decide(), 3), profit(decide(state="waiting", effect=None), 3))
    assert len(database.read(list_outcomes).data) == 3


def test_metrics_come_one_after_the_other(database: Database, tell: Tell, decide: Any) -> None:
    decision = decide(node="hr", policy="hr.leave")
    (first,) = tell(NewOutcome(decision, {"covered": True}, AT))
    assert first.success is None and stats(database) == {}
    (second,) = tell(NewOutcome(decision, {"regretted": False}))
    assert second.metrics == {"covered": True, "regretted": False} and second.observed_at == AT
    assert second.success is True and stats(database) == {"baseline": (1, 0)}
    (third,) = tell(NewOutcome(decision, {"regretted": True}))
    assert third.success is False and stats(database) == {"baseline": (0, 1)}


def test_outcomes_that_race_are_told_to_come_again(database: Database, commit: Commit, tell: Tell, decide: Any) -> None:
    decision = decide()

    def late(amount: float) -> Change[Any]:
        return database.read(lambda c: recording.record(c, local_principal(), [profit(decision, amount)]))

    first, second = late(1), late(-1)
    commit(first)
    with pytest.raises(Conflict, match="at the same time"):
        commit(second)
    revised, again = late(-2), late(3)
    commit(revised)
    with pytest.raises(Conflict):
        commit(again)
    assert stats(database) == {"baseline": (0, 1)}


def test_what_is_wrong_is_named_with_its_place(database: Database, tell: Tell, decide: Any) -> None:
    decision = decide()
    for wrong, code, field in (
        (NewOutcome(decision, {"profit": "much"}), "metric_invalid", "/outcomes/0/metrics/profit"),
        (NewOutcome(decision, {"profit": float("nan")}), "metric_invalid", "/outcomes/0/metrics/profit"),
        (NewOutcome(decision, {"profit": True}), "metric_invalid", "/outcomes/0/metrics/profit"),
        (NewOutcome(decision, {"loss": 1}), "metric_unknown", "/outcomes/0/metrics/loss"),
        (NewOutcome(decision, {}), "metrics_invalid", "/outcomes/0/metrics"),
        (profit(decision, 1, datetime(2025, 1, 1)), "outcome_time_invalid", "/outcomes/0/observed_at"),
        (profit(decision, 1, AT + timedelta(days=365_000)), "outcome_time_invalid", "/outcomes/0/observed_at"),
    ):
        with pytest.raises(InvalidInput) as refused:
            tell(wrong)
        assert (refused.value.code, refused.value.field) == (code, field)
    with pytest.raises(NotFound):
        tell(profit(uuid4(), 1))
    with pytest.raises(InvalidInput, match="named twice"):
        tell(profit(decision, 1), profit(decision, 2))
    for count in (0, recording.MAX_OUTCOMES + 1):
        with pytest.raises(InvalidInput, match="recorded together"):
            tell(*[profit(decision, 1)] * count)
    with pytest.raises(Forbidden):
        viewer = Principal("key:x", Role.VIEWER, frozenset({"decide:*"}))
        database.read(lambda c: recording.record(c, viewer, [profit(decision, 1)]))
    with pytest.raises(NotFound):
        database.read(lambda c: get_outcome(c, decision))
    assert stats(database) == {}


def test_outcomes_are_listed_by_node_and_success(database: Database, tell: Tell, decide: Any) -> None:
    decisions = [decide() for _ in range(4)]
    tell(*(profit(decision, place % 2 or -1) for place, decision in enumerate(decisions)))

    def listed(**wanted: Any) -> set[UUID]:
        return {outcome.decision_id for outcome in database.read(lambda c: list_outcomes(c, **wanted)).data}

    assert listed(node="finance") == set(decisions) and listed(node="hr") == set()
    assert listed(success=True) == set(decisions[1::2])
    page = database.read(lambda c: list_outcomes(c, limit=3))
    rest = database.read(lambda c: list_outcomes(c, cursor=page.next_cursor))
    assert len(page.data) == 3 and len(rest.data) == 1 and rest.next_cursor is None


@hypothesis_settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([-1.0, 0.0, 2.0])), min_size=1, max_size=6))
def test_the_statistics_are_those_of_a_recount(
    database: Database, tell: Tell, decide: Any, told: list[tuple[int, float]]
) -> None:
    variant = uuid4().hex
    decisions = [decide(variant=variant) for _ in range(3)]
    last: dict[int, float] = {}
    for place, amount in told:
        tell(profit(decisions[place], amount))
        last[place] = amount
    wins = sum(amount > 0 for amount in last.values())
    assert stats(database)[variant] == (wins, len(last) - wins)
