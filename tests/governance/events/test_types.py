"""Event types are published once, checked for what could stall or betray, and found again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stemma.access.permissions import Role
from stemma.access.principal import Principal, local_principal
from stemma.errors import Conflict, Forbidden, InvalidInput, NotFound
from stemma.governance import samples
from stemma.governance.events import recording, schemas, types
from stemma.governance.events.model import NewEvent
from stemma.governance.nodes import load as load_node
from stemma.ledger.change import Change
from stemma.ledger.service import Ledger
from stemma.store.database import Database
from stemma.store.settings import Settings


def test_events_are_checked_by_the_newest_version(
    database: Database, commit: Callable[[Change[Any]], Any], asked_type: str
) -> None:
    def publish(text: str, who: Principal | None = None) -> Any:
        return commit(database.read(lambda c: types.publish(c, who or local_principal(), text)))

    first = publish(asked_type)
    assert publish(asked_type) == first
    with pytest.raises(Conflict):
        publish(asked_type.replace("number", "string"))
    newer = asked_type.replace("1.0.0", "1.1.0").replace("{type: number}", "{type: number, maximum: 5}")
    publish(newer)
    publish(newer.replace("1.1.0", "2.0.0-rc.1").replace("maximum: 5", "maximum: 1"))
    assert database.read(lambda c: types.find(c, "Asked@1.0.0")) == first
    event = NewEvent("Asked", {"amount": 4})
    (recorded,) = commit(database.read(lambda c: recording.record(c, local_principal(), [event])))
    assert recorded.type_version == "1.1.0"
    with pytest.raises(InvalidInput, match="maximum of 5"):
        database.read(lambda c: recording.record(c, local_principal(), [NewEvent("Asked", {"amount": 6})]))
    with pytest.raises(NotFound):
        database.read(lambda c: types.find(c, "Asked@3"))
    with pytest.raises(Forbidden):
        publish(asked_type, Principal("key:x", Role.BUILDER, frozenset({"decide:*"})))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("name: Asked", "name: 1sked", "line 1, column 7: name"),
        ("changelog: First version.", 'changelog: ""', "changelog"),
        ("description: Somebody asks.", "", "description"),
        ("version: 1.0.0", "version: one", "version"),
        ("more: {}", "more: {type: nothing}", "/properties/more/type"),
        ("more: {}", "more: 3", "/properties/more: A schema is an object"),
        ("more: {}", "more: {$ref: '#'}", "/properties/more/$ref: The keyword"),
        ("more: {}", "more: {minimun: 1}", "/properties/more/minimun: The keyword"),
        ("more: {}", "more: {x-personal: true}", "Events stay for ever"),
        ("more: {}", "more: {format: regex}", "/properties/more/format"),
        ("more: {}", "more: {pattern: '('}", "/properties/more/pattern"),
        ("more: {}", "more: {pattern: '(?=a)a'}", "/properties/more/pattern"),
        ("more: {}", "more: {pattern: 'a{1000}{1000}'}", "/properties/more/pattern"),
        ("more: {}", "more: {anyOf: [{not: {unevaluatedItems: false}}]}", "/anyOf/0/not/unevaluatedItems"),
        ("  type: object", "  type: string", "write `type: object`"),
        ("more: {}", "more: {allOf: [" + ", ".join("{pattern: a}" for _ in range(51)) + "]}", "51 patterns"),
    ],
)
def test_what_cannot_be_an_event_type_is_refused(asked_type: str, before: str, after: str, said: str) -> None:
    assert before in asked_type
    with pytest.raises(InvalidInput) as refused:
        types.read(asked_type.replace(before, after, 1)).canonical()
    assert said in str(refused.value)


def test_what_does_not_fit_is_said_without_the_value() -> None:
    validator = schemas.compiled(
        {"type": "object", "properties": {"a": {"items": {"enum": [1]}}, "b/c": {"type": "number"}}}
    )
    assert schemas.first_flaw(validator, {"a": [1, 1]}) is None
    for data, place in (({"a": [1, "secret"]}, "/a/1"), ({"b/c": "secret"}, "/b~1c")):
        flaw = schemas.first_flaw(validator, data)
        assert flaw is not None and flaw[0] == place and "secret" not in flaw[1]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, width=32) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@hypothesis_settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=5), json_values, max_size=3), st.dictionaries(st.text(), json_values))
def test_no_schema_and_no_data_break_the_check(part: dict[str, Any], data: dict[str, Any]) -> None:
    try:
        validator = schemas.compiled({"type": "object", "properties": {"a": part}, "default": part})
    except InvalidInput:
        return
    schemas.first_flaw(validator, {**data, "a": data})


def test_the_samples_are_published_once(settings: Settings, database: Database) -> None:
    with Ledger(database.urls, settings) as ledger:
        new = samples.publish_samples(database, ledger, local_principal())
        assert {published.name for published in new} >= {
            "DiscountRequested", "LeaveRequested", "finance.discounts", "hr.leave", "finance", "hr",
        }  # fmt: skip
        assert samples.publish_samples(database, ledger, local_principal()) == ()
    node = database.read(lambda c: load_node(c, "finance"))
    for event_type in node.events:
        assert database.read(lambda c, name=event_type: types.load(c, name)).name == event_type
