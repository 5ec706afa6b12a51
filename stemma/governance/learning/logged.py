"""Decisions as they were made: what was said to which event in which context, by what draw, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg.rows import dict_row

from stemma.governance.evaluation import Reason
from stemma.governance.policy import Level, Ruling
from stemma.store.database import Connection

_BATCH: Final = 500
_NEWEST: Final = 2**63 - 1
_READ: Final = """
    SELECT d.id, d.position, d.node, d.event_id, d.policy || '@' || d.policy_version AS policy, d.variant, d.draw,
        d.verdict, d.level, d.reasons, d.state, d.effect,
        d.occurred_at, c.content, o.metrics, o.success
    FROM decisions AS d
    JOIN decision_contexts AS c ON c.sha256 = d.context_sha256
    LEFT JOIN outcomes AS o ON o.decision_id = d.id
    WHERE d.position < %(before)s
        AND (%(node)s::text IS NULL OR d.node = %(node)s)
        AND (%(types)s::text[] IS NULL OR d.event_type = ANY(%(types)s))
    ORDER BY d.position DESC LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class Said:
    """What a policy said to an event."""

    verdict: Ruling
    level: Level
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Logged:
    """A decision with what it rests on. `policy` is `name@version`; `effect` is what holds, approve or deny, None while
    nothing does; `metrics` and `success` are its outcome's, None where nothing is known of it.
    """

    id: UUID
    position: int
    node: str
    event_id: UUID
    policy: str
    variant: str
    draw: Mapping[str, Any] | None
    said: Said
    state: str
    effect: Ruling | None
    occurred_at: datetime
    event: Mapping[str, Any]
    context: Mapping[str, Any]
    metrics: Mapping[str, Any] | None
    success: bool | None


def read(
    connection: Connection, *, last: int, node: str | None = None, types: Sequence[str] | None = None
) -> Iterator[Logged]:
    """The last decisions, the newest first, of all nodes or of one, about events of all types or of these."""
    before, left = _NEWEST, last
    while left > 0:
        wanted = {"before": before, "node": node, "types": list(types) if types else None, "limit": min(left, _BATCH)}
        rows = connection.cursor(row_factory=dict_row).execute(_READ, wanted).fetchall()
        for row in rows:
            yield _logged(row)
        if len(rows) < _BATCH:
            return
        before, left = rows[-1]["position"], left - len(rows)


def _logged(row: Mapping[str, Any]) -> Logged:
    rests_on = json.loads(bytes(row["content"]))
    reasons = tuple(Reason(reason["rule"], reason["text"]) for reason in row["reasons"])
    kept = ("id", "position", "node", "event_id", "policy", "variant", "draw", "state", "occurred_at")
    return Logged(
        **{name: row[name] for name in kept},
        said=Said(Ruling(row["verdict"]), Level(row["level"]), reasons),
        effect=Ruling(row["effect"]) if row["effect"] else None,
        event=rests_on["event"],
        context=rests_on["context"],
        metrics=row["metrics"],
        success=row["success"],
    )
