"""What is known when a node decides: the versions in force, its flags, and what policies call the context.

One statement reads it all, for many decisions at once. Nothing that came after an event is looked at: features and
snapshots of the days before it, similar cases before it, and outcomes that were observed by then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, LiteralString

from psycopg.rows import dict_row

from stemma.governance.decisions.similar import Vector
from stemma.governance.events.model import Event
from stemma.governance.memory import windows
from stemma.governance.nodes import Node
from stemma.registry.references import Reference
from stemma.store.database import Connection

_FEWEST: Final = 3
"""Similar cases with an outcome, below which nothing is concluded from them."""
_DIGITS: Final = 4

_LOOK: Final[LiteralString] = f"""
    SELECT
        clock_timestamp() AS now,
        (SELECT version FROM event_type_versions WHERE name = asked.event_type AND stable
            ORDER BY major DESC, position DESC LIMIT 1) AS event_type_version,
        (SELECT version FROM node_versions WHERE name = asked.node AND stable
            ORDER BY major DESC, position DESC LIMIT 1) AS node_version,
        policy.version AS policy_version,
        (SELECT coalesce(jsonb_object_agg(flag, value), '{{}}') FROM node_flags WHERE node = asked.node) AS flags,
        (SELECT coalesce(jsonb_object_agg(flag, value), '{{}}') FROM node_flags WHERE node = '*') AS flags_of_all,
        (SELECT coalesce(jsonb_agg(jsonb_build_array(variant, draws, successes, failures, stopped_at, stopped_why)),
                         '[]')
            FROM policy_variants_stats AS s
            WHERE s.node = asked.node AND s.policy = asked.policy || '@' || policy.version) AS stats,
        {windows.ROWS} AS features,
        (SELECT jsonb_build_object('day', day, 'sha256', encode(sha256, 'hex')) FROM knowledge_snapshots
            WHERE node = asked.node AND day < asked.day ORDER BY day DESC LIMIT 1) AS snapshot,
        CASE WHEN asked.vector IS NULL THEN '[]' ELSE
            similar_cases(asked.vector, asked.node, asked.model_key, asked.since, asked.at, asked.count)
        END AS similar
    FROM ROWS FROM (json_to_recordset(%(asked)s::json) AS (
            node text, policy text, version text, major bigint, minor bigint, event_type text, entity text, day date,
            features_since date, vector vector, model_key text, since timestamptz, at timestamptz, count integer
        )) WITH ORDINALITY AS asked (
            node, policy, version, major, minor, event_type, entity, day, features_since, vector, model_key, since, at,
            count, place)
        CROSS JOIN LATERAL (SELECT max(version) AS version FROM (
            SELECT version FROM policy_versions
            WHERE name = asked.policy AND (
                version = asked.version
                OR (asked.version IS NULL AND stable
                    AND (asked.major IS NULL OR major = asked.major)
                    AND (asked.minor IS NULL OR minor = asked.minor)))
            ORDER BY major DESC, position DESC LIMIT 1) AS newest) AS policy
    ORDER BY asked.place
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be decided, by which versions: those that are taken to be in force."""

    node: Node
    policy: Reference
    event: Event
    vector: Vector | None


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


def look(connection: Connection, wanted: Sequence[Wanted]) -> list[Found]:
    """Everything that decisions about these have to know, of each as of the time at which it occurred."""
    asked = json.dumps([_asked(one) for one in wanted], default=str)
    with connection.cursor(row_factory=dict_row) as rows:
        found = rows.execute(_LOOK, {"asked": asked}).fetchall()
    return [
        Found(**{**row, "features": _features(one, row["features"])}) for one, row in zip(wanted, found, strict=True)
    ]


def _asked(wanted: Wanted) -> dict[str, Any]:
    node, policy, event, vector = wanted.node, wanted.policy, wanted.event, wanted.vector
    day = _day(event.occurred_at)
    asked = {
        "node": node.name,
        "policy": policy.name,
        "version": policy.version,
        "major": policy.major,
        "minor": policy.minor,
        "event_type": event.type,
        "entity": event.entity,
        "day": day,
        "features_since": windows.since(node, day),
    }
    if vector is None:
        return asked
    return asked | {
        "vector": vector.literal,
        "model_key": vector.model_key,
        "since": event.occurred_at - timedelta(days=node.similar.days),
        "at": event.occurred_at,
        "count": node.similar.count,
    }


def _features(wanted: Wanted, rows: str) -> Mapping[str, Any]:
    if wanted.event.entity is None:
        return {}
    return windows.values_of(wanted.node, _day(wanted.event.occurred_at), rows)


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
