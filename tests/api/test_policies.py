"""Policies over HTTP: checked, published, listed, compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.store.database import Database
from stemma.store.settings import REPOSITORY, Settings

POLICIES = "/api/v1/policies"
_SAMPLE = REPOSITORY / "samples" / "policies" / "hr" / "leave.yaml"
POLICY = _SAMPLE.read_text("utf-8")
TESTS = _SAMPLE.with_suffix(".tests.yaml").read_text("utf-8")


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def texts(*replaced: tuple[str, str], tests: str = TESTS) -> dict[str, str]:
    policy = POLICY
    for before, after in replaced:
        assert before in policy
        policy = policy.replace(before, after)
    return {"policy": policy, "tests": tests}


@pytest.fixture
def as_role(
    settings: Settings, database: Database, issue_key: Callable[..., IssuedKey], serve: Any
) -> Iterator[Callable[[Role], dict[str, str]]]:
    """The header of a new key with a role."""
    yield lambda role: {
        "Authorization": f"Bearer {issue_key(settings, database.urls, role=role, scopes=['decide:*']).key}"
    }


def test_a_policy_is_checked_published_and_compared(client: httpx.Client) -> None:
    checked = client.post(f"{POLICIES}/validate", json=texts()).json()
    assert checked["valid"] and checked["findings"] == [] and len(checked["cases"]) == 11
    assert client.get(POLICIES).json() == {"data": [], "next_cursor": None}
    published = client.post(POLICIES, json=texts())
    assert published.status_code == 201 and published.json()["version"] == "1.0.0"
    assert client.post(POLICIES, json=texts()).json() == published.json()
    stricter = texts(("1.0.0", "1.1.0"), ("most_away: 0.4", "most_away: 0.3"))
    assert client.post(POLICIES, json=stricter).status_code == 201
    assert [item["version"] for item in client.get(POLICIES).json()["data"]] == ["1.1.0"]
    versions = client.get(f"{POLICIES}/hr.leave/versions", params={"limit": 1}).json()
    assert [item["version"] for item in versions["data"]] == ["1.1.0"] and versions["next_cursor"]
    assert client.get(f"{POLICIES}/hr.leave@1.0").json() == published.json()
    difference = client.get(f"{POLICIES}/hr.leave@1.0.0/diff", params={"against": "hr.leave@latest"}).json()
    assert difference["data"] == [
        {"path": "/policy/parameters/most_away", "step": "changed", "before": 0.4, "after": 0.3}
    ]


def test_what_is_wrong_is_told_with_its_place(client: httpx.Client) -> None:
    wrong = texts(("days > days_left", "days > 3"))
    (finding,) = client.post(f"{POLICIES}/validate", json=wrong).json()["findings"]
    assert (finding["path"], finding["line"], finding["column"]) == ("bundles[0].rules[2].when", 64, 15)
    refused = client.post(POLICIES, json=wrong)
    assert code(refused) == (422, "policy_invalid") and "line 64, column 15" in refused.json()["detail"]
    failing = texts(("notice_per_day: 2", "notice_per_day: 0"))
    checked = client.post(f"{POLICIES}/validate", json=failing).json()
    assert not checked["valid"] and [case["name"] for case in checked["cases"] if not case["passed"]]
    assert code(client.post(POLICIES, json=failing)) == (422, "golden_cases_failed")
    assert code(client.post(POLICIES, json={"policy": POLICY})) == (422, "request_invalid")


def test_what_contradicts_the_registry_is_refused(client: httpx.Client) -> None:
    assert client.post(POLICIES, json=texts()).status_code == 201
    assert code(client.post(POLICIES, json=texts(("short_leave: 3", "short_leave: 2")))) == (409, "version_taken")
    assert code(client.post(POLICIES, json=texts(("version: 1.0.0", "version: 1.0.0-rc.1")))) == (
        409,
        "version_not_higher",
    )
    for path in ("nothing", "hr.leave@2", "hr.leave@1.1", "nothing/versions", "hr.leave@1/diff?against=nothing"):
        assert code(client.get(f"{POLICIES}/{path}")) == (404, "policy_unknown")
    assert code(client.get(f"{POLICIES}/hr.leave@x")) == (422, "version_invalid")


def test_builders_check_and_admins_publish(client: httpx.Client, as_role: Callable[[Role], dict[str, str]]) -> None:
    builder, viewer, admin = (as_role(role) for role in (Role.BUILDER, Role.VIEWER, Role.ADMIN))
    assert client.post(f"{POLICIES}/validate", json=texts(), headers=builder).status_code == 200
    assert code(client.post(POLICIES, json=texts(), headers=builder)) == (403, "role_forbidden")
    assert client.post(POLICIES, json=texts(), headers=admin).status_code == 201
    assert client.get(f"{POLICIES}/hr.leave", headers=viewer).status_code == 200
    assert code(client.post(f"{POLICIES}/validate", json=texts(), headers=viewer)) == (403, "role_forbidden")
