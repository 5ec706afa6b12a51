"""The map: layers with their filters, what is in them as tables, their row ledger and receipt, and building them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api import ranges
from api.access import allow
from api.console import basemap
from api.console.forms import FormOnceDep, kept, new_token, redirect
from api.console.pages.jobs import told
from api.console.rendering import render
from api.deps import DatabaseDep, LedgerDep, PageDep, SettingsDep
from api.launches import LaunchesDep
from api.limits import limited
from api.routers.maps import ARCHIVE_TYPE
from api.routers.maps import PATH as API_PATH
from stemma.access.principal import Principal
from stemma.jobs import catalog as jobs
from stemma.jobs import kinds, launching, submission
from stemma.jobs.model import Job, JobEvent
from stemma.maps import serving, summary
from stemma.maps.basemap import MAX_ZOOM
from stemma.maps.catalog import BuiltArchive
from stemma.maps.layers import Layer
from stemma.maps.row_ledger import RowLedger
from stemma.maps.serving import ServedLayer
from stemma.store.database import Connection, Database
from stemma.store.files import FileStore, OpenFile
from stemma.store.settings import Settings

PATH: Final = "/play/map"
BUILD: Final = "map:build"

router = APIRouter(prefix=PATH, route_class=limited("console"), include_in_schema=False)

ReaderDep = Annotated[Principal, allow("map:read")]
BuilderDep = Annotated[Principal, allow("jobs:write")]
LayerPath = Annotated[str, Path(max_length=64, pattern=r"^[a-z0-9_-]+$")]

_COLOURS: Final = 7
_FEATURES: Final = 10
_JOBS: Final = 100
_EVENTS: Final = 500
_MEANINGS: Final = (
    ("kept", "on the map as it was"),
    ("repaired", "on the map after its geometry was mended"),
    ("suppressed", "withheld by the privacy rule"),
    ("duplicate", "the same id as a row before it"),
    ("out_of_bounds", "outside the layer's bounds or the world, or swapped"),
    ("no_coordinate", "no usable geometry"),
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A layer as the page shows it. `colour` numbers its own one; `description` is what its script needs."""

    served: ServedLayer
    colour: int
    on: bool
    description: str

    @property
    def layer(self) -> Layer:
        """The layer's description."""
        return self.served.registered.layer

    @property
    def archive(self) -> BuiltArchive | None:
        """What is served of it."""
        return self.served.archive


@dataclass(frozen=True, slots=True)
class Value:
    """A value to filter by: how many features have it, and the number of its colour."""

    value: str
    count: int
    colour: int
    on: bool


@dataclass(frozen=True, slots=True)
class Filters:
    """What the address asks for of the layer in question; no category at all stands for every one."""

    only: tuple[str, ...]
    since: str
    until: str


@router.get("")
def show(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    settings: SettingsDep,
    page: PageDep,
    about: Annotated[str, Query(max_length=64)] = "",
    on: Annotated[list[str] | None, Query(max_length=200)] = None,
    only: Annotated[list[str] | None, Query(max_length=600)] = None,
    since: Annotated[str, Query(max_length=200, alias="from")] = "",
    until: Annotated[str, Query(max_length=200, alias="to")] = "",
) -> Response:
    """Every layer that the caller may see; all about one of them. Scripts draw the map and keep the address."""
    with database.snapshot() as connection:
        layers = serving.visible_layers(connection, principal)
        chosen = _chosen(connection, principal, layers, about)
        receipt = serving.receipt_of(connection, chosen.archive) if chosen and chosen.archive else None
        job, events = _build(connection, principal, chosen)
    filters = Filters(tuple(only or ()), since, until)
    switched_on = set(on) if on is not None else {chosen.registered.id} if chosen else set()
    return render(
        request,
        "pages/map.html",
        layers=[_shown(number, one, one.registered.id in switched_on) for number, one in enumerate(layers)],
        chosen=chosen,
        receipt=receipt,
        job=job,
        events=events,
        progress=_progress(events),
        told=told,
        may_build=principal.may("jobs:write") and principal.may("map:write"),
        may_read_receipts=principal.may("ledger:read"),
        once=new_token(),
        worker_on=launching.is_on(settings),
        basemap=f"{PATH}/basemap.pmtiles?version={basemap.sha256()[:12]}",
        basemap_zoom=MAX_ZOOM,
        filters=filters,
        **_inside(settings, chosen, filters, page.cursor),
    )


def _chosen(
    connection: Connection, principal: Principal, layers: Sequence[ServedLayer], about: str
) -> ServedLayer | None:
    """The layer that is asked about; without one the first that was built."""
    if about:
        return serving.visible_layer(connection, principal, about)
    return next((one for one in layers if one.archive), layers[0] if layers else None)


def _shown(number: int, served: ServedLayer, on: bool) -> Shown:
    colour = number % _COLOURS
    return Shown(served, colour, on, json.dumps(_described(served, colour)))


def _described(served: ServedLayer, colour: int) -> dict[str, Any]:
    layer, archive = served.registered.layer, served.archive
    described: dict[str, Any] = {"id": layer.id, "title": layer.title, "kind": layer.kind, "colour": colour}
    if archive is None:
        return {**described, "archive": None}
    bounds = archive.bounds
    return {
        **described,
        "archive": f"{API_PATH}/{layer.id}.pmtiles",
        "sha256": archive.sha256,
        "bounds": [bounds.west, bounds.south, bounds.east, bounds.north],
        "zooms": [archive.min_zoom, archive.max_zoom],
        "layers": [one["id"] for one in archive.vector_layers],
        "category": layer.category,
        "time": layer.time,
        "released": archive.ledger.released,
    }


def _inside(settings: Settings, chosen: ServedLayer | None, filters: Filters, cursor: str | None) -> dict[str, Any]:
    """What is in the layer: counts and features; nothing where it was never built."""
    if chosen is None or chosen.archive is None:
        return {"found": None, "categories": (), "features": None, "reasons": ()}
    store = FileStore.open_default(settings)
    found = summary.summarize(store, chosen.registered.layer, chosen.archive)
    return {
        "found": found,
        "categories": tuple(
            Value(one.value, one.count, min(place, _COLOURS), not filters.only or one.value in filters.only)
            for place, one in enumerate(found.categories)
        ),
        "features": summary.list_features(store, chosen.archive, cursor=cursor, limit=_FEATURES),
        "reasons": _reasons(chosen.archive.ledger),
    }


def _reasons(ledger: RowLedger) -> tuple[tuple[str, int, str], ...]:
    return tuple((name, getattr(ledger, name), meaning) for name, meaning in _MEANINGS)


def _build(
    connection: Connection, principal: Principal, chosen: ServedLayer | None
) -> tuple[Job | None, Sequence[JobEvent]]:
    """The newest job that builds the layer, with its events."""
    if chosen is None or not principal.may("jobs:read"):
        return None, ()
    found = jobs.list_jobs(connection, kind=BUILD, limit=_JOBS).data
    job = next((one for one in found if one.input.get("layer") == chosen.registered.id), None)
    return job, jobs.list_events(connection, job.id, limit=_EVENTS) if job else ()


def _progress(events: Sequence[JobEvent]) -> JobEvent | None:
    return next((event for event in reversed(events) if event.kind == "progress"), None)


@router.get("/basemap.pmtiles")
def read_basemap(request: Request, principal: ReaderDep, asked: ranges.AskedDep) -> Response:
    """The basemap; its address changes with it, so that it is kept."""
    opened = OpenFile(basemap.ARCHIVE.open("rb"), basemap.ARCHIVE.stat().st_size, basemap.sha256())
    headers = {"Content-Type": ARCHIVE_TYPE, "Cache-Control": "private, max-age=31536000, immutable"}
    return ranges.respond(request, asked, opened, headers)


@router.post("/{layer}/build")
async def build(
    principal: BuilderDep,
    once: FormOnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    launches: LaunchesDep,
    layer: LayerPath,
) -> Response:
    """Queues the build of a layer and shows how it goes."""
    change = await run_in_threadpool(_submit, database, principal, layer)

    def queued(job: Job) -> Response:
        return redirect(f"{PATH}?about={layer}", said="The build is queued.")

    job = await once.write(ledger, change, kept=lambda job: kept(queued(job)))
    launches.launch(job)
    return queued(job)


def _submit(database: Database, principal: Principal, layer: str) -> Any:
    wanted = submission.JobRequest(kinds.find(BUILD).name, {"layer": layer})

    def submitted(connection: Connection) -> Any:
        serving.visible_layer(connection, principal, layer)
        return submission.submit(connection, principal, wanted)

    return database.read(submitted)
