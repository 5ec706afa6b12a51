"""How the studio stands now, read from the domain's tables and Dagster's instance."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import definitions
from resources.instance import open_instance
from stemma.errors import StemmaError
from stemma.knowledge import generations
from stemma.ledger.signer import sign_once
from stemma.ledger.standing import newest_head, read_standing
from stemma.store.database import Database
from stemma.store.settings import Settings
from stemma.telemetry.health import ServiceHealth, latest

_LONG = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """One source and what was made of it."""

    name: str
    documents: int
    chunks: int
    quarantined: int
    last_read: datetime | None


@dataclass(frozen=True, slots=True)
class AssetStatus:
    """The last materialization of one asset."""

    key: str
    materialized_at: datetime | None
    run_id: str | None


@dataclass(frozen=True, slots=True)
class LedgerStatus:
    """How many entries there are and wait for a signed head; `alert` is why they may wait for long."""

    entries: int
    waiting: int
    head_at: datetime | None
    alert: str | None


@dataclass(frozen=True, slots=True)
class Overview:
    """Sources, assets, the active index generation, the ledger, and how the services stood when last looked at."""

    sources: tuple[SourceStatus, ...]
    assets: tuple[AssetStatus, ...]
    index: generations.Generation | None
    ledger: LedgerStatus
    services: tuple[ServiceHealth, ...]


def read_overview(settings: Settings, database: Database) -> Overview:
    """Read everything that `stemma status` shows."""
    with database.snapshot() as connection:
        rows = connection.execute("""
            SELECT s.name,
                (SELECT count(*) FROM documents d WHERE d.source = s.name AND NOT d.removed),
                (SELECT count(*) FROM chunks c JOIN documents d ON d.id = c.document_id
                  WHERE d.source = s.name AND NOT c.retired),
                (SELECT count(*) FROM document_quarantine q WHERE q.source = s.name),
                (SELECT max(d.read_at) FROM documents d WHERE d.source = s.name)
            FROM knowledge_sources s ORDER BY s.name
        """).fetchall()
        index = generations.active(connection)
        services = latest(connection)
    return Overview(
        tuple(SourceStatus(*row) for row in rows),
        _assets(settings, database),
        index,
        _ledger(settings, database),
        services,
    )


def _ledger(settings: Settings, database: Database) -> LedgerStatus:
    """Sign what waits where no other process does, which shows what keeps it from being signed."""
    alert = None
    try:
        sign_once(database.urls.app, settings)
    except StemmaError as error:
        alert = str(error)
    try:
        head = newest_head(settings)
    except StemmaError as error:
        head, alert = None, alert or str(error)
    with database.snapshot() as connection:
        standing = read_standing(connection, head)
    entries = sum(chain.entries for chain in standing.chains)
    if alert is None and standing.waiting_since and datetime.now(UTC) - standing.waiting_since > _LONG:
        alert = "The process that signs does not get its heads written; its log and GET /readyz say why."
    return LedgerStatus(entries, standing.waiting, standing.head_at, alert)


def _assets(settings: Settings, database: Database) -> tuple[AssetStatus, ...]:
    found = []
    with open_instance(settings, database.urls) as instance:
        keys = definitions.defs.resolve_asset_graph().toposorted_asset_keys
        for key in keys:
            event = instance.get_latest_materialization_event(key)
            at = datetime.fromtimestamp(event.timestamp, UTC) if event else None
            found.append(AssetStatus(key.to_user_string(), at, event.run_id if event else None))
    return tuple(found)
