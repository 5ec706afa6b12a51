"""Any order of steps by anybody: an approval goes where its rules allow, and the ledger says each step once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from hypothesis import settings as budget
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from stemma.access.permissions import PERMISSIONS
from stemma.approvals.expiry import settle_due
from stemma.approvals.grants import consume
from stemma.approvals.model import Approval, State, Verdict
from stemma.approvals.requests import withdraw
from stemma.errors import StemmaError
from stemma.ledger.verification import verify
from stemma.store.database import Database
from stemma.store.settings import Settings

WHO = st.sampled_from(["bob", "rita", "rolf", "adam", "vera"])


@dataclass
class Expected:
    """What has to be true of one approval."""

    approval: Approval
    state: State = State.PENDING
    approvers: set[str] = field(default_factory=set)
    used: bool = False
    steps: list[str] = field(default_factory=lambda: ["requested"])


class Approvals(RuleBasedStateMachine):
    """The rules of approvals in the plainest words, beside the real ones."""

    desk: ClassVar[Any]
    approvals = Bundle("approvals")
    prepared = Bundle("prepared")

    def __init__(self) -> None:
        super().__init__()
        self.known: list[Expected] = []

    @rule(target=approvals, who=st.sampled_from(["bob", "adam"]), needed=st.sampled_from([1, 2]), second=st.booleans())
    def ask(self, who: str, needed: int, second: bool) -> Expected:
        asked = Expected(self.desk.ask(who, approvals_needed=needed, second_person=second))
        self.known.append(asked)
        return asked

    @rule(asked=approvals, who=WHO, verdict=st.sampled_from(Verdict), fresh=st.sampled_from([True, True, False]))
    def decide(self, asked: Expected, who: str, verdict: Verdict, fresh: bool) -> None:
        etag = None if fresh else "of another state"
        done = self._try(lambda: self.desk.decide(asked.approval, who, verdict, etag=etag))
        assert done == (fresh and self._may(asked, who))
        if done:
            self._decided(asked, who, verdict)

    @rule(target=prepared, asked=approvals, who=WHO, verdict=st.sampled_from(Verdict))
    def think(self, asked: Expected, who: str, verdict: Verdict) -> Any:
        """Decide on what is there now, to be committed only later."""
        if self._may(asked, who):
            return asked, who, verdict, len(asked.approvers), self.desk.prepare(asked.approval, who, verdict)
        return None

    @rule(thought=consumes(prepared))
    def commit(self, thought: Any) -> None:
        if thought is not None:
            asked, who, verdict, approvers, change = thought
            unchanged = asked.state is State.PENDING and len(asked.approvers) == approvers
            assert self._try(lambda: self.desk.commit(change)) == unchanged
            if unchanged:
                self._decided(asked, who, verdict)

    @rule(asked=approvals, who=WHO)
    def withdraw(self, asked: Expected, who: str) -> None:
        seen = frozenset({self.desk.get(asked.approval).etag})
        person = self.desk.people[who]
        done = self._try(
            lambda: self.desk.commit(
                self.desk.database.read(lambda c: withdraw(c, person, asked.approval.id, seen=seen))
            )
        )
        own = asked.approval.requested_by == person.actor or who == "adam"
        assert done == (asked.state is State.PENDING and own)
        if done:
            asked.state = State.WITHDRAWN
            asked.steps.append("withdrawn")

    @rule(asked=approvals)
    def pass_deadline(self, asked: Expected) -> None:
        if asked.state is State.PENDING:
            self.desk.pass_deadline(asked.approval.id)
            asked.state = State.EXPIRED

    @rule()
    def settle(self) -> None:
        due = [asked for asked in self.known if asked.state is State.EXPIRED and "expired" not in asked.steps]
        assert settle_due(self.desk.database, self.desk.ledger) == len(due)
        for asked in due:
            asked.steps.append("expired")

    @rule(asked=approvals, who=WHO)
    def use(self, asked: Expected, who: str) -> None:
        person = self.desk.people[who]
        done = self._try(
            lambda: self.desk.commit(self.desk.database.read(lambda c: consume(c, person, asked.approval.id)))
        )
        assert done == (asked.state is State.APPROVED and not asked.used)
        if done:
            asked.used = True
            asked.steps.append("consumed")

    @invariant()
    def reads_and_ledger_agree(self) -> None:
        for asked in self.known:
            read = self.desk.get(asked.approval)
            assert read.state is asked.state and (read.consumed_at is not None) == asked.used
            assert read.content_sha256 == asked.approval.content_sha256
            assert self.desk.steps(read) == asked.steps
            if read.state is State.APPROVED:
                approvers = {d.decided_by for d in read.decisions if d.verdict is Verdict.APPROVE}
                assert len(approvers) == len(read.decisions) == read.approvals_needed
                assert not (read.second_person and read.requested_by in approvers)
                assert all(given.decided_at < read.expires_at for given in read.decisions)

    def teardown(self) -> None:
        settle_due(self.desk.database, self.desk.ledger)
        for asked in self.known:
            if asked.state is State.EXPIRED and "expired" not in asked.steps:
                asked.steps.append("expired")
            for chain in ("approvals", "audit", "historian"):
                assert self.desk.steps(asked.approval, chain) == asked.steps

    def _may(self, asked: Expected, who: str) -> bool:
        person = self.desk.people[who]
        return (
            asked.state is State.PENDING
            and person.role in PERMISSIONS["approvals:decide"]
            and who not in asked.approvers
            and not (asked.approval.second_person and asked.approval.requested_by == person.actor)
        )

    def _decided(self, asked: Expected, who: str, verdict: Verdict) -> None:
        if verdict is Verdict.DENY:
            asked.state = State.DENIED
        else:
            asked.approvers.add(who)
            if len(asked.approvers) == asked.approval.approvals_needed:
                asked.state = State.APPROVED
        asked.steps.append("decided" if asked.state is State.PENDING else asked.state.value)

    @staticmethod
    def _try(call: Any) -> bool:
        try:
            call()
        except StemmaError:
            return False
        return True


def test_any_order_of_steps_keeps_the_rules(desk: Any, database: Database, settings: Settings) -> None:
    machine = type("Bound", (Approvals,), {"desk": desk})
    limits = budget(max_examples=20, stateful_step_count=15, deadline=None, derandomize=True)
    run_state_machine_as_test(machine, settings=limits)
    report = verify(database, settings)
    assert report.clean and report.entries > 100
