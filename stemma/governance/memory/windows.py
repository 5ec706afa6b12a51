"""Features as they are asked for: of one entity, over the days before a moment, each feature over its own window.

What a day adds is kept once (`features`). A window is added up when it is read, exactly: numbers are decimals until the
last step. So a late event changes the row of its day alone, and every window that holds it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from typing import Any, Final

from stemma.governance.nodes import Feature, Node
from stemma.rules.language import MAX_NUMBER
from stemma.store.database import Connection

Value = float | str | bool
State = Mapping[str, Any]
_EXACT: Final = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)


@dataclass(frozen=True, slots=True)
class Features:
    """What is known of an entity at the end of `day` (UTC). A feature of which nothing is known is left out;
    `count`, `sum` and `distinct` of nothing are 0.
    """

    entity: str
    day: date
    values: Mapping[str, Value]


ROWS: Final = """
    (SELECT coalesce(jsonb_agg(jsonb_build_array(day, features) ORDER BY day), '[]')::text FROM entity_features
        WHERE node = asked.node AND entity = asked.entity AND day >= asked.features_since AND day < asked.day)
"""
"""The rows of an entity for the windows that end before `day`, as an expression over `asked`; `since` has where they
begin.
"""


def since(node: Node, day: date) -> date:
    """The first day that any window looks at which ends before `day`."""
    return day - timedelta(days=max((feature.days for feature in node.features.values()), default=1))


def values_of(node: Node, day: date, rows: str) -> dict[str, Value]:
    """The features before `day`, of what `ROWS` selected."""
    days = [(date.fromisoformat(of), states) for of, states in json.loads(rows, parse_float=Decimal)]
    return added_up(node, day - timedelta(days=1), days)


def features_on(connection: Connection, node: Node, entity: str, day: date) -> Features:
    """What is known of an entity at the end of a day (UTC)."""
    after = day + timedelta(days=1)
    wanted = {"node": node.name, "entity": entity, "features_since": since(node, after), "day": after}
    values = "VALUES (%(node)s, %(entity)s, %(features_since)s, %(day)s)"
    query = f"SELECT {ROWS} FROM ({values}) AS asked (node, entity, features_since, day)"
    row = connection.execute(query, wanted).fetchone()
    assert row is not None
    return Features(entity, day, values_of(node, after, row[0]))


def added_up(node: Node, day: date, days: Sequence[tuple[date, Mapping[str, State]]]) -> dict[str, Value]:
    """The values of a node's features at the end of `day`, of the rows of one entity in the order of their days."""
    values: dict[str, Value] = {}
    for name, feature in sorted(node.features.items()):
        key, since = feature_key(node, name), day - timedelta(days=feature.days)
        states = [states[key] for of, states in days if since < of <= day and key in states]
        value = combined(feature, states)
        if value is not None:
            values[name] = value
    return values


def combined(feature: Feature, states: Sequence[State]) -> Value | None:
    """What the states of several days come to; None where nothing is known."""
    match feature.aggregate:
        case "count":
            return float(sum(state["n"] for state in states))
        case "sum":
            return _number(_total(states))
        case "mean":
            known = sum(state["n"] for state in states)
            return _number(_total(states), known) if known else None
        case "min":
            return float(min(state["min"] for state in states)) if states else None
        case "max":
            return float(max(state["max"] for state in states)) if states else None
        case "share":
            known = sum(state["known"] for state in states)
            return sum(state["true"] for state in states) / known if known else None
        case "distinct":
            return float(len(set().union(*(state["values"] for state in states))))
        case "last":
            return _plain(max(states, key=lambda state: (state["at"], state["id"]))["value"]) if states else None


def feature_key(node: Node, name: str) -> str:
    """How a feature's states are named: by its name and what it is made of, so that no other definition reads them.

    How many days are looked at is no part of it: windows are added up when they are read.
    """
    feature = node.features[name]
    made_of = [feature.aggregate, feature.of, sorted(event_types(node, feature))]
    return f"{name}:{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:8]}"


def event_types(node: Node, feature: Feature) -> list[str]:
    """The types of events that a feature looks at."""
    return list(feature.events or node.events)


def _total(states: Sequence[State]) -> Decimal:
    total = Decimal(0)
    for state in states:
        total = _EXACT.add(total, Decimal(state["sum"]))
    return total


def _number(total: Decimal, over: int = 1) -> float | None:
    """As a number that conditions take; None for one beyond."""
    value = float(total) / over
    return value if abs(value) <= MAX_NUMBER else None


def _plain(value: Any) -> Value:
    return value if isinstance(value, (bool, str)) else float(value)
