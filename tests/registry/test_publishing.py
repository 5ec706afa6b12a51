"""Versions are published once and for good, grow within their major, and are found by alias."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.access.permissions import Role
from stemma.access.principal import Principal, local_principal
from stemma.errors import Conflict, Forbidden, InvalidInput, NotFound, TooLarge
from stemma.ledger import feed
from stemma.ledger.change import Change
from stemma.ledger.service import Ledger
from stemma.registry import catalog
from stemma.registry.differences import Step, differences
from stemma.registry.model import Draft, Kind, Published, content_hash
from stemma.registry.publishing import publish
from stemma.registry.references import parse_reference
from stemma.registry.semver import parse_version
from stemma.store.database import Database
from stemma.store.settings import Settings

KIND = Kind("policy", "policy_versions", "decide:publish")
Publish = Callable[..., Published]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdé/~", max_size=4), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def draft(version: str, content: Any = None, *, name: str = "a.b", changelog: str = "Why.") -> Draft:
    return Draft(name, parse_version(version), changelog, {"says": version} if content is None else content)


@pytest.fixture
def put(database: Database, commit: Callable[[Change[Any]], Any]) -> Publish:
    """Publish a draft."""

    def write(version: str, content: Any = None, **more: Any) -> Published:
        made = draft(version, content, **more)
        result: Published = commit(database.read(lambda c: publish(c, local_principal(), KIND, made)))
        return result

    return write


def resolve(database: Database, reference: str) -> str:
    return database.read(lambda connection: catalog.find(connection, KIND, parse_reference(reference))).version


def shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: shuffled(value[name]) for name in sorted(value, reverse=True)}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text("abcdé", max_size=4), json_values, max_size=5))
def test_the_hash_of_a_content_does_not_depend_on_the_order_of_its_names(content: dict[str, Any]) -> None:
    assert draft("1.0.0", content).canonical() == draft("1.0.0", shuffled(content)).canonical()


def test_aliases_resolve_to_the_newest_stable_version(database: Database, put: Publish) -> None:
    for version in ("1.0.0", "1.2.0", "2.0.0-rc.1", "1.2.3", "1.10.0", "2.0.0", "1.10.1", "3.0.0-beta"):
        put(version)
    wanted = {
        "a.b": "2.0.0", "a.b@latest": "2.0.0", "a.b@1": "1.10.1", "a.b@1.2": "1.2.3", "a.b@2": "2.0.0",
        "a.b@3.0.0-beta": "3.0.0-beta", "a.b@1.0.0": "1.0.0",
    }  # fmt: skip
    assert {reference: resolve(database, reference) for reference in wanted} == wanted
    for nothing in ("a.b@3", "a.b@1.3", "a.b@1.0.1", "b"):
        with pytest.raises(NotFound):
            resolve(database, nothing)


def test_versions_grow_within_their_major_and_never_change(database: Database, put: Publish) -> None:
    first = put("1.1.0", {"says": "one"})
    put("2.0.0")
    assert put("1.1.0", {"says": "one"}, changelog="Another one.") == first
    refused = {"1.1.0": "version_taken", "1.0.9": "version_not_higher", "1.1.0-rc.1": "version_not_higher",
               "1.1.0+build": "version_not_higher"}  # fmt: skip
    for version, code in refused.items():
        with pytest.raises(Conflict) as error:
            put(version, {"says": "two"})
        assert error.value.code == code
    assert put("1.1.1", {"says": "one"}).sha256 == first.sha256
    assert database.read(lambda c: catalog.find(c, KIND, parse_reference("a.b@1.1.0"))) == first


def test_publishing_is_told_and_again_it_is_audited_alone(database: Database, put: Publish) -> None:
    published = put("1.0.0")
    put("1.0.0")
    wanted = feed.Filter(subject="policy/a.b@1.0.0")
    with database.snapshot() as connection:
        historian, audit = (feed.list_entries(connection, chain, wanted).data for chain in ("historian", "audit"))
    assert [entry.kind for entry in historian] == ["policy.published"]
    assert [entry.kind for entry in audit] == ["policy.republished", "policy.published"]
    assert historian[0].data["sha256"] == published.sha256
    assert published.sha256 == content_hash(draft("1.0.0").canonical())


def test_of_two_that_publish_at_once_one_gets_through(settings: Settings, database: Database) -> None:
    """Both read before either writes."""
    changes = [
        database.read(lambda c, version=version: publish(c, local_principal(), KIND, draft(version)))
        for version in ("1.0.0", "1.0.1", "1.0.0", "2.0.0")
    ]
    with (
        Ledger(database.urls, settings) as one,
        Ledger(database.urls, settings) as other,
        ThreadPoolExecutor(4) as pool,
    ):
        written = [
            pool.submit(lambda ledger, change: ledger.commit(change).exception(20), ledger, change)
            for ledger, change in zip((one, other, one, other), changes, strict=True)
        ]
        failures = [future.result() for future in written]
    assert failures[3] is None
    assert sorted(type(failure).__name__ for failure in failures[:3]) == ["Conflict", "Conflict", "NoneType"]


def test_the_database_refuses_to_change_what_is_published(database: Database, put: Publish) -> None:
    put("1.0.0")
    for statement in (
        "UPDATE policy_versions SET changelog = ''",
        "DELETE FROM policy_versions",
        "TRUNCATE policy_versions",
    ):
        with psycopg.connect(database.urls.owner) as owner, pytest.raises(psycopg.errors.InsufficientPrivilege):
            owner.execute(statement)


def test_lists_come_in_pages(database: Database, put: Publish) -> None:
    for version in ("1.0.0", "1.1.0", "2.0.0-rc.1"):
        put(version)
    put("0.1.0-alpha", name="only-a-prerelease")
    put("1.0.0", name="c")
    newest, cursor = [], None
    while True:
        page = database.read(lambda c, at=cursor: catalog.list_newest(c, KIND, cursor=at, limit=2))
        newest += [item.reference for item in page.data]
        if (cursor := page.next_cursor) is None:
            break
    assert newest == ["a.b@1.1.0", "c@1.0.0", "only-a-prerelease@0.1.0-alpha"]
    first = database.read(lambda c: catalog.list_versions(c, KIND, "a.b", limit=2))
    rest = database.read(lambda c: catalog.list_versions(c, KIND, "a.b", cursor=first.next_cursor, limit=2))
    assert [item.version for item in (*first.data, *rest.data)] == ["2.0.0-rc.1", "1.1.0", "1.0.0"]
    assert rest.next_cursor is None
    with pytest.raises(InvalidInput, match=r"cursor"):
        database.read(lambda c: catalog.list_newest(c, KIND, cursor=first.next_cursor))
    with pytest.raises(NotFound):
        database.read(lambda c: catalog.list_versions(c, KIND, "b"))


def test_what_cannot_be_kept_is_refused(database: Database, put: Publish) -> None:
    refused: list[tuple[type[Exception], dict[str, Any]]] = [
        (InvalidInput, {"changelog": " "}),
        (InvalidInput, {"changelog": "x" * 4_001}),
        (InvalidInput, {"changelog": "a\0b"}),
        (InvalidInput, {"name": "Not A Name"}),
        (InvalidInput, {"content": {"x": float("nan")}}),
        (InvalidInput, {"content": {"x": "\ud800"}}),
        (InvalidInput, {"content": {"x": 2**60}}),
        (TooLarge, {"content": {"x": "a" * (1 << 20)}}),
    ]
    for error, given_ in refused:
        with pytest.raises(error):
            put("1.0.0", **given_)
    viewer = Principal("key:x", Role.VIEWER, frozenset({"decide:*"}))
    with pytest.raises(Forbidden):
        database.read(lambda c: publish(c, viewer, KIND, draft("1.0.0")))


@given(json_values, json_values)
def test_two_values_differ_where_and_only_where_they_do(before: Any, after: Any) -> None:
    same = json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
    assert differences(before, before) == ()
    assert not same or differences(before, after) == ()
    forward, backward = (
        {(found.path, json.dumps(found.before), json.dumps(found.after)) for found in differences(*pair)}
        for pair in ((before, after), (after, before))
    )
    assert forward == {(path, new, old) for path, old, new in backward}


def test_items_are_compared_by_their_id() -> None:
    before = {"rules": [{"id": "a", "when": "x"}, {"id": "b", "when": "y"}], "list": [1, 2], "gone": 1}
    after = {"rules": [{"id": "n", "when": "z"}, {"id": "b", "when": "y"}, {"id": "a", "when": "w"}], "list": [1, 3]}
    assert {(found.path, found.step) for found in differences(before, after)} == {
        ("/rules/a/when", Step.CHANGED),
        ("/rules/n", Step.ADDED),
        ("/rules", Step.MOVED),
        ("/list/1", Step.CHANGED),
        ("/gone", Step.REMOVED),
    }
