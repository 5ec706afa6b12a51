"""Approvals over HTTP: preconditions, permissions, exact bytes served safely, deadlines, repeats."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from api.app import create_app
from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.store.database import Database
from stemma.store.settings import Settings

CONTENT = b"<script>alert(1)</script>\xff"
WANTED = {
    "kind": "publish",
    "subject": "policy/refunds",
    "content": base64.b64encode(CONTENT).decode(),
    "media_type": "text/html",
    "diff": "-a\n+b",
    "reason": "As agreed.",
    "risk": "high",
}
UNKNOWN = "/api/v1/approvals/8e03978e-40d5-43dd-bc93-6894a57f9324"


class People:
    """Clients by role on one server."""

    def __init__(self, client: httpx.Client, keys: dict[Role, str]) -> None:
        self._client = client
        self._keys = keys

    def send(self, who: Role, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._keys[who]}", **more.pop("headers", {})}
        return self._client.request(method, path, headers=headers, **more)

    def ask(self, who: Role = Role.BUILDER, **changed: Any) -> tuple[str, str]:
        """The path and the ETag header of a new approval."""
        made = self.send(who, "POST", "/api/v1/approvals", json={**WANTED, **changed})
        assert made.status_code == 201, made.text
        path = f"/api/v1/approvals/{made.json()['id']}"
        shown = self.send(Role.VIEWER, "GET", path)
        assert shown.headers["etag"] == f'"{made.json()["etag"]}"'
        return path, shown.headers["etag"]

    def decide(self, who: Role, path: str, verdict: str, etag: str | None, **more: Any) -> httpx.Response:
        headers = {**({} if etag is None else {"If-Match": etag}), **more.pop("headers", {})}
        return self.send(who, "POST", f"{path}/{verdict}", headers=headers, **{"json": {"reason": "Read."}, **more})


@pytest.fixture
def people(settings: Settings, database: Database, serve: Any, issue_key: Callable[..., IssuedKey]) -> Iterator[People]:
    roles = (Role.VIEWER, Role.BUILDER, Role.REVIEWER, Role.ADMIN)
    keys = {role: issue_key(settings, database.urls, role=role).key for role in roles}
    with serve(create_app(settings, database=database), key=None) as client:
        yield People(client, keys)


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def test_what_was_seen_is_approved_once(people: People) -> None:
    path, etag = people.ask()
    for wrong in (None, "*"):
        assert code(people.decide(Role.REVIEWER, path, "approve", wrong)) == (428, "if_match_missing")
    for wrong in ('"other"', f"W/{etag}", etag.strip('"'), ""):
        assert code(people.decide(Role.REVIEWER, path, "approve", wrong)) == (412, "approval_changed")
    first = people.decide(Role.REVIEWER, path, "approve", f'"other", {etag}', headers={"Idempotency-Key": "k"})
    assert first.status_code == 200 and first.json()["state"] == "approved"
    assert first.json() == people.send(Role.VIEWER, "GET", path).json()
    again = people.decide(Role.REVIEWER, path, "approve", f'"other", {etag}', headers={"Idempotency-Key": "k"})
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    assert code(people.decide(Role.ADMIN, path, "approve", etag)) == (409, "approval_settled")


def test_approving_needs_no_words_and_denying_does(people: People) -> None:
    path, etag = people.ask(approvals_needed=2)
    half = people.decide(Role.ADMIN, path, "approve", etag, json=None)
    assert half.status_code == 200 and half.json()["state"] == "pending"
    etag = f'"{half.json()["etag"]}"'
    assert code(people.decide(Role.REVIEWER, path, "deny", etag, json={})) == (422, "reason_missing")
    denied = people.decide(Role.REVIEWER, path, "deny", etag)
    assert denied.status_code == 200
    assert [given["verdict"] for given in denied.json()["decisions"]] == ["approve", "deny"]


def test_the_exact_bytes_are_served_so_that_nothing_runs(people: People) -> None:
    path, _ = people.ask()
    served = people.send(Role.VIEWER, "GET", f"{path}/content")
    assert served.content == CONTENT and served.headers["content-type"] == "text/html"
    assert served.headers["content-disposition"].startswith("attachment")
    assert served.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in served.headers["content-security-policy"]
    digest = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
    assert served.headers["repr-digest"] == f"sha-256=:{digest}:"


def test_who_may_what(people: People) -> None:
    assert code(people.send(Role.REVIEWER, "POST", "/api/v1/approvals", json=WANTED)) == (403, "role_forbidden")
    path, etag = people.ask(Role.ADMIN, second_person=True)
    for who, reason in ((Role.VIEWER, "role_forbidden"), (Role.BUILDER, "role_forbidden")):
        assert code(people.decide(who, path, "approve", etag)) == (403, reason)
    assert code(people.decide(Role.ADMIN, path, "approve", etag)) == (403, "second_person_needed")
    seen = {"If-Match": etag}
    assert code(people.send(Role.BUILDER, "DELETE", path, headers=seen)) == (403, "approval_of_another")
    assert code(people.send(Role.ADMIN, "DELETE", path)) == (428, "if_match_missing")
    withdrawn = people.send(Role.ADMIN, "DELETE", path, headers=seen)
    assert withdrawn.status_code == 200 and withdrawn.json()["state"] == "withdrawn"
    other, etag = people.ask(Role.BUILDER)
    assert people.send(Role.ADMIN, "DELETE", other, headers={"If-Match": etag}).status_code == 200


def test_what_is_not_there(people: People) -> None:
    for path in (UNKNOWN, f"{UNKNOWN}/content"):
        assert code(people.send(Role.VIEWER, "GET", path)) == (404, "approval_unknown")
    for verdict in ("approve", "deny"):
        assert code(people.decide(Role.ADMIN, UNKNOWN, verdict, '"x"')) == (404, "approval_unknown")
    assert code(people.send(Role.ADMIN, "DELETE", UNKNOWN, headers={"If-Match": '"x"'})) == (404, "approval_unknown")


def test_bad_requests_are_named_and_leave_nothing(people: People) -> None:
    for changed, field in [
        ({"content": "no base64!"}, "content"),
        ({"content": 7}, "content"),
        ({"content": "é"}, "content"),
        ({"kind": "Publish it"}, "kind"),
        ({"subject": "a\u0000b"}, "subject"),
        ({"reason": ""}, "reason"),
        ({"diff": "a\u0000b"}, "diff"),
        ({"media_type": "text/html\r\nX: y"}, "media_type"),
        ({"risk": "none"}, "risk"),
        ({"deciders": ["Viewer"]}, "deciders"),
        ({"approvals_needed": 3}, "approvals_needed"),
        ({"lifetime": 10**30}, "lifetime"),
        ({"surprise": 1}, "surprise"),
    ]:
        refused = people.send(Role.BUILDER, "POST", "/api/v1/approvals", json={**WANTED, **changed})
        assert refused.status_code == 422 and refused.json()["errors"][0]["field"] == field, refused.text
    large = base64.b64encode(bytes((1 << 20) + 1)).decode()
    refused = people.send(Role.BUILDER, "POST", "/api/v1/approvals", json={**WANTED, "content": large})
    assert code(refused) == (413, "content_too_large")
    refused = people.send(Role.BUILDER, "POST", "/api/v1/approvals", content=b" " * 4_000_000)
    assert code(refused) == (413, "body_too_large")
    assert people.send(Role.VIEWER, "GET", "/api/v1/approvals").json()["data"] == []


def test_a_deadline_that_passed_denies_and_is_written_by_who_looks(
    people: People, pass_deadline: Callable[..., None], database: Database
) -> None:
    path, etag = people.ask()
    pass_deadline(path.rpartition("/")[2])
    assert code(people.decide(Role.REVIEWER, path, "approve", etag)) == (409, "approval_expired")
    for _ in range(2):
        assert people.send(Role.VIEWER, "GET", path).json()["state"] == "expired"
        kinds = database.read(
            lambda c: c.execute("SELECT kind FROM ledger WHERE chain = 'approvals' ORDER BY seq").fetchall()
        )
        assert kinds == [("approval.requested",), ("approval.expired",)]


def test_lists_are_filtered_and_paged(people: People) -> None:
    paths = [people.ask(subject=f"policy/{n}", risk=("low", "high")[n % 2])[0] for n in range(3)]
    listed = people.send(Role.VIEWER, "GET", "/api/v1/approvals", params={"limit": 2}).json()
    assert [one["subject"] for one in listed["data"]] == ["policy/2", "policy/1"] and "diff" not in listed["data"][0]
    rest = {"limit": 2, "cursor": listed["next_cursor"]}
    listed = people.send(Role.VIEWER, "GET", "/api/v1/approvals", params=rest).json()
    assert [one["id"] for one in listed["data"]] == [paths[0].rpartition("/")[2]] and listed["next_cursor"] is None
    for filters, subjects in [
        ({"risk": "high"}, ["policy/1"]),
        ({"subject": "policy/0", "kind": "publish", "state": "pending"}, ["policy/0"]),
        ({"requested_by": "key:nobody"}, []),
    ]:
        found = people.send(Role.VIEWER, "GET", "/api/v1/approvals", params=filters).json()
        assert [one["subject"] for one in found["data"]] == subjects
    assert code(people.send(Role.VIEWER, "GET", "/api/v1/approvals", params={"cursor": "x"})) == (422, "cursor_invalid")
