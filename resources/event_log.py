"""Which materializations there are, read from the table of Dagster's event log by plain SQL.

It is for whoever only compares: nothing here imports Dagster, which takes seconds. What an event says is read by
`materializations`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from stemma.ledger.receipts import receipt_id, subject
from stemma.store.database import Connection, Database, connect

SETTLING: Final = timedelta(minutes=1)
"""How long an event may wait for its receipt, and how late one may become visible to readers."""

_PAGE = 10_000


@dataclass(frozen=True, slots=True)
class Unreceipted:
    """A materialization without a receipt."""

    subject: str
    run_id: str
    event: int
    at: datetime

    def __str__(self) -> str:
        return f"{self.subject}, run {self.run_id}, event {self.event}, has no receipt"


def run_name(run_id: str, event: int) -> str:
    """The run of an event; one that was reported outside any run counts as a run of its own."""
    return run_id or f"event-{event}"


def without_receipt(database: Database, *, settled_at: datetime | None = None) -> list[Unreceipted]:
    """The materializations before `settled_at` (default: a minute ago) that have no receipt, in their order."""
    before = (settled_at or datetime.now(UTC) - SETTLING).astimezone(UTC).replace(tzinfo=None)
    missing: list[Unreceipted] = []
    with connect(database.urls.dagster) as dagster, database.snapshot() as connection:
        if dagster.execute("SELECT to_regclass('event_logs')").fetchone() == (None,):
            return []
        with dagster.cursor(name="materializations") as events:
            events.execute(
                """
                SELECT id, run_id, asset_key, partition, timestamp FROM event_logs
                WHERE dagster_event_type = 'ASSET_MATERIALIZATION' AND timestamp < %s ORDER BY id
                """,
                (before,),
            )
            while page := events.fetchmany(_PAGE):
                missing += _without_receipt(connection, page)
    return missing


def _without_receipt(connection: Connection, page: Sequence[tuple[Any, ...]]) -> list[Unreceipted]:
    found = {}
    for event, run_id, asset_key, partition, at in page:
        asset, run = "/".join(json.loads(asset_key)), run_name(run_id, event)
        item = Unreceipted(subject(asset, partition), run, event, at.replace(tzinfo=UTC))
        found[receipt_id(run, asset, partition)] = item
    for (receipt,) in connection.execute("SELECT id FROM receipts WHERE id = ANY(%s)", (list(found),)):
        del found[receipt]
    return list(found.values())
