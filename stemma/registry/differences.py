"""How two contents differ, part by part.

A list whose items all have an `id` or a `name` of their own is compared by it, so that a rule that was put first does
not make every other look changed; that its order changed is a difference, too. Other lists are compared by place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

_IDENTITIES: Final = ("id", "name")


class Step(StrEnum):
    """What happened to a part."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    MOVED = "moved"


@dataclass(frozen=True, slots=True)
class Difference:
    """One part that differs, its values before and after (None where there was none), or its items' order.

    `path` is in the form of a JSON Pointer (RFC 6901), with an item's id or name in place of its index.
    """

    path: str
    step: Step
    before: Any = None
    after: Any = None


def differences(before: Any, after: Any) -> tuple[Difference, ...]:
    """What leads from one JSON value to another; nothing where they are equal."""
    return tuple(_compare("", before, after))


def _compare(path: str, before: Any, after: Any) -> Iterator[Difference]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        yield from _members(path, before, after)
    elif isinstance(before, list) and isinstance(after, list):
        yield from _items(path, before, after)
    # To JSON, true is not 1, and 1 is 1.0.
    elif before != after or isinstance(before, bool) is not isinstance(after, bool):
        yield Difference(path, Step.CHANGED, before, after)


def _members(path: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    for name in [*before, *(name for name in after if name not in before)]:
        where = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
        if name not in after:
            yield Difference(where, Step.REMOVED, before=before[name])
        elif name not in before:
            yield Difference(where, Step.ADDED, after=after[name])
        else:
            yield from _compare(where, before[name], after[name])


def _items(path: str, before: list[Any], after: list[Any]) -> Iterator[Difference]:
    for identity in _IDENTITIES:
        old, new = _keyed(before, identity), _keyed(after, identity)
        if old is not None and new is not None:
            yield from _members(path, old, new)
            kept = [key for key in old if key in new]
            moved = [key for key in new if key in old]
            if kept != moved:
                yield Difference(path, Step.MOVED, kept, moved)
            return
    yield from _members(path, *({str(index): item for index, item in enumerate(items)} for items in (before, after)))


def _keyed(items: list[Any], identity: str) -> dict[str, Any] | None:
    keys = [item.get(identity) if isinstance(item, Mapping) else None for item in items]
    if not all(isinstance(key, str) for key in keys) or len(set(keys)) < len(keys):
        return None
    return {str(key): item for key, item in zip(keys, items, strict=True)}
