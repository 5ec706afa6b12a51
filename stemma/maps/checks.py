"""Invariants of what is kept of a layer: its cleaned features, and the archive that is served.

They look at the files as they are now, so that they also find what went wrong after a build. What an archive must
satisfy before it is served is `layer_build.verified`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import shapely
from pyarrow import compute, parquet

from stemma.maps import grid, privacy
from stemma.maps.catalog import BuiltArchive
from stemma.maps.check import Report, check
from stemma.maps.cleaning import Cleaned, is_whole
from stemma.maps.features import GEOMETRY, ID, to_points
from stemma.maps.layers import Layer
from stemma.maps.part_memory import PartMemory
from stemma.maps.row_ledger import REJECTED
from stemma.store.files import FileStore

MOST_DECODED: Final = 20_000
"""Of an archive with more tiles, so many are decoded; when it was built, all were."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What is wrong, and the figures behind it."""

    problems: tuple[str, ...]
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def rows_reconcile(files: FileStore, cleaned: Cleaned) -> CheckResult:
    """Every row of the source is a feature or is rejected for one reason, as the row ledger counts them."""
    ledger = cleaned.ledger
    features, rejected = cleaned.features.read(files), cleaned.rejected.read(files)
    counted = {reason: int(count) for reason, count in _counts(rejected["reason"]).items()}
    told = {reason.label: getattr(ledger, reason.label) for reason in REJECTED}
    problems = [
        f"{counted.get(name, 0):,} rows are rejected as {name}, the ledger says {count:,}."
        for name, count in told.items()
        if counted.get(name, 0) != count
    ]
    if len(features) != ledger.released:
        problems.append(f"There are {len(features):,} features, the ledger says {ledger.released:,}.")
    if cleaned.months and sum(month.rows for month in cleaned.months) != ledger.rows:
        problems.append("The months do not add up to the whole.")
    return CheckResult(tuple(problems), {"rows": ledger.rows, "released": len(features), "rejected": len(rejected)})


def features_are_sound(files: FileStore, cleaned: Cleaned, layer: Layer) -> CheckResult:
    """Features have the layer's columns, distinct ids, and valid shapes that lie on the map."""
    table = cleaned.features.read(files)
    problems = []
    if table.column_names != [ID, *layer.attributes, GEOMETRY]:
        problems.append(f"The columns are {', '.join(table.column_names)}.")
    if len(compute.unique(table[ID])) != len(table):
        problems.append("An id is not distinct.")
    shapes = shapely.from_wkb(table[GEOMETRY].to_numpy(zero_copy_only=False))
    invalid = int((~shapely.is_valid(shapes)).sum())
    if invalid:
        problems.append(f"{invalid:,} shapes are not valid.")
    bounds = shapely.bounds(shapes)
    limit = 90.0 if layer.kind != "points" else grid.MAX_LATITUDE
    on_map = (np.abs(bounds[:, [0, 2]]) <= 180).all(axis=1) & (np.abs(bounds[:, [1, 3]]) <= limit).all(axis=1)
    if not on_map.all():
        problems.append(f"{int((~on_map).sum()):,} shapes do not lie on the map.")
    return CheckResult(tuple(problems), {"features": len(table)})


def archive_is_sound(files: FileStore, archive: BuiltArchive, memory: PartMemory) -> CheckResult:
    """The served archive is the one that was recorded, decodes, keeps its budget, and shows what it declares.

    Of a large archive a sample is decoded; parts of tiles that `memory` has are not decoded again.
    """
    total = sum(zoom.tiles for zoom in archive.zooms)
    with files.on_this_machine(archive.path) as path:
        report = check(path, sample=MOST_DECODED if total > MOST_DECODED else None, memory=memory)
    problems = [problem.message for problem in report.problems]
    if not is_whole(files, archive.path, archive.sha256):
        problems.insert(0, f"{archive.path} is not the file that was recorded.")
    figures = {"tiles": report.tiles, "decoded": report.read, "largest": report.largest}
    return CheckResult(tuple(problems), {**figures, "lost_at_a_zoom": _lost(report)})


def nothing_raw_is_shown(files: FileStore, archive: BuiltArchive, layer: Layer, memory: PartMemory) -> CheckResult:
    """No tile of an incident layer shows a raw coordinate, a rare place or a value that was not released.

    Parts of tiles that `memory` has are not decoded again.
    """
    rule = layer.gate
    if rule is None:
        return CheckResult((), {"incidents": False})
    with files.open(archive.features_path) as file:
        points = to_points(parquet.read_table(file), layer)
    with files.on_this_machine(archive.path) as path:
        proof = privacy.prove(path, points, layer.id, rule.level, rule.minimum_count, memory)
    problems = tuple(problem.message for problem in proof.problems)
    return CheckResult(problems, {"incidents": True, "tiles": proof.tiles, "shown": proof.features})


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in compute.value_counts(column).to_pylist()}


def _lost(report: Report) -> int | None:
    """The most features that one zoom does not show: of shapes, those that are too small for it."""
    lost = [figures.lost for figures in report.layers if figures.lost is not None]
    return max(lost, default=None)
