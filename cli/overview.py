"""How the studio stands now, read from the domain's tables and Dagster's instance."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import definitions
from resources.instance import open_instance
from stemma.knowledge import generations
from stemma.store.database import Database
from stemma.store.settings import Settings


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
class Overview:
    """Sources, assets and the active index generation."""

    sources: tuple[SourceStatus, ...]
    assets: tuple[AssetStatus, ...]
    index: generations.Generation | None


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
    return Overview(tuple(SourceStatus(*row) for row in rows), _assets(settings, database), index)


def _assets(settings: Settings, database: Database) -> tuple[AssetStatus, ...]:
    found = []
    with open_instance(settings, database.urls) as instance:
        keys = definitions.defs.resolve_asset_graph().toposorted_asset_keys
        for key in keys:
            event = instance.get_latest_materialization_event(key)
            at = datetime.fromtimestamp(event.timestamp, UTC) if event else None
            found.append(AssetStatus(key.to_user_string(), at, event.run_id if event else None))
    return tuple(found)
