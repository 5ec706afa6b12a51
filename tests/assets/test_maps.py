"""Map layers from a source to what is served: what is built again, what is not, and what a failure leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets import maps, maps_checks
from resources.progress import ProgressLog
from resources.store import StoreResource
from stemma.ledger.feed import Filter, list_entries
from stemma.ledger.journal import HISTORIAN
from stemma.maps import catalog, cleaning, tiling
from stemma.maps.catalog import BuiltArchive, RegisteredLayer
from stemma.maps.layers import Layer, load_layer, parse_layer
from stemma.maps.part_memory import PartMemory
from stemma.store.database import Database
from stemma.store.files import FileStore
from stemma.store.settings import REPOSITORY, Settings

CRIMES = {
    "id": "crimes",
    "title": "Crimes",
    "kind": "points",
    "source": {"path": "crimes", "monthly": True},
    "columns": {"longitude": "lon", "latitude": "lat", "id": "id"},
    "attributes": {"type": {}, "month": {}},
    "category": "type",
    "time": "month",
    "max_zoom": 12,
    "licence": "CC0-1.0",
    "attribution": "Nobody",
}


@pytest.fixture
def settings(studio: tuple[Settings, Database]) -> Settings:
    return studio[0]


@pytest.fixture
def database(studio: tuple[Settings, Database]) -> Database:
    return studio[1]


@pytest.fixture
def files(settings: Settings) -> FileStore:
    return FileStore.open_default(settings)


def write_month(folder: Path, month: str, *places: tuple[float, float]) -> None:
    """Five thefts at each place, and a row without one."""
    rows = [
        f"{lon},{lat},{month}-{place}-{number},Theft,{month}"
        for place, (lon, lat) in enumerate(places)
        for number in range(5)
    ]
    (folder / f"{month}.csv").write_text("\n".join(["lon,lat,id,type,month", *rows, f",,x{month},Theft,{month}"]))


@pytest.fixture
def crimes(request: pytest.FixtureRequest, tmp_path: Path, add_layer: Callable[..., RegisteredLayer]) -> Layer:
    """A layer of two months, of an id of its own: tests share a studio."""
    folder = tmp_path / "crimes"
    folder.mkdir()
    write_month(folder, "2026-01", (-0.1, 51.5), (-0.2, 51.6))
    write_month(folder, "2026-02", (-0.1, 51.5), (2.3, 48.8))
    layer = parse_layer({**CRIMES, "id": request.node.name.replace("_", "-")[:60].strip("-")})
    add_layer(layer, folder=tmp_path)
    return layer


Build = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture(scope="module")
def build(studio: tuple[Settings, Database]) -> Iterator[Build]:
    """Materialize a layer with its checks; with an instance of Dagster that is in memory, which is there at once."""
    with dg.DagsterInstance.ephemeral() as instance:

        def run(layer: Layer, *, fails: bool = False) -> dg.ExecuteInProcessResult:
            instance.add_dynamic_partitions("map_layers", [layer.id])
            checks = dg.load_asset_checks_from_modules([maps_checks])
            resources = {"store": StoreResource(), "progress": ProgressLog()}
            made = dg.materialize(
                [maps.features, maps.tiles, *checks],
                instance=instance,
                partition_key=layer.id,
                resources=resources,
                raise_on_error=False,
            )
            assert made.success is not fails
            return made

        yield run


def metadata(made: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """What the asset of tiles says."""
    (event,) = made.asset_materializations_for_node("maps__tiles")
    return {name: value.value for name, value in event.metadata.items()}


def versions(made: dg.ExecuteInProcessResult) -> list[str]:
    return [event.materialization.tags["dagster/data_version"] for event in made.get_asset_materialization_events()]


def served(database: Database, layer: Layer) -> BuiltArchive:
    with database.snapshot() as connection:
        return catalog.current_archive(connection, layer.id)


def told(database: Database, layer: Layer) -> list[tuple[str, Any]]:
    """What the Historian says of a layer, the oldest first."""
    with database.snapshot() as connection:
        entries = list_entries(connection, HISTORIAN, Filter(kind="map.", subject=f"map/{layer.id}")).data
    return [(entry.kind, entry.data) for entry in reversed(entries)]


def test_a_layer_is_cleaned_tiled_checked_and_served_and_unchanged_is_served_on(
    crimes: Layer, build: Build, database: Database, files: FileStore
) -> None:
    first = build(crimes)
    archive, history = served(database, crimes), told(database, crimes)
    ledger = archive.ledger
    assert [check.passed for check in first.get_asset_check_evaluations()] == [True] * 4
    assert (archive.version, ledger.rows, ledger.released, ledger.no_coordinate) == (1, 22, 20, 2)
    assert [(month.partition, month.kept) for month in archive.months] == [("2026-01", 10), ("2026-02", 10)]
    assert [kind for kind, _ in history] == ["map.registered", "map.build_started", "map.built"]
    assert history[-1][1]["sha256"] == archive.sha256
    assert files.read(archive.path).startswith(b"PMTiles")
    again = build(crimes)
    assert metadata(first)["changed"] and not metadata(again)["changed"]
    assert versions(again) == versions(first)
    assert (served(database, crimes), told(database, crimes)) == (archive, history)


def test_a_new_month_gives_the_bytes_of_a_full_build_and_keeps_one_archive_before(
    crimes: Layer, build: Build, database: Database, files: FileStore, tmp_path: Path
) -> None:
    archives = []
    for month in ("2026-01", "2026-03", "2026-04"):
        write_month(tmp_path / "crimes", month, (2.3, 48.8), (2.4, 48.9))
        made = build(crimes)
        archives.append(served(database, crimes))
    assert metadata(made)["copied"] > 0
    full = tiling.build_archive(files, crimes, cleaning.get_cleaned(files, crimes.id), None, "run", PartMemory())
    assert full.archive.sha256 == archives[-1].sha256
    with database.snapshot() as connection:
        assert catalog.list_archives(connection, crimes.id) == (archives[2], archives[1])
    kept = {stored.key.rpartition("/")[2] for stored in files.list(f"maps/{crimes.id}")}
    assert archives[0].path not in {f"maps/{crimes.id}/{name}" for name in kept}
    assert len(kept) == 2 + 2 + 2  # archives and features of two versions, the cleaning and what it rejected


def test_a_source_that_cannot_be_cleaned_leaves_what_is_served(
    crimes: Layer, build: Build, database: Database, tmp_path: Path
) -> None:
    build(crimes)
    before = served(database, crimes)
    (tmp_path / "crimes" / "2026-02.csv").write_text("lon,lat,id\n1,2,3\n")
    build(crimes, fails=True)
    assert served(database, crimes) == before
    kind, why = told(database, crimes)[-1]
    assert (kind, why["code"]) == ("map.build_failed", "column_missing")
    assert "2026-02.csv has no column type" in why["reason"]


def test_a_changed_month_is_the_only_one_that_is_read_again(
    crimes: Layer, build: Build, settings: Settings, files: FileStore, tmp_path: Path
) -> None:
    folder = settings.home / "maps" / crimes.id
    build(crimes)
    before = {path.name: path.stat().st_ino for path in folder.iterdir() if path.is_file()}
    write_month(tmp_path / "crimes", "2026-02", (2.3, 48.8))
    build(crimes)
    after = {path.name: path.stat().st_ino for path in folder.iterdir() if path.is_file()}
    assert len(before) == len(after) == 2
    assert len(before.items() & after.items()) == 1
    next(iter(folder.glob("[0-9a-f]*"))).write_bytes(b"damaged")
    write_month(tmp_path / "crimes", "2026-02", (2.4, 48.8))
    build(crimes)
    assert [month.kept for month in cleaning.get_cleaned(files, crimes.id).months] == [10, 5]


def test_a_damaged_archive_is_built_again(crimes: Layer, build: Build, database: Database, files: FileStore) -> None:
    build(crimes)
    archive = served(database, crimes)
    files.write(archive.path, b"PMTiles and nothing else")
    assert metadata(build(crimes))["changed"]
    mended = served(database, crimes)
    assert (mended.version, mended.sha256) == (2, archive.sha256)


@pytest.mark.parametrize("name", ["mesa-streets", "columbus-crime"])
def test_sample_layers_of_shapes_are_built(
    name: str, build: Build, database: Database, add_layer: Callable[..., RegisteredLayer]
) -> None:
    sample = load_layer(REPOSITORY / "samples" / "maps" / f"{name}.yaml")
    add_layer(sample)
    assert all(check.passed for check in build(sample).get_asset_check_evaluations())
    archive = served(database, sample)
    assert archive.ledger.released == archive.ledger.rows == archive.zooms[-1].exact
