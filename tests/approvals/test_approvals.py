"""Asking, deciding, withdrawing and using an approval: who may, on which bytes, how often, and what is recorded."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.approvals.catalog import get_content, list_approvals
from stemma.approvals.expiry import expire_due, settle_due
from stemma.approvals.grants import consume, require_approved
from stemma.approvals.model import Risk, State
from stemma.approvals.requests import MAX_CONTENT_BYTES, withdraw
from stemma.errors import Conflict, PreconditionFailed
from stemma.ledger.change import Change
from stemma.ledger.entries import NewEntry
from stemma.ledger.service import Ledger
from stemma.ledger.writer import Statement
from stemma.store.settings import Settings

Refused = Callable[..., None]


def test_what_is_asked_for_is_kept_to_the_byte_and_every_step_recorded(desk: Any) -> None:
    content = bytes(range(256))
    asked = desk.ask(content=content, media_type="image/png", risk=Risk.HIGH)
    assert asked == desk.get(asked)
    assert asked.state is State.PENDING and asked.requested_by == "key:bob"
    assert asked.expires_at - asked.requested_at == timedelta(days=3)
    kept = desk.database.read(lambda c: get_content(c, asked.id))
    assert (kept.data, kept.media_type, kept.sha256) == (content, "image/png", hashlib.sha256(content).hexdigest())

    approved = desk.decide(asked, "rita")
    assert approved == desk.get(asked)
    assert approved.state is State.APPROVED and approved.etag != asked.etag
    assert [(d.decided_by, d.role) for d in approved.decisions] == [("key:rita", Role.REVIEWER)]
    for chain in ("approvals", "audit", "historian"):
        assert desk.steps(asked, chain) == ["requested", "approved"]
    data = json.loads(desk.entries(asked)[1][1])["data"]
    assert data["sha256"] == asked.content_sha256 and data["risk"] == "high"
    assert data["diff_sha256"] == hashlib.sha256(asked.diff.encode()).hexdigest()
    assert (data["verdict"], data["reason"], data["role"]) == ("approve", "I read it.", "Reviewer")


def test_nothing_leaves_a_final_state(desk: Any, refused: Refused) -> None:
    asked = desk.ask()
    denied = desk.decide(asked, "adam", "deny")
    assert denied.state is State.DENIED
    refused("approval_settled", desk.decide, asked, "rita")
    seen = frozenset({denied.etag})
    refused("approval_settled", desk.database.read, lambda c: withdraw(c, desk.people["bob"], asked.id, seen=seen))
    refused("not_approved", desk.database.read, lambda c: consume(c, desk.people["bob"], asked.id))
    assert desk.steps(asked) == ["requested", "denied"]


def test_nobody_decides_what_they_did_not_see(desk: Any, refused: Refused) -> None:
    asked, other = desk.ask(approvals_needed=2), desk.ask(approvals_needed=2)
    for etag in ("", "x", asked.content_sha256, other.etag, f'"{asked.etag}"'):
        refused("approval_changed", desk.decide, asked, "rita", etag=etag)
    desk.decide(asked, "rita", etag=asked.etag)
    refused("approval_changed", desk.decide, asked, "rolf", etag=asked.etag)


def test_two_different_people_are_needed_where_two_are_asked_for(desk: Any, refused: Refused) -> None:
    asked = desk.ask(approvals_needed=2)
    half = desk.decide(asked, "rita")
    assert half.state is State.PENDING and half.settled_at is None
    refused("already_decided", desk.decide, asked, "rita")
    assert desk.decide(asked, "rolf").state is State.APPROVED
    assert desk.steps(asked) == ["requested", "decided", "approved"]
    denied = desk.ask(approvals_needed=2)
    desk.decide(denied, "rita")
    assert desk.decide(denied, "rolf", "deny").state is State.DENIED


def test_who_may_decide(desk: Any, refused: Refused) -> None:
    asked = desk.ask("adam", second_person=True)
    refused("second_person_needed", desk.decide, asked, "adam")
    refused("second_person_needed", desk.decide, asked, "adam", "deny")
    refused("role_forbidden", desk.decide, asked, "bob")
    refused("role_forbidden", desk.decide, asked, "vera")
    for_admins = desk.ask(deciders=(Role.ADMIN,))
    refused("role_forbidden", desk.decide, for_admins, "rita")
    assert desk.decide(for_admins, "adam").state is State.APPROVED
    scopeless = Principal("key:none", Role.OWNER, frozenset({"search:*"}))
    desk.people = {**desk.people, "none": scopeless}
    refused("scope_missing", desk.decide, asked, "none")


def test_only_who_asked_or_an_admin_withdraws(desk: Any, refused: Refused) -> None:
    def take_back(asked: Any, who: str, etag: str) -> Any:
        seen = frozenset({etag})
        return desk.commit(desk.database.read(lambda c: withdraw(c, desk.people[who], asked.id, seen=seen)))

    first, second = desk.ask(), desk.ask()
    refused("approval_of_another", take_back, first, "rita", first.etag)
    refused("approval_changed", take_back, first, "bob", second.etag)
    assert take_back(first, "bob", first.etag).state is State.WITHDRAWN
    assert take_back(second, "adam", second.etag).state is State.WITHDRAWN
    assert desk.steps(first) == desk.steps(second) == ["requested", "withdrawn"]


UNUSABLE = [
    ("kind_invalid", {"kind": "Publish it"}),
    ("subject_invalid", {"subject": ""}),
    ("subject_invalid", {"subject": "a\nb"}),
    ("media_type_invalid", {"media_type": "text/html\r\nSet-Cookie: a=b"}),
    ("media_type_invalid", {"media_type": "html"}),
    ("content_too_large", {"content": bytes(MAX_CONTENT_BYTES + 1)}),
    ("diff_too_long", {"diff": "x" * (1 << 19)}),
    ("text_invalid", {"diff": "a\0b"}),
    ("text_invalid", {"reason": "half \ud800"}),
    ("reason_missing", {"reason": " \n"}),
    ("approvals_needed_invalid", {"approvals_needed": 3}),
    ("lifetime_invalid", {"lifetime": timedelta(seconds=1)}),
    ("lifetime_invalid", {"lifetime": timedelta.max}),
    ("decider_invalid", {"deciders": (Role.ADMIN, Role.VIEWER)}),
]


def test_what_cannot_be_asked_for_is_named(desk: Any, refused: Refused) -> None:
    for code, changed in UNUSABLE:
        refused(code, desk.ask, **changed)
    assert desk.database.read(list_approvals).data == ()


def test_the_largest_request_is_taken(desk: Any) -> None:
    asked = desk.ask(
        content=b"\xff" * MAX_CONTENT_BYTES, diff="ż" * (1 << 18), reason="ż" * 4000, lifetime=timedelta(days=90)
    )
    assert desk.get(asked) == asked and asked.size == MAX_CONTENT_BYTES


def test_what_people_wrote_is_redacted_in_the_ledger_and_kept_in_the_table(desk: Any) -> None:
    asked = desk.ask(
        subject="mail/bob@example.org",
        reason="Ask bob@example.org",
        diff="+password: hunter2",
        content=b"bob@example.org",
    )
    denied = desk.decide(asked, "rita", "deny")
    bodies = [body for chain in ("approvals", "audit", "historian") for _, body in desk.entries(asked, chain)]
    assert len(bodies) == 6
    assert not any(word in body for body in bodies for word in (b"bob@", b"hunter2"))
    assert b'"reason":"Ask [email]"' in bodies[0] and b'"subject":"mail/[email]"' in bodies[0]
    assert (denied.subject, denied.reason, denied.diff) == (asked.subject, "Ask bob@example.org", "+password: hunter2")


def test_the_deadline_counts_as_a_denial_before_anybody_settled_it(desk: Any, refused: Refused) -> None:
    asked = desk.ask()
    desk.pass_deadline(asked.id)
    read = desk.get(asked)
    assert read.state is State.EXPIRED and read.settled_at == read.expires_at
    refused("approval_expired", desk.decide, asked, "rita")
    assert desk.database.read(lambda c: list_approvals(c, state=State.PENDING)).data == ()
    assert [a.id for a in desk.database.read(lambda c: list_approvals(c, state=State.EXPIRED)).data] == [asked.id]
    assert desk.steps(asked) == ["requested"]
    assert settle_due(desk.database, desk.ledger) == 1
    assert desk.get(asked) == read and desk.steps(asked) == ["requested", "expired"]
    assert json.loads(desk.entries(asked)[1][1])["actor"] == "studio"
    assert settle_due(desk.database, desk.ledger) == 0 and desk.steps(asked, "historian") == ["requested", "expired"]


def test_the_deciding_transaction_asks_the_clock(desk: Any) -> None:
    asked = desk.ask()
    too_late = desk.prepare(asked, "rita")
    desk.pass_deadline(asked.id)
    with pytest.raises(PreconditionFailed):
        desk.commit(too_late)
    assert desk.get(asked).decisions == () and desk.steps(asked) == ["requested"]


def test_what_expired_is_settled_once_however_many_look(desk: Any, settings: Settings) -> None:
    asked = [desk.ask() for _ in range(5)]
    for approval in asked:
        desk.pass_deadline(approval.id)
    with Ledger(desk.database.urls, settings) as other, ThreadPoolExecutor(8) as threads:
        ledgers = [desk.ledger, other] * 4
        written = list(threads.map(lambda ledger: settle_due(desk.database, ledger), ledgers))
    assert sum(written) == 5 and desk.database.read(expire_due) == ()
    assert [desk.steps(approval) for approval in asked] == [["requested", "expired"]] * 5


def test_of_sixteen_deciders_at_once_one_has_the_say(desk: Any, settings: Settings) -> None:
    desk.people = {
        f"p{n}": Principal(f"key:p{n}", Role.REVIEWER, frozenset({"approvals:*"})) for n in range(16)
    } | desk.people
    asked = desk.ask()
    changes = [desk.prepare(asked, f"p{n}", ("approve", "deny")[n % 2], etag=asked.etag) for n in range(16)]
    with Ledger(desk.database.urls, settings) as other:
        futures = [(desk.ledger, other)[n % 2].commit(change) for n, change in enumerate(changes)]
        errors = [future.exception(20) for future in futures]
    assert Counter(type(error) for error in errors) == {type(None): 1, PreconditionFailed: 15}
    (winner,) = (future.result() for future, error in zip(futures, errors, strict=True) if error is None)
    assert desk.get(asked) == winner and len(winner.decisions) == 1
    assert desk.steps(asked) == ["requested", winner.state]


def test_of_two_who_approve_the_same_state_one_has_to_look_again(desk: Any) -> None:
    asked = desk.ask(approvals_needed=2)
    first, second = (desk.prepare(asked, who, etag=asked.etag) for who in ("rita", "rolf"))
    assert desk.commit(first).state is State.PENDING
    with pytest.raises(PreconditionFailed):
        desk.commit(second)
    assert desk.decide(asked, "rolf").state is State.APPROVED


def test_who_decides_twice_at_once_decides_once(desk: Any) -> None:
    asked = desk.ask()
    first, second = (desk.prepare(asked, "rita", etag=asked.etag) for _ in range(2))
    assert desk.commit(first).state is State.APPROVED
    with pytest.raises(PreconditionFailed, match="meanwhile"):
        desk.commit(second)
    assert len(desk.get(asked).decisions) == 1 and desk.steps(asked) == ["requested", "approved"]


def test_an_approval_is_of_exactly_these_bytes_for_this_use(desk: Any, refused: Refused) -> None:
    use = {"kind": "publish", "subject": "policy/refunds"}

    def usable(sha256: str, **changed: str) -> Any:
        return desk.database.read(lambda c: require_approved(c, **{**use, **changed}, content_sha256=sha256))

    asked = desk.ask()
    refused("not_approved", usable, asked.content_sha256)
    approved = desk.decide(asked, "rita")
    desk.decide(desk.ask(), "rita", "deny")
    assert usable(asked.content_sha256) == approved
    refused("not_approved", usable, hashlib.sha256(b"limit: 1000\n").hexdigest())
    refused("not_approved", usable, asked.content_sha256, kind="delete")
    refused("not_approved", usable, asked.content_sha256, subject="policy/other")
    desk.commit(desk.database.read(lambda c: consume(c, desk.people["bob"], asked.id)))
    refused("not_approved", usable, asked.content_sha256)
    refused("approval_used", desk.database.read, lambda c: consume(c, desk.people["bob"], asked.id))
    assert desk.steps(asked) == ["requested", "approved", "consumed"]


def test_a_use_and_what_it_allows_commit_together_and_once(desk: Any) -> None:
    with desk.database.owner() as connection:
        connection.execute("CREATE TABLE published (seq bigint, subject text PRIMARY KEY)")

    def publish(subject: str) -> Change[str]:
        entry = NewEntry("releases", "published", "key:bob", subject, {})
        insert = Statement("INSERT INTO published VALUES (%s, %s)", lambda stored: (stored[-1].seq, subject))
        return Change((entry,), (insert,), lambda stored: f"{subject} as {stored[0].chain} {stored[0].seq}")

    def used_for(approval: Any, subject: str) -> Any:
        taken = desk.database.read(lambda c: consume(c, desk.people["bob"], approval.id))
        return publish(subject).joined(taken)

    first, second = (desk.decide(desk.ask(), "rita") for _ in range(2))
    tries = [used_for(first, f"page/{n}") for n in range(16)]
    futures = [desk.ledger.commit(change) for change in tries]
    done = [future.result() for future in futures if future.exception(20) is None]
    assert len(done) == 1 and done[0].endswith("releases 1")
    assert {type(future.exception()) for future in futures} == {type(None), Conflict}
    rows = desk.database.read(lambda c: c.execute("SELECT seq, subject FROM published").fetchall())
    assert rows == [(1, done[0].split()[0])]

    with pytest.raises(psycopg.errors.UniqueViolation):
        desk.commit(used_for(second, rows[0][1]))
    assert desk.get(second) == second and desk.steps(second) == ["requested", "approved"]


def test_lists_are_paged_and_filtered(desk: Any, refused: Refused) -> None:
    asked = [desk.ask(subject=f"policy/{n}", risk=Risk(("low", "high")[n % 2])) for n in range(5)]
    desk.decide(asked[3], "rita")
    desk.ask("adam", kind="delete")

    def listed(**named: Any) -> list[str]:
        return [a.subject for a in desk.database.read(lambda c: list_approvals(c, **named)).data]

    assert listed(state=State.APPROVED) == ["policy/3"]
    assert listed(kind="publish", risk=Risk.HIGH) == ["policy/3", "policy/1"]
    assert listed(requested_by="key:adam") == ["policy/refunds"] and listed(subject="policy/4") == ["policy/4"]
    seen: list[str] = []
    cursor = None
    while True:
        page = desk.database.read(lambda c, cursor=cursor: list_approvals(c, kind="publish", cursor=cursor, limit=2))
        seen += [approval.subject for approval in page.data]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [f"policy/{n}" for n in reversed(range(5))]
    refused("cursor_invalid", listed, cursor="x")


REWRITES = [
    "UPDATE approvals SET content = 'x', content_sha256 = sha256('x'), version = version + 1",
    "UPDATE approvals SET diff = '', version = version + 1",
    "UPDATE approvals SET expires_at = expires_at + interval '1 day', version = version + 1",
    "UPDATE approvals SET state = 'approved'",
    "UPDATE approvals SET state = 'pending', settled_at = NULL, version = version + 1",
    "DELETE FROM approvals",
    "UPDATE approval_decisions SET verdict = 'approve'",
    "DELETE FROM approval_decisions",
]


def test_the_database_refuses_to_rewrite_an_approval(desk: Any) -> None:
    denied = desk.decide(desk.ask(), "rita", "deny")
    for statement in REWRITES:
        with pytest.raises(psycopg.errors.InsufficientPrivilege), desk.database.transaction() as connection:
            connection.execute(statement)
    assert desk.get(denied) == denied


def test_an_unknown_approval_is_named(desk: Any, refused: Refused) -> None:
    asked = desk.ask()
    unknown = "8e03978e-40d5-43dd-bc93-6894a57f9324"
    for call in (
        lambda c: get_content(c, unknown),
        lambda c: consume(c, desk.people["bob"], unknown),
        lambda c: withdraw(c, desk.people["bob"], unknown, seen=frozenset({asked.etag})),
    ):
        refused("approval_unknown", desk.database.read, call)
    assert desk.get(asked) == asked
