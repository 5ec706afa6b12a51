"""Policies are published with their golden cases and found again as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stemma.access.permissions import Role
from stemma.access.principal import Principal, local_principal
from stemma.errors import CheckFailed, Conflict, Forbidden, InvalidInput, NotFound
from stemma.governance import policies
from stemma.governance.checking import check
from stemma.governance.evaluation import evaluate
from stemma.ledger.change import Change
from stemma.registry.model import Published
from stemma.store.database import Database


@pytest.fixture
def put(database: Database, commit: Callable[[Change[Any]], Any]) -> Callable[[str, str], Published]:
    def write(policy: str, tests: str) -> Published:
        result: Published = commit(database.read(lambda c: policies.publish(c, local_principal(), policy, tests)))
        return result

    return write


def test_a_published_policy_is_evaluated_as_it_was_tested(database: Database, put: Any, small: str, cases: str) -> None:
    published = put(small, cases)
    put(small.replace("1.0.0", "1.1.0").replace("least: 10", "least: 3"), cases)
    event = {"type": "Asked", "data": {"amount": 4}}
    first, newest = (
        database.read(lambda c, name=name: policies.load(c, name)) for name in (published.reference, "finance.small")
    )
    assert evaluate(first, event, {}).verdict == "approve" and evaluate(newest, event, {}).verdict == "deny"
    assert evaluate(first, event, {}).policy_sha256 == published.sha256
    assert database.read(lambda c: policies.load(c, "finance.small@1.0.0")) is first
    (difference,) = database.read(lambda c: policies.diff(c, "finance.small@1.0.0", "finance.small@1"))
    assert (difference.path, difference.before, difference.after) == ("/policy/parameters/least", 10, 3)


def test_what_may_not_be_published_is_not(database: Database, put: Any, small: str, cases: str) -> None:
    with pytest.raises(CheckFailed):
        put(small, cases.replace("AL3", "AL1"))
    with pytest.raises(InvalidInput, match="line 3"):
        put(small.replace("First version.", '""'), cases)
    with pytest.raises(NotFound):
        database.read(lambda c: policies.find(c, "finance.small"))
    put(small, cases)
    with pytest.raises(Conflict):
        put(small.replace("least: 10", "least: 11"), cases)
    with pytest.raises(Conflict):
        put(small, cases.replace("little", "another name"))
    builder = Principal("key:x", Role.BUILDER, frozenset({"decide:*"}))
    with pytest.raises(Forbidden):
        database.read(lambda c: policies.publish(c, builder, small, cases))


def test_the_next_version_is_written_on_the_one_before(database: Database, put: Any, small: str, cases: str) -> None:
    draft = check(small, cases).publishable()
    assert database.read(lambda c: policies.before(c, draft)) is None
    first = put(small, cases)
    put(small.replace("1.0.0", "2.0.0").replace("least: 10", "least: 3"), cases)
    written = database.read(lambda c: policies.next_texts(c, "finance.small@1"))
    (missing,) = check(written.policy, written.tests).findings
    assert missing.message == "There is no changelog." and "version: 1.1.0" in written.policy
    told = written.policy.replace('changelog: ""', "changelog: The same once more.")
    following = check(told, written.tests).publishable()
    assert database.read(lambda c: policies.before(c, following)) == first
    assert database.read(lambda c: policies.newest(c, "finance.small")).version == "2.0.0"
    third = check(small.replace("1.0.0", "3.0.0"), cases).publishable()
    assert database.read(lambda c: policies.before(c, third)).version == "2.0.0"


def test_a_policy_that_is_not_stable_yet_has_a_newest_version(
    database: Database, put: Any, small: str, cases: str
) -> None:
    candidate = put(small.replace("1.0.0", "1.0.0-rc.1"), cases)
    assert database.read(lambda c: policies.newest(c, "finance.small")) == candidate
    with pytest.raises(NotFound):
        database.read(lambda c: policies.newest(c, "finance.large"))
