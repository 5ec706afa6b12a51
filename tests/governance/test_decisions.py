"""Deciding, with everything real but the clock: what takes effect, what waits, what stops it, and doing it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from stemma.access.permissions import SCOPES, Role
from stemma.access.principal import Principal, local_principal
from stemma.approvals import decisions as approving
from stemma.approvals.catalog import get_approval
from stemma.approvals.model import Verdict
from stemma.errors import Conflict, Forbidden, InvalidInput, NotFound, StemmaError
from stemma.governance import nodes, policies
from stemma.governance.decisions import catalog, flags, replaying, review
from stemma.governance.decisions.deciding import Asked, Decider, NodeStopped
from stemma.governance.decisions.model import Decision, State
from stemma.governance.events import types
from stemma.governance.events.model import NewEvent
from stemma.governance.policy import Level, Ruling
from stemma.ledger.change import Change
from stemma.ledger.service import Ledger
from stemma.ledger.verification import verify
from stemma.store.database import Database
from stemma.store.settings import Settings

EVENT_TYPE = """\
name: Asked
version: 1.0.0
changelog: First version.
description: Somebody asks for an amount.
schema: {type: object, required: [amount], properties: {amount: {type: number}, note: {type: string}}}
"""
AMOUNT = "amount: {type: number}"
POLICY = """\
name: finance.asked
version: 1.0.0
changelog: First version.
description: One of each level.
node: finance
events: [Asked]
inputs:
  amount: {type: number, from: /event/data/amount}
  confidence: {type: number, from: /context/confidence, default: 0}
parameters: {least: 10}
bundles:
  - id: size
    rules:
      - {id: small, when: amount < least, then: approve, reason: It is little.}
      - {id: middle, when: amount < 100.0, then: deny, reason: It is much.}
default: {then: escalate, reason: Nobody said how this is decided.}
autonomy:
  - {level: AL3, when: amount < 3.0 || amount > 50.0}
  - {level: AL2, when: amount < 6.0}
  - {level: AL1, when: amount < 9.0}
escalation: {to: finance, within_hours: 24, then: deny}
"""
CASES = """\
cases:
  - {name: little, event: {type: Asked, data: {amount: 1}}, expect: {verdict: approve, level: AL3, rules: [size/small]}}
"""
NODE = """\
name: finance
version: 1.0.0
changelog: First version.
description: What is asked for.
policy: finance.asked@1
entity: Who asks
events: {Asked: {text: [note]}}
reward: {metrics: {profit: number}, success: profit > 0.0, failure: profit <= 0.0}
"""
REVIEWER = Principal("key:rita", Role.REVIEWER, frozenset({"decide:*"}))
BUILDER = Principal("key:bob", Role.BUILDER, frozenset({"decide:*"}))
ADMIN = Principal("key:adam", Role.ADMIN, frozenset(f"{scope}:*" for scope in SCOPES))


@dataclass
class Desk:
    """Decisions as a face handles them."""

    database: Database
    ledger: Ledger
    decider: Decider

    def commit(self, change: Change[Any]) -> Any:
        return self.ledger.commit(change).result(20)

    def put(self, make: Callable[[Any], Change[Any]]) -> Any:
        return self.commit(self.database.read(make))

    def ask(self, amount: float, **named: Any) -> Decision:
        event = NewEvent("Asked", {"amount": amount, "note": "paper"}, **named)
        made: Decision = self.commit(self.decider.decide(BUILDER, "finance", event))
        return made

    def get(self, decision: Decision) -> Decision:
        return self.database.read(lambda c: catalog.get_decision(c, decision.id))

    def resolve(self, decision: Decision, verdict: str, reason: str = "As agreed.") -> Decision:
        made: Decision = self.put(lambda c: review.resolve(c, REVIEWER, decision.id, Verdict(verdict), reason))
        return made

    def decide_elsewhere(self, decision: Decision, verdict: Verdict) -> None:
        """Where approvals are decided, which knows nothing of decisions."""

        def decide(connection: Any) -> Change[Any]:
            assert decision.approval_id is not None
            seen = frozenset({get_approval(connection, decision.approval_id).etag})
            return approving.decide(connection, ADMIN, decision.approval_id, verdict, reason="Said.", seen=seen)

        self.put(decide)

    def flag(self, name: str, value: Any, node: str = "finance") -> None:
        self.put(lambda c: flags.set_flag(c, ADMIN, node, name, value, "A test."))

    def clear(self, name: str, node: str = "finance") -> None:
        self.put(lambda c: flags.clear_flag(c, ADMIN, node, name, "The test is over."))

    def pass_deadline(self, decision: Decision) -> None:
        """As if it had been asked long ago, which nobody but the table's owner can do."""
        with self.database.owner() as connection:
            connection.execute("ALTER TABLE approvals DISABLE TRIGGER frozen")
            connection.execute(
                "UPDATE approvals SET requested_at = now() - interval '2 days', expires_at = now() - interval '1 day'"
                " WHERE id = %s",
                (decision.approval_id,),
            )
            connection.execute("ALTER TABLE approvals ENABLE TRIGGER frozen")

    def kinds(self, decision: Decision) -> list[str]:
        query = "SELECT kind FROM ledger WHERE chain = 'decisions' AND subject = %s ORDER BY seq"
        rows = self.database.read(lambda c: c.execute(query, (f"decision/{decision.id}",)).fetchall())
        return [kind.removeprefix("decision.") for (kind,) in rows]


@pytest.fixture(scope="module")
def desk(studio: tuple[Settings, Database]) -> Iterator[Desk]:
    settings, database = studio
    with Ledger(database.urls, settings) as ledger:
        opened = Desk(database, ledger, Decider(database, settings))
        opened.put(lambda c: types.publish(c, local_principal(), EVENT_TYPE))
        opened.put(lambda c: policies.publish(c, local_principal(), POLICY, CASES))
        opened.put(lambda c: nodes.publish(c, local_principal(), NODE))
        yield opened


def code(call: Callable[[], Any]) -> str:
    with pytest.raises(StemmaError) as raised:
        call()
    return raised.value.code


def test_what_a_policy_decides_alone_takes_effect_and_the_rest_waits(
    desk: Desk, studio: tuple[Settings, Database]
) -> None:
    made = {amount: desk.ask(amount, entity="ada") for amount in (1, 4, 7, 9.5, 60, 20, 200)}
    said = {amount: (d.verdict, d.level, d.state, d.effect) for amount, d in made.items()}
    approve, deny = Ruling.APPROVE, Ruling.DENY
    assert said == {
        1: (approve, Level.AL3, State.FINAL, approve),
        4: (approve, Level.AL2, State.FINAL, approve),
        7: (approve, Level.AL1, State.WAITING, None),
        9.5: (approve, Level.AL0, State.WAITING, None),
        60: (deny, Level.AL3, State.FINAL, deny),
        20: (deny, Level.AL0, State.WAITING, None),
        200: (Ruling.ESCALATE, Level.AL0, State.WAITING, None),
    }
    for decision in made.values():
        assert desk.get(decision) == decision
        assert (decision.due_at is None) == (decision.approval_id is None) == (decision.state is State.FINAL)
    listed = desk.database.read(lambda c: catalog.list_decisions(c, entity="ada", limit=5))
    assert [one.id for one in listed.data] == [made[amount].id for amount in (200, 20, 60, 9.5, 7)]
    first = desk.database.read(lambda c: catalog.list_waiting(c, limit=3))
    rest = desk.database.read(lambda c: catalog.list_waiting(c, cursor=first.next_cursor, limit=200))
    waiting = [one.id for one in (*first.data, *rest.data) if one.entity == "ada"]
    assert waiting == [made[amount].id for amount in (7, 9.5, 20, 200)]
    query = "SELECT count(*) FROM notifications WHERE data ->> 'decision' = %s"
    told = {
        amount: desk.database.read(lambda c, d=d: c.execute(query, (str(d.id),)).fetchone())
        for amount, d in made.items()
    }
    assert [amount for amount, (count,) in told.items() if count] == [4]
    assert verify(desk.database, studio[0]).clean


def test_a_person_decides_what_waits(desk: Desk) -> None:
    confirmed = desk.resolve(desk.ask(7), "approve", "")
    assert (confirmed.state, confirmed.effect, confirmed.settled_by) == (State.RESOLVED, Ruling.APPROVE, "key:rita")
    overruled = desk.resolve(desk.ask(20), "approve")
    assert (overruled.verdict, overruled.effect) == (Ruling.DENY, Ruling.APPROVE)
    refused = desk.resolve(desk.ask(200), "deny", "Not this year.")
    assert desk.get(refused) == refused and refused.settled_reason == "Not this year."
    assert desk.kinds(refused) == ["decided", "resolved"]
    assert code(lambda: desk.resolve(refused, "approve")) == "decision_not_waiting"
    assert code(lambda: desk.resolve(desk.ask(1), "deny")) == "decision_not_waiting"
    waiting = desk.ask(200)
    assert code(lambda: desk.resolve(waiting, "deny", "")) == "reason_missing"
    with pytest.raises(Forbidden):
        desk.put(lambda c: review.resolve(c, BUILDER, waiting.id, Verdict.APPROVE, ""))
    with pytest.raises(NotFound):
        desk.put(lambda c: review.resolve(c, REVIEWER, uuid4(), Verdict.APPROVE, ""))


def test_of_two_who_decide_at_once_one_does(desk: Desk) -> None:
    waiting = desk.ask(200)
    changes = [
        desk.database.read(lambda c, who=who, said=said: review.resolve(c, who, waiting.id, Verdict(said), "So."))
        for who, said in ((REVIEWER, "approve"), (ADMIN, "deny"), (REVIEWER, "approve"))
    ]
    assert desk.commit(changes[0]).effect is Ruling.APPROVE
    for late in changes[1:]:
        with pytest.raises(Conflict):
            desk.commit(late)
    assert desk.get(waiting).effect is Ruling.APPROVE and desk.kinds(waiting) == ["decided", "resolved"]


def test_an_approval_that_is_decided_elsewhere_decides_the_same(desk: Desk) -> None:
    waiting = desk.ask(200)
    assert review.settle_due(desk.database, desk.ledger) == 0

    desk.decide_elsewhere(waiting, Verdict.APPROVE)
    assert [review.settle_due(desk.database, desk.ledger) for _ in range(2)] == [1, 0]
    after = desk.get(waiting)
    assert (after.state, after.effect, after.settled_by) == (State.RESOLVED, Ruling.APPROVE, "key:adam")


def test_silence_denies(desk: Desk) -> None:
    waiting = desk.ask(7)
    desk.pass_deadline(waiting)
    assert code(lambda: desk.resolve(waiting, "approve")) == "approval_expired"
    assert [review.settle_due(desk.database, desk.ledger) for _ in range(2)] == [1, 0]
    after = desk.get(waiting)
    assert (after.state, after.effect, after.settled_by) == (State.LAPSED, Ruling.DENY, "studio")
    assert desk.kinds(waiting) == ["decided", "lapsed"]


def test_silence_asks_again_where_the_policy_says_so(desk: Desk) -> None:
    again = POLICY.replace("then: deny}", "then: escalate}").replace("finance.asked", "finance.again")
    desk.put(lambda c: policies.publish(c, local_principal(), again, CASES))
    desk.flag("policy", "finance.again")
    waiting = desk.ask(7)
    desk.clear("policy")
    assert (waiting.policy, waiting.on_silence) == ("finance.again", "escalate")
    desk.pass_deadline(waiting)
    assert [review.settle_due(desk.database, desk.ledger) for _ in range(2)] == [1, 0]
    after = desk.get(waiting)
    assert after.state is State.WAITING and after.approval_id != waiting.approval_id
    assert after.due_at and waiting.due_at and after.due_at > waiting.due_at - timedelta(seconds=1)
    assert desk.resolve(after, "approve").effect is Ruling.APPROVE
    assert desk.kinds(waiting) == ["decided", "asked_again", "resolved"]


def test_many_are_decided_together_and_what_is_wrong_with_one_is_its_own(desk: Desk) -> None:
    viewer = Principal("key:eve", Role.VIEWER, frozenset({"decide:read"}))
    recorded = desk.ask(60).event_id
    new = [NewEvent("Asked", {"amount": amount}) for amount in (1, 7)]
    unknown = uuid4()
    asked = [
        Asked(BUILDER, "finance", new[0]),
        Asked(viewer, "finance", new[0]),
        Asked(BUILDER, "finance", NewEvent("Asked", {"amount": "much"})),
        Asked(BUILDER, "nowhere", new[0]),
        Asked(BUILDER, "finance", recorded),
        Asked(BUILDER, "finance", unknown),
        Asked(BUILDER, "finance", new[1]),
    ]
    decided = desk.decider.decide_all(asked)
    codes = [one.code if isinstance(one, StemmaError) else None for one in decided]
    assert codes == [None, "role_forbidden", "event_data_invalid", "node_unknown", None, "event_unknown", None]
    made = [desk.commit(one) for one in decided if isinstance(one, Change)]
    assert [(one.event_id, one.effect) for one in made] == [
        (new[0].id, Ruling.APPROVE),
        (recorded, Ruling.DENY),
        (new[1].id, None),
    ]
    assert [desk.get(one).verdict_sha256 for one in made] == [one.verdict_sha256 for one in made]
    assert desk.decider.decide_all([]) == []


@pytest.mark.parametrize("node", ["finance", "*"])
def test_a_stopped_node_approves_nothing(desk: Desk, node: str) -> None:
    before = desk.decider.decide(BUILDER, "finance", NewEvent("Asked", {"amount": 1}))
    denial = desk.decider.decide(BUILDER, "finance", NewEvent("Asked", {"amount": 60}))
    desk.flag("stopped", True, node)
    with pytest.raises(NodeStopped):
        desk.commit(before)
    assert desk.commit(denial).effect is Ruling.DENY
    stopped = desk.ask(1)
    assert (stopped.verdict, stopped.level, stopped.state) == (Ruling.ESCALATE, Level.AL0, State.WAITING)
    assert [reason.rule for reason in stopped.reasons] == ["flag/stopped", "size/small"]
    assert desk.database.read(lambda c: replaying.again(c, stopped.id)).sha256 == stopped.verdict_sha256
    assert [flag.value for flag in desk.database.read(flags.list_flags)] == [True]
    desk.clear("stopped", node)
    assert desk.ask(1).effect is Ruling.APPROVE


@pytest.mark.parametrize("node", ["finance", "*"])
def test_while_a_node_is_stopped_a_person_can_only_deny(desk: Desk, node: str) -> None:
    to_approve, to_deny, prepared = desk.ask(7), desk.ask(7), desk.ask(7)
    before = desk.database.read(lambda c: review.resolve(c, REVIEWER, prepared.id, Verdict.APPROVE, ""))
    desk.flag("stopped", True, node)
    for approve in (lambda: desk.resolve(to_approve, "approve"), lambda: desk.commit(before)):
        with pytest.raises(Conflict) as refused:
            approve()
        assert refused.value.code == "node_stopped" and "Release the switch" in (refused.value.hint or "")
    for waiting in (to_approve, prepared):
        assert desk.get(waiting) == waiting and desk.kinds(waiting) == ["decided"]
    assert desk.resolve(to_deny, "deny").effect is Ruling.DENY
    desk.clear("stopped", node)
    assert desk.resolve(to_approve, "approve").effect is Ruling.APPROVE


def test_an_approval_given_elsewhere_waits_for_the_switch(desk: Desk) -> None:
    approved, denied, overdue = (desk.ask(7) for _ in range(3))
    desk.flag("stopped", True)
    desk.decide_elsewhere(approved, Verdict.APPROVE)
    desk.decide_elsewhere(denied, Verdict.DENY)
    desk.pass_deadline(overdue)
    assert [review.settle_due(desk.database, desk.ledger) for _ in range(2)] == [2, 0]
    assert desk.database.read(review.due) == ()
    assert [desk.get(one).effect for one in (approved, denied, overdue)] == [None, Ruling.DENY, Ruling.DENY]
    desk.clear("stopped")
    due = desk.database.read(review.due)
    desk.flag("stopped", True)
    for change in due:
        with pytest.raises(Conflict):
            desk.commit(change)
    desk.clear("stopped")
    assert len(due) == 1 == review.settle_due(desk.database, desk.ledger)
    assert desk.get(approved).effect is Ruling.APPROVE and desk.kinds(approved) == ["decided", "resolved"]


def test_a_later_version_that_is_of_another_node_decides_nothing(desk: Desk) -> None:
    named = POLICY.replace("finance.asked", "moved.asked")
    desk.put(lambda c: policies.publish(c, local_principal(), named.replace("node: finance", "node: moved"), CASES))
    there = NODE.replace("name: finance", "name: moved").replace("finance.asked", "moved.asked")
    desk.put(lambda c: nodes.publish(c, local_principal(), there))
    elsewhere = named.replace("version: 1.0.0", "version: 1.1.0")
    desk.put(lambda c: policies.publish(c, local_principal(), elsewhere, CASES))
    asked = NewEvent("Asked", {"amount": 1, "note": "paper"})
    assert code(lambda: desk.decider.decide(BUILDER, "moved", asked)) == "policy_of_another_node"


def test_flags_take_what_they_can_use(desk: Desk) -> None:
    other = POLICY.replace("finance.asked", "finance.strict").replace("least: 10", "least: 0")
    strict = CASES.replace("verdict: approve", "verdict: deny").replace("size/small", "size/middle")
    desk.put(lambda c: policies.publish(c, local_principal(), other, strict))
    desk.flag("policy", "finance.strict@1")
    assert desk.ask(1).policy_reference == "finance.strict@1.0.0"
    desk.clear("policy")
    assert desk.ask(1).policy_reference == "finance.asked@1.0.0"
    assert code(lambda: desk.flag("stopped", "yes")) == "flag_value_invalid"
    assert code(lambda: desk.flag("policy", "finance.nothing")) == "policy_unknown"
    assert code(lambda: desk.flag("policy", "finance.strict", "*")) == "flag_value_invalid"
    assert code(lambda: desk.flag("nothing", True)) == "flag_unknown"
    assert code(lambda: desk.flag("stopped", True, "nowhere")) == "node_unknown"
    assert code(lambda: desk.clear("stopped", "*")) == "flag_not_set"
    assert code(lambda: desk.put(lambda c: flags.set_flag(c, ADMIN, "*", "stopped", True, " "))) == "reason_missing"
    assert code(lambda: desk.put(lambda c: flags.set_flag(c, BUILDER, "*", "stopped", True, "Me."))) == "role_forbidden"


def test_what_cannot_be_decided_is_refused_and_records_nothing(desk: Desk) -> None:
    def ask(kind: str, data: dict[str, Any], node: str = "finance", who: Principal = BUILDER) -> None:
        desk.commit(desk.decider.decide(who, node, NewEvent(kind, data)))

    count = "SELECT count(*) FROM events WHERE type <> 'Other'"
    before = desk.database.read(lambda c: c.execute(count).fetchone())
    assert code(lambda: ask("Asked", {"amount": "much"})) == "event_data_invalid"
    assert code(lambda: ask("Unknown", {"amount": 1})) == "event_type_unknown"
    assert code(lambda: ask("Asked", {"amount": 1}, "nowhere")) == "node_unknown"
    assert code(lambda: ask("Asked", {"amount": 1}, "No Node")) == "name_invalid"
    assert code(lambda: ask("Asked", {"amount": 1}, who=REVIEWER)) == "role_forbidden"
    with pytest.raises(NotFound):
        desk.decider.decide(BUILDER, "finance", uuid4())
    desk.put(lambda c: types.publish(c, local_principal(), EVENT_TYPE.replace("name: Asked", "name: Other")))
    with pytest.raises(InvalidInput, match="does not decide"):
        ask("Other", {"amount": 1})
    wider = NODE.replace("Asked: {text: [note]}", "Asked: {text: [note]}, Other: {text: []}")
    desk.put(lambda c: nodes.publish(c, local_principal(), wider.replace("version: 1.0.0", "version: 1.1.0")))
    other = desk.commit(desk.decider.decide(BUILDER, "finance", NewEvent("Other", {"amount": 1})))
    assert (other.verdict, other.node_version) == (Ruling.ESCALATE, "1.1.0")
    assert desk.database.read(lambda c: c.execute(count).fetchone()) == before


def test_a_recorded_event_is_decided_by_its_id(desk: Desk) -> None:
    first = desk.ask(1, correlation_id="order-1", occurred_at=datetime(2026, 1, 2, tzinfo=UTC))
    second = desk.commit(desk.decider.decide(BUILDER, "finance", first.event_id))
    assert second.event == first.event and second.id != first.id
    found = desk.database.read(lambda c: catalog.list_decisions(c, event_id=first.event_id, correlation_id="order-1"))
    assert [one.id for one in found.data] == [second.id, first.id]


def test_a_later_version_of_an_event_s_type_holds_at_once(desk: Desk) -> None:
    assert desk.ask(1).state is State.FINAL
    narrow = "amount: {type: number, maximum: 2}"
    desk.put(lambda c: types.publish(c, ADMIN, EVENT_TYPE.replace("1.0.0", "1.1.0").replace(AMOUNT, narrow)))
    assert code(lambda: desk.ask(4)) == "event_data_invalid"
    desk.put(lambda c: types.publish(c, ADMIN, EVENT_TYPE.replace("1.0.0", "1.2.0")))
    assert desk.ask(4).level is Level.AL2


def test_what_was_decided_cannot_be_changed(desk: Desk) -> None:
    decision = desk.ask(1)
    for change in ("UPDATE decisions SET effect = 'deny'", "DELETE FROM decisions", "DELETE FROM decision_contexts"):
        with pytest.raises(psycopg.Error), desk.database.transaction() as connection:
            connection.execute(change)
    assert desk.get(decision).effect is Ruling.APPROVE


def test_every_decision_can_be_made_again(desk: Desk) -> None:
    kept = POLICY.replace("finance.asked", "finance.kept")
    newer = kept.replace("least: 10", "least: 0").replace("version: 1.0.0", "version: 1.1.0")
    denied = CASES.replace("verdict: approve", "verdict: deny").replace("size/small", "size/middle")
    desk.put(lambda c: policies.publish(c, local_principal(), kept, CASES))
    desk.flag("policy", "finance.kept")
    made = [desk.ask(amount) for amount in (1, 4.5, 7, 20, 200, 1e-7, 0.1 + 0.2, 12345678901)]
    desk.flag("stopped", True)
    made.append(desk.ask(2))
    desk.clear("stopped")
    desk.clear("policy")
    desk.put(lambda c: policies.publish(c, local_principal(), newer, denied))
    again = {one.id: desk.database.read(lambda c, one=one: replaying.again(c, one.id)).sha256 for one in made}
    assert again == {one.id: one.verdict_sha256 for one in made}
    replayed = desk.database.read(replaying.replay_all)
    assert replayed.decisions >= len(made) and replayed.differing == ()
