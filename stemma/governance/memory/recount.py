"""The features worked out a second time, in another way: from each event, decision and outcome, one by one, in Python.

It shares no query and no arithmetic with `features` and `windows`, so that what both say alike is no common mistake.
Days that became stale since they were made are left out: the next run makes them.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from stemma.governance.memory import features, windows
from stemma.governance.memory.days import Product, stale_of
from stemma.governance.memory.inputs import Span, published_nodes, types_of
from stemma.governance.nodes import Feature, Node
from stemma.rules.language import MAX_NUMBER, MAX_TEXT
from stemma.store.database import Connection

_MOST: Final = 20
_EVENTS: Final = """
    SELECT type, entity, occurred_at, id::text, data::text FROM events
    WHERE entity IS NOT NULL AND type = ANY (%(types)s) AND occurred_at >= %(since)s AND occurred_at < %(until)s
"""
_DECISIONS: Final = """
    SELECT event_type, entity, occurred_at, id::text, effect FROM decisions
    WHERE entity IS NOT NULL AND node = %(node)s AND occurred_at >= %(since)s AND occurred_at < %(until)s
"""
_OUTCOMES: Final = """
    SELECT d.event_type, d.entity, o.observed_at, d.id::text, o.metrics::text, o.success
    FROM decisions AS d JOIN outcomes AS o ON o.decision_id = d.id
    WHERE d.entity IS NOT NULL AND d.node = %(node)s AND o.observed_at >= %(since)s AND o.observed_at < %(until)s
"""


@dataclass(frozen=True, slots=True)
class _Fact:
    """Something that is known of an entity: where a pointer finds it, and when."""

    source: str
    type: str
    entity: str
    at: datetime
    id: str
    content: Any

    @property
    def day(self) -> date:
        return self.at.astimezone(UTC).date()


@dataclass(frozen=True, slots=True)
class Recount:
    """How many days of entities were compared, how many windows, how many stale days were left out, and the first
    differences in words.
    """

    days: int
    windows: int
    left_out: int
    differences: tuple[str, ...]


def recount(connection: Connection, span: Span) -> Recount:
    """Compare what each day of a span adds to the features of each entity, and each entity's windows at the end of its
    last day in it, where all days of theirs are made.
    """
    days, whole, left_out = 0, 0, 0
    differences: list[str] = []
    for node in published_nodes(connection):
        wide = Span(span.first - timedelta(days=_longest(node)), span.last)
        stale = {day for _, day in _stale(connection, node, wide)}
        left_out += sum(span.first <= day for day in stale)
        facts, kept = _by_entity(_facts(connection, node, wide)), _kept(connection, node, wide)
        for entity in sorted({*facts, *kept}):
            known, rows = facts[entity], kept[entity]
            seen = {fact.day for fact in known} | {day for day, _ in rows}
            compared = sorted(day for day in seen - stale if span.first <= day)
            ends: list[tuple[date, bool]] = [(day, False) for day in compared]
            if compared and not any(_begin(node, compared[-1]) <= day <= compared[-1] for day in stale):
                ends.append((compared[-1], True))
            for day, whole_window in ends:
                first = date.min if whole_window else day
                counted = _features(node, [fact for fact in known if fact.day >= first], day)
                found = windows.added_up(node, day, [row for row in rows if row[0] >= first])
                if counted != found:
                    differences.append(_told(node, entity, day, counted, found))
            days, whole = days + len(compared), whole + len(ends) - len(compared)
    return Recount(days, whole, left_out, tuple(differences[:_MOST]))


def _stale(connection: Connection, node: Node, span: Span) -> list[tuple[str, date]]:
    wanted = features.inputs(connection, [node], span)
    return [key for key in stale_of(connection, Product.FEATURES, span, wanted) if key[0] == node.name]


def _kept(connection: Connection, node: Node, span: Span) -> dict[str, list[tuple[date, Any]]]:
    found: dict[str, list[tuple[date, Any]]] = defaultdict(list)
    for entity, day, states in connection.execute(
        "SELECT entity, day, features::text FROM entity_features"
        " WHERE node = %s AND day BETWEEN %s AND %s ORDER BY day",
        (node.name, span.first, span.last),
    ).fetchall():
        found[entity].append((day, json.loads(states, parse_float=Decimal)))
    return found


def _begin(node: Node, day: date) -> date:
    """The first day that a window which ends with `day` looks at."""
    return day - timedelta(days=_longest(node) - 1)


def _facts(connection: Connection, node: Node, span: Span) -> Iterator[_Fact]:
    wanted = {**span.parameters, "node": node.name, "types": sorted(types_of(node))}
    for kind, entity, at, of, data in connection.execute(_EVENTS, wanted):
        yield _Fact("event", kind, entity, at, of, {"event": {"data": _exact(data)}})
    for kind, entity, at, of, effect in connection.execute(_DECISIONS, wanted):
        approved = {"approved": effect == "approve"} if effect else {}
        yield _Fact("decision", kind, entity, at, of, {"decision": approved})
    for kind, entity, at, of, metrics, success in connection.execute(_OUTCOMES, wanted):
        how = {} if success is None else {"success": success, "failure": not success}
        yield _Fact("outcome", kind, entity, at, of, {"outcome": {"metrics": _exact(metrics), **how}})


def _by_entity(facts: Iterable[_Fact]) -> dict[str, list[_Fact]]:
    found: dict[str, list[_Fact]] = defaultdict(list)
    for fact in facts:
        found[fact.entity].append(fact)
    return found


def _features(node: Node, facts: Sequence[_Fact], day: date) -> dict[str, Any]:
    values = {}
    for name, feature in node.features.items():
        pointer = feature.of or "/event"
        types = feature.events or list(node.events)
        first = day - timedelta(days=feature.days - 1)
        seen = [
            (fact.at, fact.id, _at(fact.content, pointer))
            for fact in facts
            if fact.source == pointer.split("/")[1] and fact.type in types and first <= fact.day <= day
        ]
        value = _value(feature, seen)
        if value is not None:
            values[name] = value
    return values


def _value(feature: Feature, seen: Sequence[tuple[datetime, str, Any]]) -> Any:
    numbers = [value for _, _, value in seen if isinstance(value, Fraction) and abs(value) <= MAX_NUMBER]
    match feature.aggregate:
        case "count":
            return float(len(seen))
        case "sum":
            return _bounded(float(sum(numbers)))
        case "mean":
            return _bounded(float(sum(numbers)) / len(numbers)) if numbers else None
        case "min":
            return float(min(numbers)) if numbers else None
        case "max":
            return float(max(numbers)) if numbers else None
        case "share":
            truths = [value for _, _, value in seen if isinstance(value, bool)]
            return sum(truths) / len(truths) if truths else None
        case "distinct":
            return float(
                len({json.dumps(value, sort_keys=True, default=str) for _, _, value in seen if value is not None})
            )
        case "last":
            usable = [(at, of, value) for at, of, value in seen if _usable(value)]
            value = max(usable, key=lambda one: one[:2])[2] if usable else None
            return float(value) if isinstance(value, Fraction) else value


def _usable(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    return isinstance(value, bool) or (isinstance(value, Fraction) and abs(value) <= MAX_NUMBER)


def _bounded(value: float) -> float | None:
    return value if abs(value) <= MAX_NUMBER else None


def _at(content: Any, pointer: str) -> Any:
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(content, Mapping):
            content = content.get(name)
        elif isinstance(content, list) and name.isdecimal() and int(name) < len(content):
            content = content[int(name)]
        else:
            return None
    return content


def _exact(text: str) -> Any:
    return json.loads(text, parse_float=Fraction, parse_int=Fraction)


def _longest(node: Node) -> int:
    return max((feature.days for feature in node.features.values()), default=1)


def _told(node: Node, entity: str, day: date, counted: Mapping[str, Any], kept: Mapping[str, Any]) -> str:
    name = next(name for name in sorted({*counted, *kept}) if counted.get(name) != kept.get(name))
    # Entities may be persons: whoever looks into a difference finds them by the day and this hash.
    who = hashlib.sha256(entity.encode()).hexdigest()[:8]
    return f"{node.name} {day} {who}: {name} is kept as {kept.get(name)}, counted as {counted.get(name)}"
