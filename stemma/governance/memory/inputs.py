"""What a day is made of: a hash over its events, decisions and outcomes, for each node.

An event and a decision belong to the day on which the event occurred, an outcome to the day on which it was observed,
all in UTC. Whatever changes one of them changes the hash of its day, and of no other.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from stemma.governance import nodes
from stemma.governance.memory.windows import event_types
from stemma.governance.nodes import Node
from stemma.registry import catalog
from stemma.store.database import Connection

Key = tuple[str, date]
"""A node's name and a day."""


@dataclass(frozen=True, slots=True)
class Span:
    """Days from `first` to `last`, both among them."""

    first: date
    last: date

    @property
    def since(self) -> datetime:
        """The moment at which it begins."""
        return datetime(self.first.year, self.first.month, self.first.day, tzinfo=UTC)

    @property
    def until(self) -> datetime:
        """The moment before which it ends."""
        return datetime(self.last.year, self.last.month, self.last.day, tzinfo=UTC) + timedelta(days=1)

    @property
    def parameters(self) -> dict[str, Any]:
        """For statements that name its moments and days."""
        return {"since": self.since, "until": self.until, "first": self.first, "last": self.last}


_EVENTS = """
    SELECT type, (occurred_at AT TIME ZONE 'UTC')::date, sha256(string_agg(sha256, ''::bytea ORDER BY id))
    FROM events WHERE occurred_at >= %(since)s AND occurred_at < %(until)s GROUP BY 1, 2
"""
_DECISIONS = """
    SELECT node, (occurred_at AT TIME ZONE 'UTC')::date,
        sha256(convert_to(string_agg(concat_ws(' ', id, state, effect), E'\\n' ORDER BY id), 'UTF8'))
    FROM decisions WHERE occurred_at >= %(since)s AND occurred_at < %(until)s GROUP BY 1, 2
"""
_OUTCOMES = """
    SELECT d.node, (o.observed_at AT TIME ZONE 'UTC')::date,
        sha256(convert_to(string_agg(concat_ws(' ', o.decision_id, o.revision), E'\\n' ORDER BY o.decision_id), 'UTF8'))
    FROM outcomes AS o JOIN decisions AS d ON d.id = o.decision_id
    WHERE o.observed_at >= %(since)s AND o.observed_at < %(until)s GROUP BY 1, 2
"""


def published_nodes(connection: Connection) -> list[Node]:
    """Every node as `latest` is, by name."""
    found: list[Node] = []
    cursor: str | None = None
    while True:
        page = catalog.list_newest(connection, nodes.KIND, cursor=cursor, limit=200)
        found += [nodes.load(connection, f"{summary.name}@{summary.version}") for summary in page.data]
        if (cursor := page.next_cursor) is None:
            return found


def types_of(node: Node) -> set[str]:
    """The types of events that belong to a node's memory: those it decides, and those its features look at."""
    return set(node.events).union(*(event_types(node, feature) for feature in node.features.values()))


def day_hashes(connection: Connection, known: Sequence[Node], span: Span) -> dict[Key, bytes]:
    """The hash of each day of each node on which anything happened."""
    parts: dict[Key, list[bytes]] = defaultdict(list)
    watching: dict[str, list[str]] = defaultdict(list)
    for node in known:
        for kind in types_of(node):
            watching[kind].append(node.name)
    for kind, day, digest in sorted(connection.execute(_EVENTS, span.parameters).fetchall()):
        for name in watching[kind]:
            parts[name, day].append(b"event\0" + kind.encode() + digest)
    names = {node.name for node in known}
    for what, query in ((b"decision", _DECISIONS), (b"outcome", _OUTCOMES)):
        for name, day, digest in connection.execute(query, span.parameters).fetchall():
            if name in names:
                parts[name, day].append(what + digest)
    return {key: hashed(parts[key]) for key in sorted(parts)}


def hashed(parts: Iterable[bytes]) -> bytes:
    """SHA-256 over parts, each by its own hash, so that none runs into the next."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.digest()


def whole_span(connection: Connection) -> Span | None:
    """From the first day on which anything happened to the last; None where nothing did."""
    row = connection.execute(
        """
        SELECT least((SELECT min(occurred_at) FROM events), (SELECT min(observed_at) FROM outcomes)),
            greatest((SELECT max(occurred_at) FROM events), (SELECT max(observed_at) FROM outcomes))
        """
    ).fetchone()
    if row is None or row[0] is None:
        return None
    return Span(row[0].astimezone(UTC).date(), row[1].astimezone(UTC).date())
