"""Reading the tables of maps: which layers there are, and which archive is served of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from psycopg.rows import dict_row

from stemma.access.principal import Principal
from stemma.errors import NotFound
from stemma.maps.figures import ZoomFigures
from stemma.maps.layers import Layer, parse_layer
from stemma.maps.pmtiles import Bounds
from stemma.maps.row_ledger import RowLedger
from stemma.store.database import Connection

Visibility = Literal["everyone", "members"]

_LAYERS: Final = "SELECT description, folder, visibility, updated_at, updated_by FROM map_layers"
_ARCHIVES: Final = """
    SELECT layer, version, path, sha256, size, features_path, features_sha256, made_of, bounds, min_zoom, max_zoom,
        vector_layers, zooms, ledger, months, run_id, built_at
    FROM map_tiles
"""


@dataclass(frozen=True, slots=True)
class RegisteredLayer:
    """A layer of the studio. A path of its source is relative to `folder`; None where it is of another machine.

    `everyone` sees a layer who may read maps; `members` only who has `map:read-members` besides.
    """

    layer: Layer
    folder: Path | None
    visibility: Visibility
    updated_at: datetime
    updated_by: str

    @property
    def id(self) -> str:
        """The layer's name in URLs and partitions."""
        return self.layer.id

    def is_visible_to(self, principal: Principal) -> bool:
        """Whether a caller may see it."""
        return principal.may("map:read") and (self.visibility == "everyone" or principal.may("map:read-members"))


@dataclass(frozen=True, slots=True)
class BuiltArchive:
    """An archive of a layer that passed its checks.

    `path` and `features_path` (GeoParquet) are keys of the file store, hashes hexadecimal, `size` is in bytes.
    `made_of` is a fingerprint of all that its bytes follow from. `vector_layers` stands so in TileJSON; `zooms` says
    how each zoom shows the features, `ledger` and `months` where the rows of the source went.
    """

    layer: str
    version: int
    path: str
    sha256: str
    size: int
    features_path: str
    features_sha256: str
    made_of: str
    bounds: Bounds
    min_zoom: int
    max_zoom: int
    vector_layers: tuple[dict[str, Any], ...]
    zooms: tuple[ZoomFigures, ...]
    ledger: RowLedger
    months: tuple[RowLedger, ...]
    run_id: str
    built_at: datetime


def list_layers(connection: Connection) -> tuple[RegisteredLayer, ...]:
    """All layers by id."""
    rows = connection.cursor(row_factory=dict_row).execute(f"{_LAYERS} ORDER BY id").fetchall()
    return tuple(map(_layer, rows))


def find_layer(connection: Connection, layer: str) -> RegisteredLayer:
    """The layer of that id; raises NotFound(layer_unknown)."""
    row = connection.cursor(row_factory=dict_row).execute(f"{_LAYERS} WHERE id = %s", (layer,)).fetchone()
    if row is None:
        raise unknown(layer)
    return _layer(row)


def unknown(layer: str) -> NotFound:
    """What is raised for a layer that there is not, or not for whoever asks."""
    hint = "`stemma maps layers` shows those that there are."
    return NotFound("layer_unknown", f"There is no map layer {layer!r}.", field="layer", hint=hint)


def current_archive(connection: Connection, layer: str) -> BuiltArchive:
    """The archive that is served of a layer; raises NotFound(layer_unknown, layer_not_built)."""
    archive = find_archive(connection, layer)
    if archive is None:
        find_layer(connection, layer)
        hint = f"`stemma maps build {layer}` builds it."
        raise NotFound("layer_not_built", f"The layer {layer} was never built.", field="layer", hint=hint)
    return archive


def find_archive(connection: Connection, layer: str) -> BuiltArchive | None:
    """The archive that is served of a layer, where there is one."""
    return next(iter(_archives(connection, "WHERE layer = %s AND current", layer)), None)


def list_archives(connection: Connection, layer: str) -> tuple[BuiltArchive, ...]:
    """The archives of a layer that are kept, the newest first."""
    return _archives(connection, "WHERE layer = %s ORDER BY version DESC", layer)


def current_archives(connection: Connection) -> dict[str, BuiltArchive]:
    """The archive that is served of each layer that was built."""
    return {archive.layer: archive for archive in _archives(connection, "WHERE current ORDER BY layer")}


def _archives(connection: Connection, where: str, *parameters: str) -> tuple[BuiltArchive, ...]:
    rows = connection.cursor(row_factory=dict_row).execute(_ARCHIVES + where, parameters).fetchall()
    return tuple(map(_archive, rows))


def _layer(row: Mapping[str, Any]) -> RegisteredLayer:
    folder = None if row["folder"] is None else Path(row["folder"])
    described = parse_layer(row["description"])
    return RegisteredLayer(described, folder, row["visibility"], row["updated_at"], row["updated_by"])


def _archive(row: Mapping[str, Any]) -> BuiltArchive:
    read = {
        "bounds": Bounds(*row["bounds"]),
        "vector_layers": tuple(row["vector_layers"]),
        "zooms": tuple(ZoomFigures(**zoom) for zoom in row["zooms"]),
        "ledger": RowLedger(**row["ledger"]),
        "months": tuple(RowLedger(**month) for month in row["months"]),
    }
    return BuiltArchive(**{**row, **read})


def columns(archive: BuiltArchive) -> dict[str, Any]:
    """An archive as its row has it; JSON is for the driver to adapt."""
    return {
        **{name: getattr(archive, name) for name in BuiltArchive.__slots__},
        "bounds": list(asdict(archive.bounds).values()),
        "vector_layers": list(archive.vector_layers),
        "zooms": [asdict(zoom) for zoom in archive.zooms],
        "ledger": asdict(archive.ledger),
        "months": [asdict(month) for month in archive.months],
    }
