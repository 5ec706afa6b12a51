"""Map layers over HTTP: what there is of each, its TileJSON, its tiles one by one, and its archive by ranges.

A layer that a caller may not see is answered like one that there is not.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from api import ranges
from api.access import allow
from api.deps import DatabaseDep, SettingsDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.access.principal import Principal
from stemma.errors import NotFound
from stemma.maps import serving
from stemma.maps.catalog import BuiltArchive, Visibility
from stemma.maps.layers import Kind
from stemma.maps.reading import TileReader
from stemma.maps.row_ledger import RowLedger
from stemma.maps.serving import ServedLayer
from stemma.store.database import Database
from stemma.store.files import FileStore

PATH: Final = f"{API}/map"
ARCHIVE_TYPE: Final = "application/vnd.pmtiles"
TILE_TYPE: Final = "application/vnd.mapbox-vector-tile"

router = APIRouter(prefix=PATH, tags=["map"], route_class=limited("maps"))

ReaderDep = Annotated[Principal, allow("map:read")]
LayerPath = Annotated[str, Path(max_length=64, pattern=r"^[a-z0-9_-]+$", examples=["trees"])]
Number = Annotated[int, Path(ge=0, lt=1 << 30)]

_KEPT: Final = "private, no-cache"


class RowsBody(BaseModel):
    """Where every row of the source went: the reasons are disjoint and sum to `rows`."""

    partition: str = Field(description="A month, or empty for all", examples=["2020-01"])
    rows: int
    kept: int
    repaired: int
    duplicate: int
    no_coordinate: int
    out_of_bounds: int
    suppressed: int = Field(description="Withheld by the privacy rule")
    released: int = Field(description="How many are on the map: kept and repaired")


class ArchiveBody(BaseModel):
    """The archive that is served of a layer."""

    version: int
    sha256: str = Field(description="Hexadecimal")
    size: int = Field(description="Bytes")
    bounds: tuple[float, float, float, float] = Field(description="West, south, east, north")
    min_zoom: int
    max_zoom: int
    run_id: str
    built_at: datetime


class MapLayerBody(BaseModel):
    """A layer; `archive` is null while it was never built."""

    id: str = Field(examples=["trees"])
    title: str
    kind: Kind
    description: str
    licence: str
    attribution: str
    visibility: Visibility
    updated_at: datetime
    archive: ArchiveBody | None


class MapLayersBody(BaseModel):
    """Every layer that the caller may see, by id."""

    data: list[MapLayerBody]


class MapLayerAnswer(MapLayerBody):
    """A layer with its row ledger and the receipt of its archive; both null where there is none."""

    ledger: RowsBody | None
    months: list[RowsBody]
    receipt: UUID | None = Field(description="Id of the receipt; it is written some seconds after the build")


class VectorLayerBody(BaseModel):
    """A layer of the tiles (TileJSON 3.0.0, 3.3)."""

    id: str
    fields: dict[str, str]
    minzoom: int
    maxzoom: int


class TileJsonBody(BaseModel):
    """TileJSON 3.0.0."""

    tilejson: Literal["3.0.0"]
    name: str
    description: str
    attribution: str
    version: str
    scheme: Literal["xyz"]
    tiles: list[str] = Field(examples=[["http://127.0.0.1:8400/api/v1/map/trees/{z}/{x}/{y}.mvt"]])
    vector_layers: list[VectorLayerBody]
    bounds: tuple[float, float, float, float]
    center: tuple[float, float, float]
    minzoom: int
    maxzoom: int


@router.get("", response_model=MapLayersBody, responses=problems(503), summary="List the map layers")
def list_layers(principal: ReaderDep, database: DatabaseDep) -> MapLayersBody:
    """Every layer that the caller may see, with its archive."""
    found = database.read(lambda connection: serving.visible_layers(connection, principal))
    return MapLayersBody(data=[MapLayerBody(**_layer(one)) for one in found])


@router.get(
    "/{layer}.json",
    response_model=TileJsonBody,
    responses=problems(404, 503),
    summary="Read the TileJSON of a layer",
)
def read_tilejson(principal: ReaderDep, database: DatabaseDep, settings: SettingsDep, layer: LayerPath) -> Any:
    """What a map library needs to show the layer: where its tiles are, and what they hold."""
    registered, archive = database.read(lambda connection: serving.served_archive(connection, principal, layer))
    return serving.tilejson(registered, archive, f"{settings.api_url}{PATH}/{layer}/{{z}}/{{x}}/{{y}}.mvt")


@router.get(
    "/{layer}.pmtiles",
    response_class=Response,
    responses={**ranges.RESPONSES, **problems(404, 503)},
    summary="Read the archive of a layer",
)
def read_archive(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    settings: SettingsDep,
    layer: LayerPath,
    asked: ranges.AskedDep,
) -> Response:
    """The PMTiles archive, whole or in part: a map reads the tiles that it shows."""
    archive = _archive(database, principal, layer)
    opened = FileStore.open_default(settings).open_versioned(archive.path)
    headers = {
        "Content-Type": ARCHIVE_TYPE,
        "Content-Disposition": f'attachment; filename="{layer}.pmtiles"',
        "Cache-Control": _KEPT,
    }
    return ranges.respond(request, asked, opened, headers)


@router.get(
    "/{layer}/{z}/{x}/{y}.mvt",
    response_class=Response,
    responses={200: {"description": "The tile", "content": {TILE_TYPE: {"schema": {}}}}, **problems(404, 503)},
    summary="Read a tile of a layer",
)
def read_tile(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    settings: SettingsDep,
    layer: LayerPath,
    z: Number,
    x: Number,
    y: Number,
) -> Response:
    """One vector tile (MVT 2.1), for programs that read no archives; 404 where the layer has nothing there."""
    archive = _archive(database, principal, layer)
    with FileStore.open_default(settings).open(archive.path) as file:
        tile = TileReader(file).tile(z, x, y)
    if tile is None:
        raise NotFound("tile_not_found", f"The layer {layer} has no tile {z}/{x}/{y}.")
    headers = {"Cache-Control": _KEPT, "Vary": "Accept-Encoding"}
    if tile.compressed and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(tile.data, media_type=TILE_TYPE, headers={**headers, "Content-Encoding": "gzip"})
    return Response(tile.content(), media_type=TILE_TYPE, headers=headers)


@router.get(
    "/{layer}", response_model=MapLayerAnswer, responses=problems(404, 503), summary="Read a layer and its row ledger"
)
def read_layer(principal: ReaderDep, database: DatabaseDep, layer: LayerPath) -> MapLayerAnswer:
    """A layer, where every row of its source went, and the receipt of its archive."""
    with database.snapshot() as connection:
        found = serving.visible_layer(connection, principal, layer)
        receipt = serving.receipt_of(connection, found.archive) if found.archive else None
    archive = found.archive
    return MapLayerAnswer(
        **_layer(found),
        ledger=_rows(archive.ledger) if archive else None,
        months=[_rows(month) for month in archive.months] if archive else [],
        receipt=receipt.id if receipt else None,
    )


def _archive(database: Database, principal: Principal, layer: str) -> BuiltArchive:
    return database.read(lambda connection: serving.served_archive(connection, principal, layer))[1]


def _layer(served: ServedLayer) -> dict[str, Any]:
    registered, layer, archive = served.registered, served.registered.layer, served.archive
    names = ("id", "title", "kind", "description", "licence", "attribution")
    return {
        **{name: getattr(layer, name) for name in names},
        "visibility": registered.visibility,
        "updated_at": registered.updated_at,
        "archive": _archive_body(archive) if archive else None,
    }


def _archive_body(archive: BuiltArchive) -> ArchiveBody:
    names = ("version", "sha256", "size", "min_zoom", "max_zoom", "run_id", "built_at")
    bounds = archive.bounds
    return ArchiveBody(
        **{name: getattr(archive, name) for name in names},
        bounds=(bounds.west, bounds.south, bounds.east, bounds.north),
    )


def _rows(ledger: RowLedger) -> RowsBody:
    return RowsBody(**{name: getattr(ledger, name) for name in RowLedger.__slots__}, released=ledger.released)
