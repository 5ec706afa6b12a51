"""A better variant becomes the baseline when a person approves it; a harmful one loses its traffic."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from stemma.access.permissions import Role
from stemma.access.principal import Principal, local_principal
from stemma.approvals import decisions
from stemma.approvals.catalog import get_approval
from stemma.approvals.model import Approval, Verdict
from stemma.errors import Conflict, Forbidden, InvalidInput, NotFound
from stemma.governance import nodes, policies
from stemma.governance.learning import catalog, promotion, tending
from stemma.governance.learning.catalog import Promotion, State
from stemma.governance.learning.standing import standing
from stemma.governance.learning.successor import former_name, successor
from stemma.ledger.change import Change
from stemma.ledger.service import Ledger
from stemma.registry.semver import Version
from stemma.store.database import Connection, Database
from stemma.store.settings import Settings

Commit = Callable[[Change[Any]], Any]
ME = local_principal()


@pytest.fixture
def desk(settings: Settings, database: Database, open_desk: Callable[..., None]) -> Database:
    """A node that has decided nothing yet."""
    open_desk(settings, database, 0)
    return database


def teach(database: Database, variant: str, successes: int, failures: int, policy: str = "desk.asked@1.0.0") -> None:
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO policy_variants_stats (node, policy, variant, successes, failures, updated_at)"
            " VALUES ('desk', %s, %s, %s, %s, now())",
            (policy, variant, successes, failures),
        )


def propose(connection: Connection) -> Change[Promotion]:
    return promotion.propose(connection, ME, nodes.load(connection, "desk"))


def decide(database: Database, commit: Commit, asked: Promotion, verdict: Verdict) -> Approval:
    seen = frozenset({database.read(lambda c: get_approval(c, asked.approval_id)).etag})
    made: Approval = commit(
        database.read(lambda c: decisions.decide(c, ME, asked.approval_id, verdict, reason="So it is.", seen=seen))
    )
    return made


def test_an_approved_variant_becomes_the_baseline(settings: Settings, desk: Database, commit: Commit) -> None:
    teach(desk, "baseline", 700, 300)
    teach(desk, "generous", 800, 200)
    asked = commit(desk.read(propose))
    approval = desk.read(lambda c: get_approval(c, asked.approval_id))
    assert "/policy/parameters/usual" in approval.diff and "better by 1.0%" in approval.reason
    with pytest.raises(Conflict):
        commit(desk.read(propose))
    assert desk.read(tending.due) == ()
    decide(desk, commit, asked, Verdict.APPROVE)
    with Ledger(desk.urls, settings) as ledger:
        assert (tending.tend(desk, ledger), tending.tend(desk, ledger)) == (1, 0)
    done = desk.read(lambda c: catalog.get_promotion(c, asked.id))
    assert (done.state, done.published) == (State.PUBLISHED, "desk.asked@1.1.0")
    published = desk.read(lambda c: policies.find(c, "desk.asked"))
    assert published.content["policy"]["parameters"] == {"usual": 0.2} and published.published_by == "studio"
    assert published.content["policy"]["variants"]["before-1-0-0"]["parameters"] == {"usual": 0.1}
    assert desk.read(lambda c: get_approval(c, asked.approval_id)).consumed_by == "studio"
    stand = desk.read(lambda c: standing(c, nodes.load(c, "desk")))
    assert stand.policy.version == "1.1.0" and [one.samples for one in stand.stats] == [0, 0]
    with desk.snapshot() as connection:
        kinds = connection.execute("SELECT kind FROM ledger WHERE chain = 'historian' ORDER BY seq").fetchall()
        topics = connection.execute("SELECT topic FROM notifications WHERE topic LIKE 'promotion%' ORDER BY created_at")
        assert topics.fetchall() == [("promotion.proposed",), ("promotion.published",)]
    assert ("promotion.proposed",) in kinds and ("promotion.published",) in kinds


@pytest.mark.parametrize("why", ["denied", "superseded"])
def test_what_is_denied_or_overtaken_is_declined_and_not_asked_again(desk: Database, commit: Commit, why: str) -> None:
    teach(desk, "baseline", 700, 300)
    teach(desk, "generous", 800, 200)
    asked = commit(desk.read(propose))
    if why == "superseded":
        content = desk.read(lambda c: policies.find(c, "desk.asked"))
        other = successor(content, "generous", version=Version(1, 5, 0), changelog="By hand.")
        commit(desk.read(lambda c: policies.publish(c, ME, other.policy, other.tests)))
    decide(desk, commit, asked, Verdict.DENY if why == "denied" else Verdict.APPROVE)
    (change,), (again,) = desk.read(tending.due), desk.read(tending.due)
    assert commit(change).state is State.DECLINED
    with pytest.raises(Conflict):
        commit(again)
    assert desk.read(lambda c: promotion.propose_due(c, ME, nodes.load(c, "desk"))) is None
    newest = desk.read(lambda c: policies.find(c, "desk.asked")).version
    assert newest == ("1.0.0" if why == "denied" else "1.5.0")
    assert [one.id for one in desk.read(lambda c: catalog.list_promotions(c, state=State.DECLINED)).data] == [asked.id]


def test_the_studio_proposes_by_itself_and_once(settings: Settings, desk: Database) -> None:
    teach(desk, "baseline", 700, 300)
    teach(desk, "generous", 800, 200)
    with Ledger(desk.urls, settings) as ledger:
        assert (tending.tend(desk, ledger), tending.tend(desk, ledger)) == (1, 0)
    (asked,) = desk.read(lambda c: catalog.list_promotions(c, node="desk")).data
    assert (asked.variant, asked.state, asked.evidence["candidate"]) == ("generous", State.PROPOSED, "generous")


def test_nothing_is_proposed_without_need_or_right(desk: Database) -> None:
    viewer = Principal("key:x", Role.VIEWER, frozenset({"decide:*"}))
    with pytest.raises(Conflict, match="0 of the 20 outcomes"):
        desk.read(propose)
    with pytest.raises(Forbidden):
        desk.read(lambda c: promotion.propose(c, viewer, nodes.load(c, "desk")))
    assert desk.read(lambda c: promotion.propose_due(c, ME, nodes.load(c, "desk"))) is None
    with pytest.raises(NotFound):
        desk.read(lambda c: catalog.get_promotion(c, UUID(int=1)))


def test_a_harmful_variant_loses_its_traffic_at_once(settings: Settings, desk: Database) -> None:
    teach(desk, "baseline", 700, 300)
    teach(desk, "generous", 20, 80)
    assert desk.read(lambda c: standing(c, nodes.load(c, "desk"))).propensities["generous"] == pytest.approx(0.05)
    with Ledger(desk.urls, settings) as ledger:
        assert (tending.tend(desk, ledger), tending.tend(desk, ledger)) == (1, 0)
    stand = desk.read(lambda c: standing(c, nodes.load(c, "desk")))
    assert stand.propensities == {"baseline": 1.0, "generous": 0.0}
    assert "worse by 5.0%" in str(stand.stats[1].stopped_why)


def test_a_node_that_cannot_be_looked_at_keeps_no_other_from_it(
    settings: Settings, desk: Database, commit: Commit, caplog: pytest.LogCaptureFixture
) -> None:
    written = desk.read(lambda c: policies.texts(policies.find(c, "desk.asked")))
    policy = written.policy.replace("desk.asked", "another.asked").replace("node: desk", "node: another")
    commit(desk.read(lambda c: policies.publish(c, ME, policy, written.tests)))
    content = desk.read(lambda c: nodes.load(c, "desk")).content() | {"policy": "another.asked"}
    another = json.dumps(content | {"name": "another", "version": "1.0.0", "changelog": "First."})
    commit(desk.read(lambda c: nodes.publish(c, ME, another)))
    with desk.transaction() as connection:
        connection.execute(
            "INSERT INTO node_flags (node, flag, value, reason, set_by, set_at)"
            " VALUES ('another', 'policy', '\"another.gone\"', 'A test.', 'test', now())"
        )
    teach(desk, "baseline", 700, 300)
    teach(desk, "generous", 20, 80)
    with Ledger(desk.urls, settings) as ledger:
        assert tending.tend(desk, ledger) == 1
    assert "nothing is learned at another" in caplog.text


def test_a_node_takes_no_policy_of_another(desk: Database) -> None:
    said = desk.read(lambda c: nodes.load(c, "desk")).content()
    another = json.dumps(said | {"name": "another", "version": "1.0.0", "changelog": "First."})
    with pytest.raises(InvalidInput, match="policy of the node desk"):
        desk.read(lambda c: nodes.publish(c, ME, another))


def test_a_successor_says_of_every_case_what_was_said(desk: Database) -> None:
    published = desk.read(lambda c: policies.find(c, "desk.asked"))
    made = successor(published, "generous", version=Version(1, 1, 0), changelog="Better.")
    cases = {case["name"]: case.get("variant") for case in json.loads(made.tests)["cases"]}
    assert cases == {"usual": "before-1-0-0", "unusual": "before-1-0-0", "unusual, for the generous": None}
    assert type(made).of_canonical(made.canonical) == made
    assert former_name("2.0.0-rc.1") == "before-2-0-0-rc-1"
    with pytest.raises(InvalidInput):
        successor(published, "nothing", version=Version(1, 1, 0), changelog="Better.")
