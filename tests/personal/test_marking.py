"""Marks in JSON Schemas: every value that a mark could mean is sealed, and a mark that cannot be followed refused."""

from __future__ import annotations

from typing import Any

import pytest

from stemma.errors import InvalidInput
from stemma.personal.marking import seal_marked, subject_name

MARK = {"x-personal": True}


def marked(schema: dict[str, Any], value: Any) -> list[str]:
    """Where the schema has values sealed."""
    found: list[str] = []
    seal_marked(schema, value, lambda _, path: found.append(path))
    return found


@pytest.mark.parametrize(
    ("schema", "value", "paths"),
    [
        (MARK, "all", [""]),
        ({"x-personal": False}, "none", []),
        ({"properties": {"a": MARK}}, {"a": None, "b": 1}, ["/a"]),
        ({"properties": {"a": {"properties": {"b": MARK}}}}, {"a": {"b": {"c": 1}}}, ["/a/b"]),
        ({"properties": {"a/b~c": MARK}}, {"a/b~c": 1}, ["/a~1b~0c"]),
        ({"items": MARK}, [1, 2], ["/0", "/1"]),
        ({"prefixItems": [{}, MARK], "items": {}}, [1, 2, 3], ["/1"]),
        ({"prefixItems": [{}], "items": MARK}, [1, 2, 3], ["/1", "/2"]),
        ({"properties": {"a": {}}, "additionalProperties": MARK}, {"a": 1, "b": 2}, ["/b"]),
        ({"patternProperties": {"^p_": MARK}, "additionalProperties": False}, {"p_x": 1, "q": 2}, ["/p_x"]),
        ({"anyOf": [{"type": "null"}, {"properties": {"a": MARK}}]}, {"a": 1}, ["/a"]),
        ({"if": {}, "then": {"properties": {"a": MARK}}, "else": {}}, {"a": 1}, ["/a"]),
        ({"allOf": [{"oneOf": [MARK]}]}, {"a": 1}, [""]),
        ({"properties": {"a": {"$ref": "#/$defs/p"}}, "$defs": {"p": MARK}}, {"a": 1}, ["/a"]),
        ({"properties": {"kin": {"items": {"$ref": "#"}}, "n": MARK}}, {"n": 1, "kin": [{"n": 2}]}, ["/n", "/kin/0/n"]),
        (True, {"a": 1}, []),
        ({"properties": {"a": True}, "required": ["a"]}, {"a": 1}, []),
    ],
)
def test_where_marks_reach(schema: Any, value: Any, paths: list[str]) -> None:
    assert marked(schema, value) == paths


def test_other_values_stay_as_they_are() -> None:
    schema = {"properties": {"name": MARK}}
    value = {"name": "Ada", "list": [1, {"x": None}], "text": "t"}
    assert seal_marked(schema, value, lambda item, path: f"<{path}>") == {**value, "name": "</name>"}


@pytest.mark.parametrize(
    "schema",
    [
        {"contains": MARK},
        {"not": {"properties": {"a": MARK}}},
        {"unevaluatedProperties": MARK},
        {"dependentSchemas": {"a": {"allOf": [MARK]}}},
        {"x-personal": "yes"},
        {"x-personal": 1},
        {"$ref": "https://example.org/person.json"},
        {"$ref": "#/$defs/none"},
        {"$ref": 7},
        {"items": [MARK]},
        {"patternProperties": {"(": MARK}},
    ],
)
def test_a_mark_that_cannot_be_followed_is_refused(schema: dict[str, Any]) -> None:
    for value in ({"a": 1}, ["a"]):
        try:
            assert marked(schema, value) == []
        except InvalidInput as error:
            assert error.code == "schema_unusable"
            return
    pytest.fail("it was let through")


def test_hostile_depth_is_one_clear_error() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    loop: dict[str, Any] = {}
    loop["items"] = loop
    with pytest.raises(InvalidInput, match="too deeply"):
        marked(loop, value)


def test_the_field_that_names_the_subject() -> None:
    schema = {"x-subject": "/who/mail", "properties": {"who": {"properties": {"mail": MARK}}}}
    assert subject_name(schema, {"who": {"mail": "ada@example.org"}}) == "ada@example.org"
    for value in ({}, {"who": {}}, {"who": {"mail": 7}}, {"who": {"mail": ""}}, {"who": "ada"}, []):
        with pytest.raises(InvalidInput) as caught:
            subject_name(schema, value)
        assert caught.value.code == "subject_missing" and caught.value.field == "/who/mail"
    value = {"who": {"mail": "ada@example.org"}}
    for unusable in ({"x-subject": "/who/mail"}, {}, {"x-subject": "who"}):
        with pytest.raises(InvalidInput) as caught:
            subject_name(unusable, value)
        assert caught.value.code == "schema_unusable" and "ada" not in str(caught.value)
