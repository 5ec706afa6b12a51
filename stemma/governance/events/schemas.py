"""What the JSON Schema of an event type may be: a part of draft 2020-12 whose work is bounded by the sizes of schema
and data.

References could multiply a small schema beyond any bound, and `unevaluated…` looks at everything again on each level;
neither is taken. Patterns are matched in linear time (RE2's kind of expression: no look-around, no back-references).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import jsonschema_rs

from stemma.errors import InvalidInput
from stemma.personal.fields import below
from stemma.personal.marking import PERSONAL, SUBJECT

MAX_PATTERNS: Final = 50

_PATTERN_BYTES: Final = 1 << 15
_MAX_MESSAGE: Final = 300
_VALUES: Final = frozenset({
    "title", "description", "$comment", "examples", "default", "deprecated", "type", "enum", "const", "required",
    "dependentRequired", "minProperties", "maxProperties", "minItems", "maxItems", "uniqueItems", "minContains",
    "maxContains", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength",
    "maxLength", "pattern", "format",
})  # fmt: skip
_SCHEMA: Final = frozenset({
    "additionalProperties", "propertyNames", "items", "contains", "not", "if", "then", "else",
})  # fmt: skip
_SCHEMAS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED_SCHEMAS: Final = frozenset({"properties", "patternProperties"})
_FORMATS: Final = frozenset({"date-time", "date", "time", "email", "uri", "uuid", "ipv4", "ipv6", "hostname"})

Validator = jsonschema_rs.Draft202012Validator


def compiled(schema: Mapping[str, Any]) -> Validator:
    """The schema, ready to be asked; raises InvalidInput(field="schema") that names the part that cannot be used."""
    if schema.get("type") != "object":
        raise _unusable("", "The data of an event are an object: write `type: object`.")
    patterns = 0
    for path, part in _parts(schema, ""):
        _check(path, part)
        patterns += ("pattern" in part) + len(part.get("patternProperties", ()))
    if patterns > MAX_PATTERNS:
        raise _unusable("", f"It has {patterns} patterns; at most {MAX_PATTERNS} are taken.")
    engine = jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES)
    try:
        return Validator(dict(schema), validate_formats=True, mask="the value", pattern_options=engine, offline=True)
    except jsonschema_rs.ValidationError as error:
        place = "".join(below("", part) for part in error.instance_path)
        raise _unusable(place, f"{str(error.message)[:_MAX_MESSAGE]}.") from error


def first_flaw(validator: Validator, data: Mapping[str, Any]) -> tuple[str, str] | None:
    """Where the data do not satisfy the schema (a JSON Pointer, RFC 6901) and why, without repeating a value; None
    where they do.
    """
    if validator.is_valid(data):
        return None
    error = next(validator.iter_errors(data))
    message = error.message[:_MAX_MESSAGE]
    return "".join(below("", part) for part in error.instance_path), f"{message[:1].upper()}{message[1:]}."


def _parts(schema: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The schema and all that are in it, each before what is in it; the nesting is bounded by that of its YAML."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise _unusable(path, "A schema is an object, or true or false.")
    yield path, schema
    for keyword, value in schema.items():
        where = below(path, keyword)
        if keyword in _SCHEMA:
            yield from _parts(value, where)
        elif keyword in _SCHEMAS and isinstance(value, list):
            for place, item in enumerate(value):
                yield from _parts(item, below(where, place))
        elif keyword in _NAMED_SCHEMAS and isinstance(value, Mapping):
            for name, item in value.items():
                yield from _parts(item, below(where, name))


def _check(path: str, part: Mapping[str, Any]) -> None:
    for keyword in part:
        if keyword in (PERSONAL, SUBJECT):
            hint = "Give the event a pseudonym as its entity, and keep who that is where it can be erased."
            raise _unusable(below(path, keyword), "Events stay for ever: they take no personal data.", hint)
        if keyword not in _VALUES | _SCHEMA | _SCHEMAS | _NAMED_SCHEMAS:
            what = f"The keyword {str(keyword)[:60]!r} is not taken in event types."
            raise _unusable(below(path, keyword), what)
    if (form := part.get("format")) is not None and form not in _FORMATS:
        raise _unusable(below(path, "format"), f"There is no such format; there are {', '.join(sorted(_FORMATS))}.")


def _unusable(path: str, what: str, hint: str | None = None) -> InvalidInput:
    return InvalidInput("schema_unusable", f"{path}: {what}" if path else what, field="schema", hint=hint)
