"""YAML as people write policies, read as JSON values, with the line and column of every part; and written.

Plain scalars mean what they mean in JSON: `no` is a text, `0x1F` and `2026-01-31` are texts. Anchors, aliases, tags,
several documents, names that are given twice and nesting beyond `MAX_DEPTH` are refused: the first two make large
documents of small ones, the others are mistakes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from stemma.errors import InvalidInput, TooLarge

MAX_BYTES: Final = 1 << 15
MAX_DEPTH: Final = 16

_LITERALS: Final = {"true": True, "false": False, "null": None, "~": None, "": None}
_NUMBER: Final = re.compile(r"[-+]?([0-9]+)(\.[0-9]+)?([eE][-+]?[0-9]{1,4})?")
_MAX_DIGITS: Final = 16
_WIDTH: Final = 110
_ONE_LINE: Final = 80
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A line and a column, from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Text:
    """A document: its JSON value, and where its parts are."""

    value: Any
    places: Mapping[Path, Place]

    def place(self, path: Path) -> Place:
        """Where a part begins, or the nearest part around it that is there."""
        while path not in self.places:
            path = path[:-1]
        return self.places[path]


def read(text: str, *, field: str) -> Text:
    """Read a document.

    Raises InvalidInput that names the field, with line and column in its message, for what is no YAML or not taken
    here; TooLarge over `MAX_BYTES`.
    """
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise TooLarge("yaml_too_large", f"It has more than {MAX_BYTES:,} bytes.", field=field)
    try:
        return _Reader(field).read(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _refused(field, mark, f"It is no YAML: {error.problem or error.context}.") from error
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        what = "It holds a character that YAML does not take."
        raise InvalidInput("yaml_invalid", what, field=field, hint="Remove it, or write it as an escape.") from error


def write(value: Any) -> str:
    """A JSON value as YAML that `read` reads as the same value; short collections of scalars on one line."""
    return yaml.dump(value, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=_WIDTH)


class _Writer(yaml.SafeDumper):
    """Writes what people would: no aliases, items indented, quotes where a text would be read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _written_text(writer: _Writer, text: str) -> yaml.Node:
    style = '"' if text in _LITERALS or _NUMBER.fullmatch(text) else None
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _written_number(writer: _Writer, number: float) -> yaml.Node:
    if number.is_integer() and abs(number) < 10**_MAX_DIGITS:
        return writer.represent_int(int(number))
    return writer.represent_float(number)


def _written_mapping(writer: _Writer, members: Mapping[str, Any]) -> yaml.Node:
    return _short(writer.represent_mapping("tag:yaml.org,2002:map", members.items(), flow_style=False))


def _written_list(writer: _Writer, items: list[Any]) -> yaml.Node:
    return _short(writer.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=False))


def _short(node: yaml.CollectionNode) -> yaml.Node:
    """On one line, where there is nothing but scalars and little of them."""
    parts = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
    scalars = all(isinstance(part, yaml.ScalarNode) for part in parts)
    node.flow_style = scalars and sum(len(part.value) + 2 for part in parts) <= _ONE_LINE
    return node


_Writer.add_representer(str, _written_text)
_Writer.add_representer(float, _written_number)
_Writer.add_representer(dict, _written_mapping)
_Writer.add_representer(list, _written_list)


class _Reader:
    """Makes values of the parser's events, so that the depth is known before anything is nested."""

    def __init__(self, field: str) -> None:
        self.field = field
        self.places: dict[Path, Place] = {}
        self.documents = 0

    def read(self, text: str) -> Text:
        self.events = yaml.parse(text, Loader=_LOADER)
        value = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                self.documents += 1
                if self.documents > 1:
                    raise self._refuse(event, "It has several documents.")
                value = self._value(next(self.events), ())
        if not self.documents:
            raise InvalidInput("yaml_invalid", "It is empty.", field=self.field)
        return Text(value, self.places)

    def _value(self, event: Any, path: Path) -> Any:
        self.places[path] = _place(event.start_mark)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise self._refuse(event, "Anchors and aliases are not taken here.")
        if getattr(event, "tag", None) is not None:
            raise self._refuse(event, "Tags are not taken here.")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if len(path) == MAX_DEPTH:
            raise self._refuse(event, f"It is nested deeper than {MAX_DEPTH} levels.")
        return self._mapping(path) if isinstance(event, yaml.MappingStartEvent) else self._sequence(path)

    def _mapping(self, path: Path) -> dict[str, Any]:
        members: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None or event.tag is not None:
                raise self._refuse(event, "A name has to be a plain text.")
            self._check(event)
            if event.value in members:
                raise self._refuse(event, f"The name {event.value[:60]!r} is given twice.")
            where = (*path, event.value)
            members[event.value] = self._value(next(self.events), where)
        return members

    def _sequence(self, path: Path) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, len(items))))
        return items

    def _scalar(self, event: Any) -> Any:
        self._check(event)
        text: str = event.value
        if event.style:
            return text
        if text in _LITERALS:
            return _LITERALS[text]
        found = _NUMBER.fullmatch(text)
        if found is None:
            return text
        whole = found[2] is None and found[3] is None
        if whole and len(found[1]) <= _MAX_DIGITS:
            return int(text)
        number = float(text)
        if whole or not math.isfinite(number):
            raise self._refuse(event, f"The number {text[:60]} is beyond what is read here.")
        return number

    def _check(self, event: Any) -> None:
        if "\0" in event.value or any("\ud800" <= character <= "\udfff" for character in event.value):
            raise self._refuse(event, "The text holds U+0000 or half a surrogate pair.")

    def _refuse(self, event: Any, what: str) -> InvalidInput:
        return _refused(self.field, event.start_mark, what)


def _refused(field: str, mark: Any, what: str) -> InvalidInput:
    where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return InvalidInput("yaml_invalid", f"{what.rstrip('.')}{where}.", field=field)


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def pointer(path: Path) -> str:
    """A path as people read it: `bundles[0].rules[2].when`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".")
