"""What is handed out of a layer: who sees it, what is served of it, its TileJSON, and the receipt of its archive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stemma.access.principal import Principal
from stemma.ledger.receipt_catalog import list_receipts
from stemma.ledger.receipts import Receipt
from stemma.maps import catalog
from stemma.maps.catalog import BuiltArchive, RegisteredLayer
from stemma.store.database import Connection

TILEJSON = "3.0.0"

_RECEIPTS = 200


@dataclass(frozen=True, slots=True)
class ServedLayer:
    """A layer as one caller may see it; without an archive it was never built."""

    registered: RegisteredLayer
    archive: BuiltArchive | None


def visible_layers(connection: Connection, principal: Principal) -> tuple[ServedLayer, ...]:
    """Every layer that a caller may see, by id."""
    archives = catalog.current_archives(connection)
    return tuple(
        ServedLayer(layer, archives.get(layer.id))
        for layer in catalog.list_layers(connection)
        if layer.is_visible_to(principal)
    )


def visible_layer(connection: Connection, principal: Principal, layer: str) -> ServedLayer:
    """A layer; raises NotFound(layer_unknown) for one that the caller may not see just as for one there is not."""
    registered = catalog.find_layer(connection, layer)
    if not registered.is_visible_to(principal):
        raise catalog.unknown(layer)
    return ServedLayer(registered, catalog.find_archive(connection, layer))


def served_archive(connection: Connection, principal: Principal, layer: str) -> tuple[RegisteredLayer, BuiltArchive]:
    """A layer and its archive; raises NotFound(layer_unknown, layer_not_built)."""
    found = visible_layer(connection, principal, layer)
    return found.registered, found.archive or catalog.current_archive(connection, layer)


def receipt_of(connection: Connection, archive: BuiltArchive) -> Receipt | None:
    """The receipt of the run that made the archive, by the hash of its bytes; None until it is written."""
    receipts = list_receipts(connection, run_id=archive.run_id, limit=_RECEIPTS).data
    made = (one for one in receipts if archive.sha256 in {artifact.sha256 for artifact in one.artifacts})
    return next(made, None)


def tilejson(layer: RegisteredLayer, archive: BuiltArchive, tiles: str) -> dict[str, Any]:
    """The TileJSON 3.0.0 of a layer; `tiles` is the URL of a tile with {z}, {x} and {y}."""
    bounds = archive.bounds
    return {
        "tilejson": TILEJSON,
        "name": layer.layer.title,
        "description": layer.layer.description,
        "attribution": layer.layer.attribution,
        "version": f"{archive.version}.0.0",
        "scheme": "xyz",
        "tiles": [tiles],
        "vector_layers": list(archive.vector_layers),
        "bounds": [bounds.west, bounds.south, bounds.east, bounds.north],
        "center": [(bounds.west + bounds.east) / 2, (bounds.south + bounds.north) / 2, archive.min_zoom],
        "minzoom": archive.min_zoom,
        "maxzoom": archive.max_zoom,
    }
