"""A ledger, a few people, asking for an approval, and a deadline that passes when a test says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from stemma.access.permissions import SCOPES, Role
from stemma.access.principal import Principal
from stemma.approvals.catalog import get_approval
from stemma.approvals.decisions import decide
from stemma.approvals.model import Approval, Verdict
from stemma.approvals.requests import Proposal, request
from stemma.errors import StemmaError
from stemma.ledger.change import Change
from stemma.ledger.service import Ledger
from stemma.store.database import Database
from stemma.store.settings import Settings

PROPOSAL = Proposal(
    kind="publish",
    subject="policy/refunds",
    content=b"limit: 100\n",
    reason="As agreed.",
    diff="-limit: 50\n+limit: 100",
)


def person(name: str, role: Role) -> Principal:
    return Principal(f"key:{name}", role, frozenset(f"{scope}:*" for scope in SCOPES))


@pytest.fixture(scope="session")
def people() -> dict[str, Principal]:
    """Somebody of each kind that matters to approvals."""
    roles = {"bob": Role.BUILDER, "rita": Role.REVIEWER, "rolf": Role.REVIEWER, "adam": Role.ADMIN, "vera": Role.VIEWER}
    return {name: person(name, role) for name, role in roles.items()}


@pytest.fixture
def ledger(database: Database, settings: Settings) -> Iterator[Ledger]:
    """The process's ledger."""
    with Ledger(database.urls, settings) as opened:
        yield opened


class Desk:
    """Approvals as a face handles them: prepare in a snapshot, commit through the ledger."""

    def __init__(
        self, database: Database, ledger: Ledger, people: dict[str, Principal], pass_deadline: Callable[..., None]
    ) -> None:
        self.database = database
        self.ledger = ledger
        self.people = people
        self.pass_deadline = pass_deadline

    def commit(self, change: Change[Any]) -> Any:
        return self.ledger.commit(change).result(20)

    def ask(self, who: str = "bob", **changed: Any) -> Approval:
        proposal = replace(PROPOSAL, **changed)
        return self.commit(self.database.read(lambda c: request(c, self.people[who], proposal)))

    def get(self, approval: Approval) -> Approval:
        return self.database.read(lambda c: get_approval(c, approval.id))

    def prepare(self, approval: Approval, who: str, verdict: str = "approve", *, etag: str | None = None) -> Any:
        seen = frozenset({self.get(approval).etag if etag is None else etag})
        given = Verdict(verdict)
        return self.database.read(
            lambda c: decide(c, self.people[who], approval.id, given, reason="I read it.", seen=seen)
        )

    def decide(self, approval: Approval, who: str, verdict: str = "approve", *, etag: str | None = None) -> Approval:
        return self.commit(self.prepare(approval, who, verdict, etag=etag))

    def entries(self, approval: Approval, chain: str = "approvals") -> list[tuple[str, bytes]]:
        """Kind and body of the ledger's entries about an approval, in their order."""
        query = "SELECT kind, body FROM ledger WHERE chain = %s AND subject = %s ORDER BY seq"
        return self.database.read(
            lambda c: [(kind, bytes(body)) for kind, body in c.execute(query, (chain, f"approval:{approval.id}"))]
        )

    def steps(self, approval: Approval, chain: str = "approvals") -> list[str]:
        return [kind.removeprefix("approval.") for kind, _ in self.entries(approval, chain)]


@pytest.fixture
def desk(database: Database, ledger: Ledger, people: dict[str, Principal], pass_deadline: Callable[..., None]) -> Desk:
    """Asking and deciding."""
    return Desk(database, ledger, people, pass_deadline)


@pytest.fixture
def refused() -> Callable[..., None]:
    """The call has to raise a typed error with this code."""

    def expect(code: str, call: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        with pytest.raises(StemmaError) as raised:
            call(*arguments, **named)
        assert raised.value.code == code

    return expect
