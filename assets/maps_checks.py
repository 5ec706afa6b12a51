"""Blocking checks on the map products: features that do not add up are not tiled, an archive that fails is an alarm."""

from typing import TYPE_CHECKING

import dagster as dg

from assets.maps import features, tiles
from resources.store import StoreResource

if TYPE_CHECKING:
    from stemma.maps.catalog import BuiltArchive
    from stemma.maps.checks import CheckResult
    from stemma.maps.cleaning import Cleaned
    from stemma.maps.layers import Layer
    from stemma.maps.part_memory import PartMemory
    from stemma.store.files import FileStore

_PARTITION = "dagster/partition"


@dg.asset_check(asset=features, blocking=True, description="Every row is a feature or is rejected for one reason")
def rows_reconcile(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Count what is kept of the run's layer, or of all layers outside a partitioned run."""
    from stemma.maps import checks

    files = _files(store)
    found = {layer.id: checks.rows_reconcile(files, cleaned) for layer, cleaned in _cleaned(context, store)}
    return _verdict(found)


@dg.asset_check(asset=features, blocking=True, description="Columns, ids and shapes are as the layer says")
def features_are_sound(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Look at every feature of the run's layer."""
    from stemma.maps import checks

    files = _files(store)
    found = {layer.id: checks.features_are_sound(files, cleaned, layer) for layer, cleaned in _cleaned(context, store)}
    return _verdict(found)


@dg.asset_check(
    asset=tiles,
    blocking=True,
    description="The served archive decodes, keeps its budget and shows what it declares",
)
def archive_is_sound(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Decode what is served of the run's layer."""
    from stemma.maps import checks

    files = _files(store)
    return _verdict(
        {
            layer.id: checks.archive_is_sound(files, archive, _memory(store, layer))
            for layer, archive in _built(context, store)
        }
    )


@dg.asset_check(
    asset=tiles, blocking=True, description="No tile of an incident layer shows a raw coordinate or a denied value"
)
def nothing_raw_is_shown(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """Compare every tile of the run's layer with its released features."""
    from stemma.maps import checks

    files = _files(store)
    found = {
        layer.id: checks.nothing_raw_is_shown(files, built, layer, _memory(store, layer))
        for layer, built in _built(context, store)
    }
    return _verdict(found)


def _files(store: StoreResource) -> "FileStore":
    from stemma.store.files import FileStore

    return FileStore.open_default(store.settings)


def _memory(store: StoreResource, layer: "Layer") -> "PartMemory":
    from stemma.maps.part_memory import PartMemory, memory_file

    return PartMemory.load(memory_file(store.settings, layer.id))


def _layers(context: dg.AssetCheckExecutionContext, store: StoreResource) -> "list[Layer]":
    from stemma.maps import catalog

    wanted = context.run.tags.get(_PARTITION)
    with store.database.snapshot() as connection:
        found = catalog.list_layers(connection)
    return [item.layer for item in found if wanted in (None, item.id)]


def _cleaned(context: dg.AssetCheckExecutionContext, store: StoreResource) -> "list[tuple[Layer, Cleaned]]":
    from stemma.maps import cleaning

    files = _files(store)
    found = ((layer, cleaning.find_cleaned(files, layer.id)) for layer in _layers(context, store))
    return [(layer, cleaned) for layer, cleaned in found if cleaned is not None]


def _built(context: dg.AssetCheckExecutionContext, store: StoreResource) -> "list[tuple[Layer, BuiltArchive]]":
    from stemma.maps import catalog

    with store.database.snapshot() as connection:
        archives = catalog.current_archives(connection)
    return [(layer, archives[layer.id]) for layer in _layers(context, store) if layer.id in archives]


def _verdict(found: dict[str, "CheckResult"]) -> dg.AssetCheckResult:
    """The results of the layers in one."""
    problems = [f"{layer}: {problem}" for layer, result in found.items() for problem in result.problems]
    return dg.AssetCheckResult(
        passed=not problems,
        description="; ".join(problems[:3]) or None,
        metadata={
            "problems": len(problems),
            "first": dg.MetadataValue.md("\n".join(f"- {problem}" for problem in problems[:20]) or "none"),
            "figures": dg.MetadataValue.json({layer: result.figures for layer, result in found.items()}),
        },
    )
