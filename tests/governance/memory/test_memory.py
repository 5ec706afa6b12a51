"""The memory of the loop: each day is made once, exactly, and anew only when something about it changed."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stemma.access.principal import local_principal
from stemma.errors import InvalidInput, NotFound
from stemma.governance import nodes, policies
from stemma.governance.memory import alarms, catalog, drift, embeddings, features, scorecards, snapshots, windows
from stemma.governance.memory.days import Product, Report
from stemma.governance.memory.drift import stability
from stemma.governance.memory.inputs import Span
from stemma.governance.memory.recount import recount
from stemma.governance.memory.staleness import stale_days, stretches
from stemma.store.settings import REPOSITORY

Ask = Callable[..., dict[str, Any]]
YEAR = 365


def whole(world: Any) -> Span:
    return Span(world.day(0), world.day(YEAR))


def made(report: Report) -> list[Any]:
    return [day for _, day in report.made]


def differences(world: Any) -> tuple[str, ...]:
    return world.database.read(lambda connection: recount(connection, whole(world))).differences


def values(world: Any, entity: str, day: int) -> dict[str, Any]:
    def read(connection: Any) -> Any:
        return windows.features_on(connection, nodes.load(connection, "finance"), entity, world.day(day)).values

    return world.database.read(read)


def test_a_window_is_the_exact_sum_of_its_days(world: Any, ask: Ask) -> None:
    world.happen(
        [
            ask(0, "ada", amount=0.1, discount=0.3, metrics={"profit": -1}, later=0),
            ask(1, "ada", amount=0.2, discount=0.1, metrics={"profit": 2}, later=3),
            ask(1, "bob", amount=5),
        ]
    )
    features.sync_features(world.database, whole(world))
    assert values(world, "ada", 1) == {
        "orders": 2, "amount": 0.3, "mean_discount": 0.2, "loss_rate": 1.0, "profit": -1.0,
    }  # fmt: skip
    assert values(world, "ada", 4)["loss_rate"] == 0.5, "the outcome counts from the day on which it was observed"
    assert values(world, "ada", YEAR)["orders"] == 1, "a year later the first day has left the window"
    assert values(world, "eve", 1) == {"orders": 0, "amount": 0, "profit": 0}
    assert differences(world) == ()


def test_a_late_event_makes_its_day_anew_and_no_other(world: Any, ask: Ask) -> None:
    held = drift.CURRENT_DAYS + drift.REFERENCE_DAYS
    days = held + 20
    world.happen([ask(day, f"c{day % 7}", metrics={"profit": 1}, later=0) for day in range(days)])
    span = whole(world)
    assert len(features.sync_features(world.database, span).made) == days
    assert len(snapshots.sync_snapshots(world.database, world.settings, span).made) == days
    assert len(drift.sync_drift(world.database, span).made) == days
    assert len(scorecards.sync_scorecards(world.database, span).made) == days
    before = values(world, "c3", days)["orders"]
    world.happen([ask(10, "c3", decided=False)])
    stale = world.database.read(lambda connection: stale_days(connection, span))
    late = world.day(10)
    assert stale[Product.FEATURES] == stale[Product.SNAPSHOTS] == [late]
    assert stale[Product.SCORECARDS] == [], "nothing that counts was observed"
    assert stale[Product.DRIFT] == [late + timedelta(days=after) for after in range(held)]
    assert made(features.sync_features(world.database, span)) == [late]
    assert made(snapshots.sync_snapshots(world.database, world.settings, span)) == [late]
    assert len(drift.sync_drift(world.database, span).made) == held
    assert made(scorecards.sync_scorecards(world.database, span)) == []
    assert values(world, "c3", days)["orders"] == before + 1, "windows that hold the day are right at once"
    assert differences(world) == ()
    for again in (features.sync_features, drift.sync_drift):
        assert again(world.database, span).made == ()
    assert snapshots.sync_snapshots(world.database, world.settings, span).made == ()


def test_an_outcome_that_is_told_anew_changes_the_day_on_which_it_was_observed(world: Any, ask: Ask) -> None:
    decisions = world.happen([ask(day, "ada", metrics={"profit": 1}, later=2) for day in range(5)])
    span = whole(world)
    features.sync_features(world.database, span)
    scorecards.sync_scorecards(world.database, span)
    world.revise(decisions[1], {"profit": -1})
    assert made(features.sync_features(world.database, span)) == [world.day(3)]
    assert made(scorecards.sync_scorecards(world.database, span)) == [world.day(day) for day in (3, 4, 5, 6)]
    page = world.database.read(lambda connection: catalog.list_scorecards(connection, "finance"))
    (told,) = page.data[0].policies.values()
    assert (told["baseline"]["draws"], told["baseline"]["successes"], told["baseline"]["failures"]) == (5, 4, 1)


ODD = """\
name: odd
version: 1.0.0
changelog: First version.
description: Every aggregate, of values of every kind.
policy: odd.discounts@1
entity: Whoever
events: {Odd: {text: []}}
reward: {metrics: {profit: number}, success: profit > 0.0, failure: profit < 0.0}
features:
  number: {aggregate: count, days: 3}
  other: {aggregate: count, days: 9, events: [Other]}
  total: {aggregate: sum, of: /event/data/value, days: 5}
  mean: {aggregate: mean, of: /event/data/value, days: 30}
  least: {aggregate: min, of: /event/data/deep/0/x~1y, days: 30}
  most: {aggregate: max, of: /event/data/value, days: 1}
  newest: {aggregate: last, of: /event/data/value, days: 30}
  kinds: {aggregate: distinct, of: /event/data/value, days: 30}
  given: {aggregate: share, of: /event/data/flag, days: 30}
  approved: {aggregate: share, of: /decision/approved, days: 30}
"""


def test_every_aggregate_equals_what_is_counted_one_by_one(world: Any, commit: Callable[[Any], Any]) -> None:
    usual = world.database.read(lambda connection: policies.texts(policies.find(connection, "finance.discounts")))
    policy = usual.policy.replace("finance.discounts", "odd.discounts").replace("node: finance", "node: odd")
    commit(world.database.read(lambda c: policies.publish(c, local_principal(), policy, usual.tests)))
    commit(world.database.read(lambda connection: nodes.publish(connection, local_principal(), ODD)))
    chance = random.Random(5)
    odd = [0.1, -7, 1e-30, 2**53 - 1, 2**53, 1e300, True, False, None, "", "text", "x" * 1001, [1], {"a": 1}, "0.1"]
    world.happen(
        [
            {
                "day": chance.randrange(60),
                "second": chance.randrange(-40_000, 40_000),
                "entity": chance.choice(["ada", "bob's", "e\\ve\n"]),
                "type": chance.choice(["Odd", "Odd", "Other"]),
                "data": {
                    "value": chance.choice(odd),
                    "flag": chance.choice([True, False, None, "true", 1]),
                    "deep": chance.choice([[{"x/y": chance.random()}], [{}], [], {"0": {"x/y": 2}}]),
                },
                "decided": False,
            }
            for _ in range(400)
        ]
    )
    features.sync_features(world.database, whole(world))
    found = world.database.read(lambda connection: recount(connection, whole(world)))
    assert found.differences == () and found.days > 100 and found.windows == 3


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE entity_features SET features = replace(features::text, ': 1', ': 2')::jsonb WHERE entity = 'ada'",
        "DELETE FROM entity_features WHERE entity = 'ada'",
        "UPDATE entity_features SET entity = 'eve' WHERE entity = 'ada'",
    ],
)
def test_the_count_finds_features_that_are_wrong(world: Any, ask: Ask, tamper: str) -> None:
    world.happen([ask(1, "ada"), ask(2, "bob")])
    features.sync_features(world.database, whole(world))
    with world.database.transaction() as connection:
        connection.execute(tamper)
    (first, *_) = differences(world)
    assert first.startswith(f"finance {world.day(1)}") and "ada" not in first


def test_another_definition_of_a_feature_makes_all_days_anew(
    world: Any, ask: Ask, commit: Callable[[Any], Any]
) -> None:
    world.happen([ask(day, "ada", amount=10) for day in (1, 2)])
    features.sync_features(world.database, whole(world))
    sample = (REPOSITORY / "samples" / "nodes" / "finance.yaml").read_text().replace("1.0.0", "1.1.0")
    mean = sample.replace("aggregate: sum\n    of: /event/data/amount", "aggregate: mean\n    of: /event/data/amount")
    commit(world.database.read(lambda connection: nodes.publish(connection, local_principal(), mean)))
    assert "amount" not in values(world, "ada", 2), "what another definition summed up is not read"
    assert len(features.sync_features(world.database, whole(world)).made) == 2
    assert values(world, "ada", 2)["amount"] == 10


def test_snapshots_tell_the_day_in_words_and_no_personal_data(world: Any, ask: Ask) -> None:
    event = ask(1, "mallory@example.org", metrics={"profit": 5}, later=0)
    event["data"]["segment"] = "mail bob@example.org"
    world.happen([event, ask(1, "ada")])
    snapshots.sync_snapshots(world.database, world.settings, whole(world))
    (told,) = world.database.read(lambda connection: catalog.list_snapshots(connection, "finance")).data
    assert "2 DiscountRequested of 2 entities" in told.text and "profit: 5 in 1" in told.text
    assert "mail [email] (1)" in told.text
    assert "example.org" not in told.text + str(told.content)
    assert world.database.read(lambda connection: snapshots.unredacted(connection, whole(world))) == ()
    with world.database.transaction() as connection:
        connection.execute("UPDATE knowledge_snapshots SET text = text || ' carol@example.org'")
    first, second = world.database.read(lambda connection: snapshots.unredacted(connection, whole(world)))
    assert "redaction" in first and "hash" in second


def test_decisions_without_a_vector_get_one_of_the_model_in_force(world: Any, ask: Ask) -> None:
    first, _ = world.happen([ask(1, "ada"), ask(2, "bob", discount=0.2)])
    with world.database.transaction() as connection:
        connection.execute(
            "INSERT INTO decision_embeddings SELECT id, 'old', node, '', array_fill(0.1::real, ARRAY[384])::vector,"
            " occurred_at FROM decisions WHERE id = %s",
            (first,),
        )
    report = embeddings.sync_embeddings(world.database, world.settings, whole(world))
    assert made(report) == [world.day(1), world.day(2)] and report.rows == 2
    rows = world.database.read(lambda c: c.execute("SELECT DISTINCT model_key FROM decision_embeddings").fetchall())
    assert len(rows) == 1 and rows != [("old",)]
    assert embeddings.sync_embeddings(world.database, world.settings, whole(world)).made == ()


def test_drift_alarms_when_a_distribution_moves_and_is_told_once(world: Any, ask: Ask) -> None:
    today = datetime.now(UTC).date()
    world.first = today - timedelta(days=130)
    chance = random.Random(3)
    world.happen(
        [
            ask(day, f"c{chance.randrange(50)}", verdict="deny" if day > 117 else "approve", second=number)
            for day in range(130)
            for number in range(10)
        ]
    )
    span = whole(world)
    features.sync_features(world.database, span)
    report = drift.sync_drift(world.database, span)
    reports = world.database.read(lambda connection: catalog.list_drift(connection, "finance", limit=200)).data
    assert {found.alarmed for found in reports if found.day <= world.day(117)} == {False}
    verdicts = reports[0].content["measures"][0]
    assert verdicts["of"] == "verdict" and verdicts["alarmed"] and verdicts["psi"] > verdicts["threshold"]
    began = min(found.day for found in reports if found.alarmed)
    news = world.database.read(lambda connection: alarms.beginning(connection, report.made))
    recent = began > today - timedelta(days=alarms.NEWS_DAYS)
    assert len(news) == int(recent)
    later = world.database.read(lambda c: alarms.beginning(c, [("finance", found.day) for found in reports[:3]]))
    assert later == [], "it began before"


def test_stability_is_nothing_without_a_change_and_does_not_alarm_by_chance() -> None:
    assert stability([50, 50], [50, 50])[:2] == (0.0, 0.0)
    psi, divergence, threshold = stability([900, 100], [100, 900])
    assert psi > 3 and 0.4 < divergence < 1 and threshold == drift.ALARM_PSI
    chance = random.Random(1)
    drawn = [[chance.choices(range(10), k=size) for size in (300, 40)] for _ in range(300)]
    found = [stability(*([side.count(kind) for kind in range(10)] for side in both)) for both in drawn]
    assert sum(psi >= threshold for psi, _, threshold in found) <= 3
    assert sum(psi >= drift.ALARM_PSI for psi, _, _ in found) > 30, "the usual threshold alone would alarm"


def test_days_are_stretches_between_which_nothing_else_happened(world: Any) -> None:
    stale, active = ([world.day(number) for number in numbers] for numbers in ((5, 1, 2, 9, 3), (1, 2, 3, 5, 7, 9)))
    spans = [(1, 5), (9, 9)]
    assert stretches(stale, active) == [Span(world.day(first), world.day(last)) for first, last in spans]
    assert world.database.read(lambda connection: stale_days(connection, whole(world))) == {}


def test_what_is_not_there_is_said(world: Any) -> None:
    with pytest.raises(NotFound):
        world.database.read(lambda connection: catalog.find_features(connection, "nothing", "ada"))
    with pytest.raises(InvalidInput) as refused:
        world.database.read(lambda connection: catalog.list_drift(connection, "finance", cursor="xyz"))
    assert refused.value.field == "cursor"
