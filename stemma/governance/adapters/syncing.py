"""Recording what adapters read: page by page, with the cursor in the transaction of the events.

What is read again, because it was changed or the cursor was lost, is known by its id and stays as it was first told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from stemma.access.principal import Principal
from stemma.errors import Conflict
from stemma.governance.adapters.adapter import Adapter, Batch
from stemma.governance.events import recording
from stemma.governance.events.catalog import find_events
from stemma.ledger.change import Change
from stemma.ledger.journal import audited
from stemma.ledger.service import Ledger
from stemma.ledger.writer import Statement
from stemma.store.database import Connection, Database

_MOVE: Final = """
    INSERT INTO event_sources (source, cursor, read_at) VALUES (%(source)s, %(cursor)s, %(read_at)s)
    ON CONFLICT (source) DO UPDATE SET cursor = EXCLUDED.cursor, read_at = EXCLUDED.read_at
        WHERE event_sources.cursor = %(before)s
"""


@dataclass(frozen=True, slots=True)
class Synced:
    """What became of a source: facts read, events recorded, and how far it was read."""

    source: str
    read: int
    recorded: int
    cursor: str | None


def sync(
    database: Database,
    ledger: Ledger,
    principal: Principal,
    adapter: Adapter,
    *,
    report: Callable[[Synced], None] = lambda _: None,
) -> Synced:
    """Record what came since the source was read last; reports after each page.

    Raises Forbidden, what `Adapter.read` raises, and Conflict where somebody else reads the same source; what was
    recorded before stays, and the next time goes on from there.
    """
    principal.require("decide:write")
    cursor = database.read(lambda connection: _cursor(connection, adapter.source))
    synced = Synced(adapter.source, 0, 0, cursor)
    for batch in adapter.read(cursor):
        new = _record(database, ledger, principal, synced, batch)
        synced = Synced(adapter.source, synced.read + len(batch.events), synced.recorded + new, batch.cursor)
        report(synced)
    return synced


def _cursor(connection: Connection, source: str) -> str | None:
    row = connection.execute("SELECT cursor FROM event_sources WHERE source = %s", (source,)).fetchone()
    return row[0] if row else None


def _record(database: Database, ledger: Ledger, principal: Principal, before: Synced, batch: Batch) -> int:
    """Record what is not there; gives how many these were."""
    unique = {event.id: event for event in batch.events}
    there = database.read(lambda connection: find_events(connection, unique))
    new = [event for event_id, event in unique.items() if event_id not in there]
    change: Change[Any]
    if new:
        change = database.read(partial(recording.record, principal=principal, events=new))
    elif batch.cursor != before.cursor:
        entries = audited(principal, "event_source.read", resource=before.source, meta={"events": len(unique)})
        change = Change(entries, (), lambda _: ())
    else:
        return 0
    ledger.commit(change, _move(before, batch)).result()
    return len(new)


def _move(before: Synced, batch: Batch) -> Statement:
    values = {"source": before.source, "cursor": batch.cursor, "before": before.cursor, "read_at": datetime.now(UTC)}
    what = f"Somebody else reads {before.source} at the same time."
    return Statement(_MOVE, values, rows=1, refusal=Conflict("source_raced", what, hint="Let them."))
