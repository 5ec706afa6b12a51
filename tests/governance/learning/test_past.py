"""What another policy says of past decisions, and what it would have been worth, told apart from what was observed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from stemma.access.principal import local_principal
from stemma.errors import Conflict, InvalidInput, NotFound
from stemma.governance import nodes, policies
from stemma.governance.checking import check
from stemma.governance.decisions import flags
from stemma.governance.decisions.replaying import replay_all
from stemma.governance.evaluation import Applicable
from stemma.governance.events import recording
from stemma.governance.events.model import NewEvent
from stemma.governance.learning import estimates, logged, offpolicy, shadow
from stemma.governance.learning.replay import replay
from stemma.governance.learning.simulation import simulate
from stemma.ledger.service import Ledger
from stemma.store.database import Database
from stemma.store.settings import Settings

COUNT = 240
QUARTER = COUNT // 4
CASES = """\
cases:
  - name: one
    event: {type: Asked, data: {amount: 10, discount: 0.2}}
    expect: {verdict: approve, level: AL3, rules: []}
"""
ME = local_principal()


def profit(place: int) -> float:
    """What the request at this place earns when it is given."""
    return (100.0 + 37 * place % 1000) * (0.3 - (0.0, 0.1, 0.2, 0.5)[place % 4])


@pytest.fixture(scope="module")
def desk(studio: tuple[Settings, Database], open_desk: Callable[..., None]) -> Database:
    """A node that has decided requests: of each four, two are given by every variant, one by the generous
    alone, and one by none.
    """
    settings, database = studio
    open_desk(settings, database, COUNT)
    return database


@pytest.fixture(scope="module")
def stricter(desk: Database) -> Applicable:
    """The policy of the desk, not published, that denies one more sort of request."""
    text = desk.read(lambda c: policies.find(c, "desk.asked")).content["policy"]
    said = {"name": "desk.asked", "version": "1.1.0", "changelog": "Stricter.", **text, "parameters": {"usual": 0.05}}
    rules = [
        {**rule, "when": "discount > 0.15"} if rule["id"] == "beyond" else rule for rule in text["bundles"][0]["rules"]
    ]
    checked = check(json.dumps({**said, "bundles": [{"id": "size", "rules": rules}]}), CASES)
    assert not checked.valid
    return checked.usable()


def load(desk: Database) -> Applicable:
    return desk.read(lambda c: policies.load(c, "desk.asked"))


def test_decisions_are_read_with_what_came_of_them(desk: Database) -> None:
    found = desk.read(lambda c: list(logged.read(c, last=3)))
    assert [one.position for one in found] == sorted((one.position for one in found), reverse=True)
    assert found[0].event["data"]["discount"] == 0.5 and found[0].metrics is None and found[0].draw is not None
    assert len(desk.read(lambda c: list(logged.read(c, last=10_000, node="desk")))) == COUNT
    assert desk.read(lambda c: list(logged.read(c, last=10, types=["Else"]))) == []


def test_a_replay_says_what_differs_and_how_it_ended(desk: Database, stricter: Applicable) -> None:
    again = desk.read(replay_all)
    assert (again.decisions, again.differing) == (COUNT, ())
    compared = desk.read(lambda c: replay(c, stricter, last=COUNT))
    cells = {(one.before, one.after): one for one in compared.transitions}
    assert compared.compared == COUNT and cells["deny", "deny"].count == QUARTER
    assert cells["approve", "escalate"].successes == cells["approve", "approve"].count == QUARTER
    assert cells["escalate", "deny"].count + cells["approve", "deny"].count == QUARTER
    assert compared.verdicts == compared.different == 2 * QUARTER
    assert {shown.before.verdict for shown in compared.differences} <= {"approve", "escalate"}
    assert desk.read(lambda c: replay(c, stricter, last=10, node="other")).compared == 0
    with pytest.raises(InvalidInput):
        desk.read(lambda c: replay(c, stricter, last=10, variant="nothing"))


def test_a_simulation_needs_no_publication_and_no_decision(
    studio: tuple[Settings, Database], desk: Database, stricter: Applicable
) -> None:
    new = NewEvent("Asked", {"amount": 50, "discount": 0.5})
    with Ledger(desk.urls, studio[0]) as ledger:
        ledger.commit(desk.read(lambda c: recording.record(c, ME, [new]))).result(20)
    found = desk.read(lambda c: simulate(c, stricter, last=1_000))
    assert (found.events, found.decided, found.comparison.compared) == (COUNT + 1, COUNT, COUNT)
    assert found.verdicts == {"approve": QUARTER, "deny": 2 * QUARTER + 1, "escalate": QUARTER}
    assert (
        found.rules == {"size/beyond": 2 * QUARTER + 1, "size/usual": QUARTER, "default": QUARTER}
        and found.unused == ()
    )
    assert desk.read(lambda c: simulate(c, stricter, last=5)).events == 5
    with pytest.raises(InvalidInput):
        desk.read(lambda c: simulate(c, stricter, last=5, variant="nothing"))


def test_what_was_drawn_says_what_a_variant_is_worth(desk: Database) -> None:
    """The generous gives three of four; every estimate holds what it really earns, which nobody observed."""
    truth = sum(profit(place) for place in range(COUNT) if place % 4 < 3) / COUNT
    found = desk.read(
        lambda c: offpolicy.evaluate_policy(c, load(desk), last=COUNT, variant="generous", metric="profit")
    )
    assert (found.decisions, found.pending, found.given, found.beyond, found.modelled) == (
        COUNT,
        0,
        3 * QUARTER,
        0,
        None,
    )
    for estimate in (found.ips, found.snips, found.doubly_robust):
        assert estimate is not None and estimate.low <= truth <= estimate.high
    assert found.ips and found.doubly_robust and found.observed
    width = found.ips.high - found.ips.low
    assert found.doubly_robust.high - found.doubly_robust.low < width
    assert abs(found.doubly_robust.estimate - truth) < 2 and found.observed.estimate < truth
    assert 2 * QUARTER < found.effective < 3 * QUARTER


def test_what_was_never_given_is_modelled_and_said_to_be(desk: Database) -> None:
    published = desk.read(lambda c: policies.find(c, "desk.asked"))
    said = {"name": "desk.asked", "version": "1.1.0", "changelog": "Gives all.", **published.content["policy"]}
    lavish = check(json.dumps(said).replace("discount > 0.4", "false").replace("0.1", "1.0"), CASES).usable()
    found = desk.read(lambda c: offpolicy.evaluate_policy(c, lavish, last=COUNT, metric="profit"))
    truth = sum(profit(place) for place in range(COUNT) if place % 4 == 3) / QUARTER
    assert (found.given, found.beyond) == (COUNT, QUARTER)
    assert found.modelled == pytest.approx(truth, rel=0.1)


def test_savings_keep_apart_what_was_observed_and_what_was_not(desk: Database) -> None:
    found = desk.read(lambda c: estimates.savings(c, nodes.load(c, "desk"), metric="profit", last=COUNT))
    cases = {one.event_id.int - 1: one for one in desk.read(lambda c: list(logged.read(c, last=COUNT, node="desk")))}
    given = [place for place, one in cases.items() if one.effect == "approve"]
    assert found.observed.count == len(given) and found.observed.unknown == 0
    assert found.observed.total == pytest.approx(sum(map(profit, given)))
    missed = [place for place in cases if place % 4 == 2 and place not in given]
    assert found.overlap == len(missed) and found.weighted is not None
    # The draws are by chance: four standard errors instead of two.
    assert abs(found.weighted.estimate - sum(map(profit, missed))) <= found.weighted.high - found.weighted.low
    refused, waiting = found.not_given
    assert (refused.done, refused.count, refused.beyond) == ("refused", QUARTER, QUARTER)
    assert (waiting.done, waiting.count, waiting.beyond, waiting.models) == ("open", len(missed), 0, ())
    truth = sum(profit(place) for place in range(COUNT) if place % 4 == 3)
    models = {one.model: one.total for one in refused.models}
    assert truth < 0 and models["regression"].estimate == pytest.approx(truth, rel=0.1)
    assert models["regression"].low <= models["regression"].estimate <= models["regression"].high
    assert models["nearest"].estimate > 0, "neighbours do not go beyond the edge of what was given"


def test_what_cannot_be_evaluated_says_why(desk: Database) -> None:
    node = desk.read(lambda c: nodes.load(c, "desk"))
    with pytest.raises(InvalidInput, match="success, profit"):
        desk.read(lambda c: estimates.savings(c, node, metric="fame", last=10))
    with pytest.raises(Conflict):
        desk.read(lambda c: estimates.savings(c, node, metric="profit", last=4))
    with pytest.raises(InvalidInput):
        desk.read(lambda c: offpolicy.evaluate_policy(c, load(desk), last=10, variant="nothing"))
    with pytest.raises(Conflict):
        desk.read(lambda c: offpolicy.evaluate_policy(c, load(desk), last=1))


def test_a_shadow_says_what_a_candidate_would_have_decided(studio: tuple[Settings, Database], desk: Database) -> None:
    with pytest.raises(NotFound):
        desk.read(lambda c: shadow.compared(c, "desk"))
    published = desk.read(lambda c: policies.find(c, "desk.asked"))
    said = {"name": "desk.asked", "version": "2.0.0-rc.1", "changelog": "Else.", **published.content["policy"]}
    said["default"] = {"then": "deny", "reason": "It is unusual."}
    cases = [case for case in published.content["tests"] if case["name"] != "unusual"]
    tests = json.dumps({"cases": cases})
    with Ledger(desk.urls, studio[0]) as ledger:
        ledger.commit(desk.read(lambda c: policies.publish(c, ME, json.dumps(said), tests))).result(20)
        flag = desk.read(lambda c: flags.set_flag(c, ME, "desk", flags.SHADOW, "desk.asked@2.0.0-rc.1", "To see."))
        ledger.commit(flag).result(20)
    with desk.transaction() as connection:
        assert shadow.fill(connection) == 0, "what was decided before is none of its business"
        connection.execute("UPDATE node_flags SET set_at = '2020-01-01' WHERE flag = 'shadow'")
        assert (shadow.fill(connection), shadow.fill(connection)) == (COUNT, 0)
    compared = desk.read(lambda c: shadow.compared(c, "desk", last=COUNT))
    cells = {(one.before, one.after): one.count for one in compared.transitions}
    assert compared.compared == COUNT and ("escalate", "escalate") not in cells
    assert compared.verdicts == cells["escalate", "deny"] + cells.get(("approve", "deny"), 0)
    assert desk.read(lambda c: shadow.compared(c, "desk", policy="desk.asked@1.0.0")).compared == 0
    assert desk.read(replay_all).differing == ()
