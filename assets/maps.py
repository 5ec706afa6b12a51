"""The map products: for each layer its cleaned features, and of them an archive of tiles that loses none.

Blocking checks on each product stand in `assets/maps_checks.py`.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import astuple, fields
from typing import TYPE_CHECKING

import dagster as dg

from assets.automation import DAILY_FRESHNESS, derived_data
from assets.product import product
from assets.shown import counted, table
from resources.progress import ProgressLog
from resources.store import StoreResource
from stemma.errors import StemmaError
from stemma.maps import versions

if TYPE_CHECKING:
    from stemma.maps.catalog import BuiltArchive, RegisteredLayer
    from stemma.maps.cleaning import Cleaned
    from stemma.maps.row_ledger import RowLedger
    from stemma.store.files import FileStore

MAP_LAYERS = dg.DynamicPartitionsDefinition(name="map_layers")
_SHOWN = 10


@product(
    key=["maps", "features"],
    partitions_def=MAP_LAYERS,
    kinds={"python", "shapely", "parquet"},
    code_version=versions.CLEANING,
    freshness_policy=DAILY_FRESHNESS,
    description=(
        "The features of one layer as GeoParquet: read from its source, mended, without duplicates, and of incidents "
        "nothing that tells of a person. A row ledger accounts for every row; rejected ones are kept with the reason."
    ),
)
def features(
    context: dg.AssetExecutionContext, store: StoreResource, progress: dg.ResourceParam[ProgressLog]
) -> dg.MaterializeResult[None]:
    """Clean one layer."""
    # pyarrow starts a thread as soon as it is imported, and no process with threads can be forked for a run.
    from stemma.maps import catalog, cleaning, lifecycle

    registered = _layer(context, store)
    with store.database.snapshot() as connection:
        in_use = lifecycle.files_of(catalog.list_archives(connection, registered.id))
    with _failure_told(context, store):
        cleaned, changed = cleaning.clean_layer(
            _files(store), registered, store.settings, in_use=in_use, progress=progress.reporter(context)
        )
    ledger = cleaned.ledger
    return dg.MaterializeResult(
        data_version=dg.DataVersion(cleaned.version),
        metadata={
            "summary": f"{ledger.released:,} of {counted(ledger.rows, 'row')} on the map",
            "changed": changed,
            "dagster/row_count": ledger.released,
            "row_ledger": _ledger_table(ledger, cleaned.months),
            "first_rejected": table(("file", "row", "reason", "detail"), _rejected(store, cleaned)),
            "inputs": table(("file", "sha256"), [(item.name, item.sha256) for item in cleaned.inputs]),
            "features": cleaned.features.key,
            "quarantine": cleaned.rejected.key,
        },
    )


@product(
    key=["maps", "tiles"],
    partitions_def=MAP_LAYERS,
    deps=[features],
    kinds={"numpy", "pmtiles"},
    code_version=versions.TILING,
    automation_condition=derived_data(),
    description=(
        "The archive (PMTiles) that the map shows of one layer. A new one is decoded and checked tile by tile, and "
        "only then served; the one before is kept, and served on where the new one does not hold."
    ),
)
def tiles(
    context: dg.AssetExecutionContext, store: StoreResource, progress: dg.ResourceParam[ProgressLog]
) -> dg.MaterializeResult[None]:
    """Build, check and serve the archive of one layer, or confirm the one that is served."""
    from stemma.maps import catalog, cleaning, lifecycle, tiling
    from stemma.maps.part_memory import PartMemory, memory_file

    registered, files = _layer(context, store), _files(store)
    cleaned = cleaning.get_cleaned(files, registered.id)
    with store.database.snapshot() as connection:
        kept = catalog.list_archives(connection, registered.id)
    current = kept[0] if kept else None
    if current and tiling.stands(files, registered.layer, cleaned, current):
        return _served(current, changed=False)
    with _failure_told(context, store):
        store.record(lifecycle.started(registered.id, context.run.run_id))
        decoded = memory_file(store.settings, registered.id)
        memory = PartMemory.load(decoded)
        tiled = tiling.build_archive(
            files, registered.layer, cleaned, current, context.run.run_id, memory, progress=progress.reporter(context)
        )
        memory.save(decoded)
        archive = store.commit(lifecycle.activated(tiled.archive))
    lifecycle.forget(files, kept[1:], (archive, *kept[:1]), cleaned)
    return _served(archive, changed=True, tiles=tiled.report.tiles, copied=tiled.copied, largest=tiled.report.largest)


def _served(archive: "BuiltArchive", *, changed: bool, **figures: int) -> dg.MaterializeResult[None]:
    tile_count = sum(zoom.tiles for zoom in archive.zooms)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(archive.sha256[:32]),
        metadata={
            "summary": f"{counted(tile_count, 'tile')} of {counted(archive.ledger.released, 'feature')}, "
            f"zoom {archive.min_zoom}–{archive.max_zoom}",
            "changed": changed,
            "dagster/row_count": archive.ledger.released,
            "archive": archive.path,
            "version": archive.version,
            "bytes": archive.size,
            "zooms": table(
                ("zoom", "tiles", "as themselves", "counted", "largest tile"), [astuple(zoom) for zoom in archive.zooms]
            ),
            "row_ledger": _ledger_table(archive.ledger, archive.months),
            **figures,
        },
    )


@contextlib.contextmanager
def _failure_told(context: dg.AssetExecutionContext, store: StoreResource) -> Iterator[None]:
    """Let the Historian know why a build failed; that it cannot be told is no reason of its own."""
    import psycopg

    from stemma.maps import lifecycle

    try:
        yield
    except Exception as error:
        with contextlib.suppress(StemmaError, psycopg.Error):
            store.record(lifecycle.failed(context.partition_key, context.run.run_id, error))
        raise


def _layer(context: dg.AssetExecutionContext, store: StoreResource) -> "RegisteredLayer":
    from stemma.maps import catalog

    with store.database.snapshot() as connection:
        return catalog.find_layer(connection, context.partition_key)


def _files(store: StoreResource) -> "FileStore":
    from stemma.store.files import FileStore

    return FileStore.open_default(store.settings)


def _ledger_table(ledger: "RowLedger", months: "tuple[RowLedger, ...]") -> dg.MarkdownMetadataValue:
    columns = tuple(field.name for field in fields(ledger))
    return table(columns, [("all", *astuple(ledger)[1:]), *map(astuple, reversed(months))])


def _rejected(store: StoreResource, cleaned: "Cleaned") -> list[tuple[object, ...]]:
    """The first of them; how many there are is in the ledger."""
    return [tuple(row.values()) for row in cleaned.rejected.read(_files(store)).slice(0, _SHOWN).to_pylist()]
