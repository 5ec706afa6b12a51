"""A layer's whole way from its description to a checked archive, in one call.

What assets and jobs do in steps, with partitions and receipts, is done here at once, for the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stemma.errors import CheckFailed, InvalidInput
from stemma.maps import privacy
from stemma.maps.building import Provenance, build_points
from stemma.maps.check import check
from stemma.maps.features import clean, to_points
from stemma.maps.layers import Layer, load_layer
from stemma.maps.points import Points
from stemma.maps.row_ledger import RowLedger
from stemma.maps.sources import SourceFile, read, source_files


@dataclass(frozen=True, slots=True)
class LayerBuilt:
    """An archive that passed its check; sizes in bytes, files by name."""

    layer: str
    tiles: int
    size: int
    quarantine: str
    ledger: RowLedger


def build_layer(description: Path, output: Path) -> LayerBuilt:
    """Build the archive of a point layer at `output`, its rejected rows beside it.

    Raises what `load_layer`, `read_features` and `build_points` raise; InvalidInput(kind_unsupported) for lines and
    polygons; CheckFailed(archive_unsound, privacy_unproven), which leave the archive that was there.
    """
    layer = load_layer(description)
    if layer.kind != "points":
        raise InvalidInput("kind_unsupported", f"Tiles of {layer.kind} are not built here yet.", field="kind")
    files = source_files(layer, description.parent)
    features = clean(layer, [read(layer, file) for file in files])
    points = to_points(features.table, layer)
    staged = output.with_name(f".{output.name}.staged")
    quarantine = output.with_suffix(".rejected.parquet")
    try:
        build_points(staged, points, layer.point_layer, provenance_of(layer, files))
        tiles = _checked(staged, points, layer)
        features.write(output.with_suffix(".features.parquet"), quarantine)
        size = staged.stat().st_size
        staged.replace(output)
    finally:
        staged.unlink(missing_ok=True)
    return LayerBuilt(layer.id, tiles, size, quarantine.name, features.ledger)


def provenance_of(layer: Layer, files: list[SourceFile], asset: str = "", partition: str = "") -> Provenance:
    """What the archive says of where it comes from."""
    inputs = tuple(part for file in files for part in file.inputs)
    return Provenance(layer.title, asset, partition, inputs, layer.licence, layer.attribution, layer.description)


def _checked(path: Path, points: Points, layer: Layer) -> int:
    report = check(path)
    if not report.clean:
        raise CheckFailed("archive_unsound", f"The new archive does not hold: {report.problems[0].message}")
    rule = layer.gate
    if rule is not None:
        proof = privacy.prove(path, points, layer.id, rule.level, rule.minimum_count)
        if not proof.holds:
            raise CheckFailed("privacy_unproven", f"The new archive shows too much: {proof.problems[0].message}")
    return report.tiles
