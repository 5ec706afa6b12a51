"""What another month costs: 32 months of crime in the City of London, built whole, and built of 31 and the last one.

Whole means: read and clean every month, write the features, encode every tile. Another month means: judge the new one,
combine it with the kept ones, write the features, rebuild the archive from the one before. The two take turns in one
process; the processor time of all threads counts, and the median of the paired ratios. Both archives must have the
same bytes. The check of an archive is the same for both and told beside them. The data are not shipped; they are looked
for beside the repository, in `../shared/data/maps`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.studio import Measure, console, publish
from stemma.maps import privacy
from stemma.maps.building import Provenance, build_points
from stemma.maps.check import check
from stemma.maps.features import Features, combine, read_features, same_batches, to_points, without
from stemma.maps.incremental import rebuild_points
from stemma.maps.layers import Layer, parse_layer
from stemma.maps.months import judge_files
from stemma.maps.sources import SourceFile, source_files
from stemma.store.settings import REPOSITORY

LONDON = REPOSITORY.parent / "shared" / "data" / "maps"
_ROUNDS = 15
_SHARE_BAR = 0.25
_LAYER = {
    "id": "london-crime",
    "title": "London",
    "kind": "points",
    "source": {"path": "city_of_london_street", "monthly": True},
    "columns": {"longitude": "Longitude", "latitude": "Latitude", "id": "Crime ID"},
    "category": "type",
    "time": "month",
    "attributes": {"type": {"column": "Crime type"}, "month": {"column": "Month"}},
    "licence": "OGL-UK-3.0",
    "attribution": "data.police.uk",
}
_PROVENANCE = Provenance("London")


def main() -> bool:
    """Run the benchmark; True when every bar is met."""
    if not LONDON.is_dir():
        console.print(f"map_months: skipped, there are no months at {LONDON}")
        return True
    layer = parse_layer(_LAYER)
    files = source_files(layer, LONDON)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept: dict[str, bytes] = {}
        before = combine(layer, judge_files(layer, files[:-1], kept))
        points = to_points(before.table, layer)
        build_points(folder / "before", points, layer.point_layer, _PROVENANCE)
        whole, month = [], []
        for _ in range(_ROUNDS):
            whole.append(_cost(lambda: _whole(layer, folder)))
            month.append(_cost(lambda: _another(layer, folder, files, dict(kept), before)))
        features = read_features(layer, LONDON)
        ledger = features.ledger
        released, rule = to_points(features.table, layer), layer.gate
        assert rule is not None
        checking = _cost(lambda: check(folder / "whole"))
        proving = _cost(lambda: privacy.prove(folder / "whole", released, layer.id, rule.level, rule.minimum_count))
        same = (folder / "whole").read_bytes() == (folder / "month").read_bytes()
        measures = [
            Measure("another month over a full build", _paired(month, whole), bar=_SHARE_BAR, at_least=False),
            Measure("the same bytes", float(same), bar=1),
            Measure("full build, processor time", statistics.median(whole), "s"),
            Measure("another month, processor time", statistics.median(month), "s"),
            Measure("checking either, processor time", checking, "s"),
            Measure("proving either private, processor time", proving, "s"),
            Measure("rows", ledger.rows),
            Measure("rows on the map", ledger.released),
        ]
    return publish("map_months", measures, rounds=_ROUNDS)


def _whole(layer: Layer, folder: Path) -> None:
    features = read_features(layer, LONDON)
    features.write(folder / "features", folder / "rejected")
    build_points(folder / "whole", to_points(features.table, layer), layer.point_layer, _PROVENANCE)


def _another(layer: Layer, folder: Path, files: list[SourceFile], kept: dict[str, bytes], before: Features) -> None:
    features = combine(layer, judge_files(layer, files, kept))
    features.write(folder / "features", folder / "rejected")
    same = same_batches(before.table, features.table)
    old, new = to_points(without(before.table, same), layer), to_points(features.table, layer)
    rebuild_points(folder / "month", folder / "before", old, new, layer.point_layer, _PROVENANCE, same)


def _cost(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _paired(some: list[float], others: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(some, others, strict=True))


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
