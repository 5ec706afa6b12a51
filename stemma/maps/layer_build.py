"""A layer's whole way from its description to a checked archive, in one call.

What assets and jobs do in steps, with partitions and receipts, is done here at once, for the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from stemma.errors import CheckFailed
from stemma.maps import privacy
from stemma.maps.building import Built, Input, Provenance, build_points
from stemma.maps.check import Report, check
from stemma.maps.features import clean, to_points
from stemma.maps.layers import Layer, load_layer
from stemma.maps.origins import opened
from stemma.maps.part_memory import PartMemory
from stemma.maps.row_ledger import RowLedger
from stemma.maps.shape_tiles import build_shapes
from stemma.maps.sources import read
from stemma.store.settings import Settings


@dataclass(frozen=True, slots=True)
class LayerBuilt:
    """An archive that passed its check; sizes in bytes, files by name."""

    layer: str
    tiles: int
    size: int
    quarantine: str
    ledger: RowLedger


def build_layer(description: Path, output: Path, settings: Settings) -> LayerBuilt:
    """Build the archive of a layer at `output`, its rejected rows beside it.

    Raises what `load_layer`, `opened`, `clean`, `build_points` and `build_shapes` raise; CheckFailed(archive_unsound,
    privacy_unproven), which leave the archive that was there.
    """
    layer = load_layer(description)
    with opened(layer, description.parent, settings) as files:
        features = clean(layer, [read(layer, file) for file in files])
        inputs = tuple(part for file in files for part in file.inputs)
    staged = output.with_name(f".{output.name}.staged")
    quarantine = output.with_suffix(".rejected.parquet")
    try:
        build_tiles(staged, features.table, layer, provenance_of(layer, inputs))
        tiles = verified(staged, features.table, layer).tiles
        features.write(output.with_suffix(".features.parquet"), quarantine)
        size = staged.stat().st_size
        staged.replace(output)
    finally:
        staged.unlink(missing_ok=True)
    return LayerBuilt(layer.id, tiles, size, quarantine.name, features.ledger)


def build_tiles(path: Path, features: pa.Table, layer: Layer, provenance: Provenance) -> Built:
    """Write the archive of a layer of any kind; raises what `build_points` or `build_shapes` raises."""
    if layer.kind == "points":
        return build_points(path, to_points(features, layer), layer.point_layer, provenance)
    return build_shapes(path, features, layer, provenance)


def provenance_of(layer: Layer, inputs: tuple[Input, ...], asset: str = "", partition: str = "") -> Provenance:
    """What the archive says of where it comes from."""
    return Provenance(layer.title, asset, partition, inputs, layer.licence, layer.attribution, layer.description)


def verified(path: Path, features: pa.Table, layer: Layer, memory: PartMemory | None = None) -> Report:
    """Check a new archive, also against the layer's privacy rule; parts that `memory` has are not decoded again.

    Raises CheckFailed(archive_unsound, privacy_unproven), whose message is the first problem.
    """
    report = check(path, memory=memory)
    if not report.clean:
        raise CheckFailed("archive_unsound", f"The new archive does not hold: {report.problems[0].message}")
    rule = layer.gate
    if rule is not None:
        points = to_points(features, layer)
        proof = privacy.prove(path, points, layer.id, rule.level, rule.minimum_count, memory)
        if not proof.holds:
            raise CheckFailed("privacy_unproven", f"The new archive shows too much: {proof.problems[0].message}")
    return report
