"""Which fields a JSON Schema marks as personal: `"x-personal": true`, and `"x-subject"`, which names whose they are.

A mark counts wherever the schema could apply: in each branch of `anyOf`, under `if`, behind a local `$ref`. A schema in
which a mark stands where this module does not look is refused, since a field would be stored in clear.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from stemma.errors import InvalidInput
from stemma.personal.fields import below

PERSONAL = "x-personal"
SUBJECT = "x-subject"

_IN_PLACE = ("if", "then", "else")
_IN_PLACE_LISTS = ("allOf", "anyOf", "oneOf")
_ELSEWHERE = frozenset({
    "$ref", PERSONAL, SUBJECT, "$defs", "definitions", *_IN_PLACE, *_IN_PLACE_LISTS,
    "properties", "patternProperties", "additionalProperties", "items", "prefixItems",
})  # fmt: skip

Seal = Callable[[Any, str], Any]


def seal_marked(schema: Mapping[str, Any], value: Any, seal: Seal, path: str = "") -> Any:
    """A copy of the value in which `seal` (value, path) stands for each value that the schema marks.

    Raises InvalidInput for a schema whose marks cannot be followed and for a value that is nested too deeply.
    """
    try:
        return _Marks(schema, seal).applied([schema], value, path)
    except RecursionError as error:
        raise InvalidInput("data_too_deep", "The value or its schema is nested too deeply.", field="data") from error


def subject_name(schema: Mapping[str, Any], value: Any) -> str:
    """The name of the subject, from the field that the schema's `x-subject` (a JSON Pointer) names.

    Raises InvalidInput where it names none, or the value has no text there. The field has to be marked itself.
    """
    pointer = schema.get(SUBJECT)
    if not isinstance(pointer, str) or not pointer.startswith("/"):
        what = f"The schema has no `{SUBJECT}` that says which field names the subject."
        raise _unusable(what)
    found = value
    for name in _names(pointer):
        found = found.get(name) if isinstance(found, Mapping) else None
    if not isinstance(found, str) or not found:
        raise InvalidInput("subject_missing", f"The field {pointer} does not name the subject.", field=pointer)
    marked: list[str] = []
    seal_marked(schema, value, lambda _, path: marked.append(path))
    if not any(pointer == path or pointer.startswith(f"{path}/") for path in marked):
        raise _unusable(f"The field {pointer} names the subject and is not marked personal.")
    return found


def _names(pointer: str) -> Iterator[str]:
    return (name.replace("~1", "/").replace("~0", "~") for name in pointer[1:].split("/"))


class _Marks:
    """One schema, and how to seal what it marks."""

    def __init__(self, schema: Mapping[str, Any], seal: Seal) -> None:
        self._root = schema
        self._seal = seal

    def applied(self, schemas: Iterable[Any], value: Any, path: str) -> Any:
        """The value at `path`, to which all these schemas may apply."""
        here = self._expanded(schemas)
        if any(schema.get(PERSONAL) for schema in here):
            return self._seal(value, path)
        if isinstance(value, Mapping):
            return {name: self.applied(_of_member(here, name), item, below(path, name)) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.applied(_of_item(here, at), item, below(path, at)) for at, item in enumerate(value)]
        return value

    def _expanded(self, schemas: Iterable[Any]) -> list[Mapping[str, Any]]:
        """These schemas and all that they apply to the same value, each once."""
        found: dict[int, Mapping[str, Any]] = {}
        waiting = list(schemas)
        while waiting:
            schema = waiting.pop()
            if isinstance(schema, bool) or id(schema) in found:
                continue
            _require_followable(schema)
            found[id(schema)] = schema
            if "$ref" in schema:
                waiting.append(self._target(schema["$ref"]))
            waiting += [schema[keyword] for keyword in _IN_PLACE if keyword in schema]
            waiting += [branch for keyword in _IN_PLACE_LISTS for branch in schema.get(keyword, ())]
        return list(found.values())

    def _target(self, reference: Any) -> Any:
        if reference == "#":
            return self._root
        found: Any = self._root
        for name in _names(reference[1:]) if isinstance(reference, str) and reference.startswith("#/") else (None,):
            found = found.get(name) if isinstance(found, Mapping) and name is not None else None
        if found is None:
            raise _unusable("A `$ref` leads out of the schema or nowhere, where marks cannot be seen.")
        return found


def _of_member(schemas: list[Mapping[str, Any]], name: str) -> list[Any]:
    found = []
    for schema in schemas:
        named = [schema["properties"][name]] if name in schema.get("properties", {}) else []
        patterns = schema.get("patternProperties", {})
        named += [item for pattern, item in patterns.items() if _matches(pattern, name)]
        found += named or [schema.get("additionalProperties", True)]
    return found


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error as error:
        raise _unusable("A pattern in `patternProperties` is no regular expression.") from error


def _of_item(schemas: list[Mapping[str, Any]], place: int) -> list[Any]:
    found = []
    for schema in schemas:
        first = schema.get("prefixItems", [])
        found.append(first[place] if place < len(first) else schema.get("items", True))
    return found


def _require_followable(schema: Any) -> None:
    if not isinstance(schema, Mapping):
        raise _unusable("A part of the schema is neither an object nor true or false.")
    if not isinstance(schema.get(PERSONAL, False), bool):
        raise _unusable(f"`{PERSONAL}` is neither true nor false.")
    for keyword, part in schema.items():
        if keyword not in _ELSEWHERE and _mentions_mark(part):
            raise _unusable(f"`{PERSONAL}` stands under `{keyword}`, where it would not be found.")


def _mentions_mark(part: Any) -> bool:
    if isinstance(part, Mapping):
        return PERSONAL in part or any(_mentions_mark(item) for item in part.values())
    return isinstance(part, (list, tuple)) and any(_mentions_mark(item) for item in part)


def _unusable(what: str) -> InvalidInput:
    return InvalidInput("schema_unusable", what, field="schema")
