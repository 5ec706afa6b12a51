"""What is known when a node decides: the versions in force, its flags, and what policies call the context.

One statement reads it all, in one round trip. Nothing that came after the event is looked at: features and snapshots
of the days before it, similar cases before it, and outcomes that were observed by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, LiteralString

from psycopg.rows import dict_row

from stemma.governance.decisions.similar import Vector
from stemma.governance.memory import windows
from stemma.governance.nodes import Node
from stemma.registry.references import Reference
from stemma.store.database import Connection

_FEWEST: Final = 3
"""Similar cases with an outcome, below which nothing is concluded from them."""
_DIGITS: Final = 4

_LOOK: Final = """
    SELECT
        clock_timestamp() AS now,
        (SELECT version FROM event_type_versions WHERE name = %(event_type)s AND stable
            ORDER BY major DESC, position DESC LIMIT 1) AS event_type_version,
        (SELECT version FROM node_versions WHERE name = %(node)s AND stable
            ORDER BY major DESC, position DESC LIMIT 1) AS node_version,
        policy.version AS policy_version,
        (SELECT coalesce(jsonb_object_agg(flag, value), '{}') FROM node_flags WHERE node = %(node)s) AS flags,
        (SELECT coalesce(jsonb_object_agg(flag, value), '{}') FROM node_flags WHERE node = '*') AS flags_of_all,
        (SELECT coalesce(jsonb_agg(jsonb_build_array(variant, draws, successes, failures, stopped_at, stopped_why)),
                         '[]')
            FROM policy_variants_stats AS s
            WHERE s.node = %(node)s AND s.policy = %(policy)s || '@' || policy.version) AS stats,
        {features} AS features,
        (SELECT jsonb_build_object('day', day, 'sha256', encode(sha256, 'hex')) FROM knowledge_snapshots
            WHERE node = %(node)s AND day < %(day)s ORDER BY day DESC LIMIT 1) AS snapshot,
        {similar} AS similar
    FROM (SELECT max(version) AS version FROM (
        SELECT version FROM policy_versions
        WHERE name = %(policy)s AND (
            version = %(version)s
            OR (%(version)s::text IS NULL AND stable
                AND (%(major)s::bigint IS NULL OR major = %(major)s)
                AND (%(minor)s::bigint IS NULL OR minor = %(minor)s)))
        ORDER BY major DESC, position DESC LIMIT 1) AS newest) AS policy
"""
_NEAREST: Final = """
    similar_cases(%(vector)s::vector, %(node)s, %(model_key)s, %(since)s, %(at)s, %(count)s)
"""
_WITH_SIMILAR: Final[LiteralString] = _LOOK.replace("{features}", windows.ROWS).replace("{similar}", _NEAREST)
_WITHOUT: Final[LiteralString] = _LOOK.replace("{features}", windows.ROWS).replace("{similar}", "'[]'::jsonb")


@dataclass(frozen=True, slots=True)
class Found:
    """What was found, at `now` by the database's clock. `policy_version` is None where the reference resolves to
    nothing; `stats` are rows of counts by variant, `similar` rows of decision, distance, verdict, effect and success.
    """

    now: datetime
    event_type_version: str | None
    node_version: str | None
    policy_version: str | None
    flags: Mapping[str, Any]
    flags_of_all: Mapping[str, Any]
    stats: list[list[Any]]
    features: Mapping[str, Any]
    snapshot: Mapping[str, Any] | None
    similar: list[list[Any]]

    def flag(self, name: str) -> Any:
        """What a flag says, the node's own before that of all nodes; None where it is not set."""
        return self.flags.get(name, self.flags_of_all.get(name))

    def either(self, name: str) -> bool:
        """Whether a flag is true on the node or on all nodes."""
        return self.flags.get(name) is True or self.flags_of_all.get(name) is True


def look(
    connection: Connection,
    node: Node,
    policy: Reference,
    *,
    event_type: str,
    entity: str | None,
    occurred_at: datetime,
    vector: Vector | None,
) -> Found:
    """Everything that a decision of the node about something that occurred then has to know."""
    wanted: dict[str, Any] = {
        "node": node.name,
        "policy": policy.name,
        "version": str(policy.version) if policy.version else None,
        "major": policy.major,
        "minor": policy.minor,
        "event_type": event_type,
        "entity": entity,
        "day": _day(occurred_at),
        "features_since": windows.since(node, _day(occurred_at)),
    }
    if vector is not None:
        wanted |= {
            "vector": vector.literal,
            "model_key": vector.model_key,
            "since": occurred_at - timedelta(days=node.similar.days),
            "at": occurred_at,
            "count": node.similar.count,
        }
    with connection.cursor(row_factory=dict_row) as rows:
        found = rows.execute(_WITH_SIMILAR if vector else _WITHOUT, wanted).fetchone()
    assert found is not None
    features = windows.values_of(node, wanted["day"], found["features"]) if entity is not None else {}
    return Found(**{**found, "features": features})


def assembled(found: Found, *, stopped: bool) -> dict[str, Any]:
    """The context as policies see it; `stopped` is only in that of a stopped node."""
    cases = [
        {
            "decision_id": decision,
            "distance": _number(distance),
            "verdict": verdict,
            "effect": effect,
            "success": success,
        }
        for decision, distance, verdict, effect, success in found.similar
    ]
    context = {
        "confidence": _confidence([case["success"] for case in cases]),
        "similar": cases,
        "features": dict(found.features),
        "snapshot": found.snapshot,
    }
    return {**context, "stopped": True} if stopped else context


def _confidence(outcomes: list[bool | None]) -> float:
    known = [success for success in outcomes if success is not None]
    return _number(sum(known) / len(known)) if len(known) >= _FEWEST else 0


def _number(value: float) -> float:
    """Rounded, and whole where it is whole: then its canonical form is the one that is written fast."""
    short = round(float(value), _DIGITS)
    return int(short) if short.is_integer() else short


def _day(at: datetime) -> date:
    return at.astimezone(UTC).date()
