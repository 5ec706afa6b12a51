"""Telling the studio of a layer."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from psycopg.types.json import Jsonb

from stemma.access.principal import Principal
from stemma.errors import Conflict
from stemma.ledger.change import Change
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.maps.catalog import RegisteredLayer, Visibility
from stemma.maps.layers import Layer
from stemma.store.database import Connection, database_time

# A built layer keeps its kind: archives and links to them go on meaning what they meant.
_UPSERT: Final = """
    INSERT INTO map_layers (id, description, folder, title, kind, visibility, updated_at, updated_by)
    VALUES (%(id)s, %(description)s, %(folder)s, %(title)s, %(kind)s, %(visibility)s, %(updated_at)s, %(updated_by)s)
    ON CONFLICT (id) DO UPDATE SET description = excluded.description, folder = excluded.folder,
        title = excluded.title, visibility = excluded.visibility, updated_at = excluded.updated_at,
        updated_by = excluded.updated_by
    WHERE map_layers.kind = excluded.kind
"""


def register(
    connection: Connection,
    principal: Principal,
    layer: Layer,
    *,
    folder: Path | None = None,
    visibility: Visibility = "everyone",
) -> Change[RegisteredLayer]:
    """Add a layer, or describe one anew; what was built of it is served until it is built again.

    `folder` is what the path of a source on this machine is relative to. Raises Forbidden; Conflict(layer_exists) where
    the id is that of a layer of another kind.
    """
    principal.require("map:write")
    registered = RegisteredLayer(layer, folder, visibility, database_time(connection), principal.actor)
    description = layer.model_dump(mode="json", exclude_defaults=True)
    row = {
        "id": layer.id,
        "description": Jsonb(description),
        "folder": None if folder is None else str(folder),
        "title": layer.title,
        "kind": layer.kind,
        "visibility": visibility,
        "updated_at": registered.updated_at,
        "updated_by": registered.updated_by,
    }
    meta = {"title": layer.title, "kind": layer.kind, "visibility": visibility, "licence": layer.licence}
    entries = audited(principal, "map.registered", resource=subject(layer.id), meta=meta, critical=True)
    refusal = Conflict(
        "layer_exists",
        f"The layer {layer.id} exists and is not of {layer.kind}.",
        field="id",
        hint="Choose another id.",
    )
    return Change(entries, (Statement(_UPSERT, row, rows=1, refusal=refusal),), lambda _: registered)


def subject(layer: str) -> str:
    """How the ledger names a layer."""
    return f"map/{layer}"
