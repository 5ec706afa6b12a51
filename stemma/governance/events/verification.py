"""Whether the events are those that the ledger says were recorded: each as it was, none missing, none put in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from psycopg.rows import dict_row

from stemma.errors import InvalidInput
from stemma.governance.events.recording import CHAIN, RECORDED
from stemma.ledger.entries import Entry, canonical, format_time
from stemma.ledger.feed import Filter, read_after
from stemma.ledger.merkle import Frontier
from stemma.ledger.verification import Finding
from stemma.store.database import Connection

_EVENTS: Final = """
    SELECT id, type, entity, correlation_id, occurred_at, data, sha256 FROM events ORDER BY position
"""
_FETCHED: Final = 1_000


@dataclass(slots=True)
class _Batch:
    """An entry, and what was found of its events so far."""

    entry: Entry
    count: int
    last: str
    root: str
    found: int = 0
    tree: Frontier = field(default_factory=Frontier)

    def flaw(self) -> Finding | None:
        """What is wrong with it, once it is over."""
        if (self.found, self.tree.root().hex()) == (self.count, self.root):
            return None
        what = f"Of the {self.count:,} events of entry {self.entry.seq:,}, {self.found:,} are found, or others."
        return Finding("events_changed", what, CHAIN, self.entry.seq)


def check(connection: Connection) -> Iterator[Finding]:
    """What does not fit; call it in a snapshot. Every event is read once, in the order in which they were recorded."""
    waiting = {str(entry.data["first"]): entry for entry in _entries(connection)}
    batch: _Batch | None = None
    with connection.cursor(name="events", row_factory=dict_row) as rows:
        rows.itersize = _FETCHED
        for row in rows.execute(_EVENTS):
            name = str(row["id"])
            if (begun := waiting.pop(name, None)) is not None:
                yield from _flaws(batch)
                batch = _begin(begun)
            if bytes(row["sha256"]) != _sha256(row):
                yield Finding("event_edited", f"The event {name} is not what was received.", CHAIN)
            if batch is None:
                yield Finding("event_unrecorded", f"No entry says that the event {name} was recorded.", CHAIN)
                continue
            batch.tree.append(bytes(row["sha256"]))
            batch.found += 1
            if name == batch.last:
                yield from _flaws(batch)
                batch = None
    yield from _flaws(batch)
    for entry in waiting.values():
        yield from _flaws(_begin(entry))


def _entries(connection: Connection) -> Iterator[Entry]:
    seq, more = 0, True
    while more:
        stretch = read_after(connection, CHAIN, Filter(kind=RECORDED), seq, limit=_FETCHED)
        seq, more = stretch.seq, stretch.more
        yield from stretch.entries


def _begin(entry: Entry) -> _Batch:
    said = entry.data
    return _Batch(entry, said["count"], said["last"], said["root"])


def _flaws(batch: _Batch | None) -> Iterator[Finding]:
    if batch is not None and (flaw := batch.flaw()) is not None:
        yield flaw


def _sha256(row: Mapping[str, Any]) -> bytes | None:
    said = {name: row[name] for name in ("correlation_id", "data", "entity", "type")}
    try:
        body = canonical({**said, "id": str(row["id"]), "occurred_at": format_time(row["occurred_at"])})
    except InvalidInput:
        return None
    return hashlib.sha256(body).digest()
