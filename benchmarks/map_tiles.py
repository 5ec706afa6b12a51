"""Point tiles beside tippecanoe and freestiler: the same 500,000 invented points, zoom 0–14, one after another.

The points are a city: two hundred centres of very unequal weight, a rural rest, six attributes with 23 to 30,000
values. Each tool is a process of its own, so that its memory and the time of all its threads are its own; speed is
elapsed time, cost is processor time. Tippecanoe reads lines of GeoJSON, the others GeoParquet. Then ours at other
sizes, for how memory grows.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely
from pyarrow import parquet

from benchmarks.studio import Measure, publish
from stemma.maps.check import check
from stemma.maps.point_tiles import TILE_BYTES

_POINTS = 500_000
_SIZES = (100_000, 1_000_000, 5_000_000)
_VALUES = {"type": 31, "code": 350, "date": 365, "hour": 24, "district": 23, "block": 30_000}
_SPEED_BAR, _COST_BAR, _MEMORY_BAR, _LARGE_MEMORY_BAR = 8.0, 0.6, 600.0, 2560.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process took: seconds elapsed, seconds of processors, MiB of memory at most where it says so itself.

    What the system says of a child's memory counts the parent's at the fork.
    """

    elapsed: float
    cpu: float
    memory: float


def main() -> bool:
    """Run the benchmark; True when every bar is met."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, _POINTS, lines=True)
        options = ["-q", "-P", "-z14", "-l", "points", "--drop-densest-as-needed", "-o", folder / "t.pmtiles"]
        theirs = _run([Path(sys.executable).with_name("tippecanoe"), *options, folder / "points.geojsonl"])
        peer = _run([sys.executable, "-c", _FREESTILER, folder / "points.parquet", folder / "f.pmtiles"])
        ours = _ours(folder, "ours.pmtiles")
        again = _ours(folder, "again.pmtiles")
        report = check(folder / "ours.pmtiles")
        same = _sha256(folder / "ours.pmtiles") == _sha256(folder / "again.pmtiles")
        conserved = [f.zoom for f in report.layers if f.retained + f.aggregated == _POINTS and f.lost == 0]
        measures = [
            Measure("tippecanoe's time over ours", theirs.elapsed / ours.elapsed, bar=_SPEED_BAR),
            Measure("our processor time over freestiler's", ours.cpu / peer.cpu, bar=_COST_BAR, at_least=False),
            Measure("our memory", ours.memory, "MiB", bar=_MEMORY_BAR, at_least=False),
            Measure("largest tile", report.largest, "bytes", bar=TILE_BYTES, at_least=False),
            Measure("byte-identical when repeated", float(same), bar=1),
            Measure("zooms that count every point, all tiles decoded", len(conserved), bar=15),
            Measure("problems found by the check", len(report.problems), bar=0, at_least=False),
            Measure("our processor time", ours.cpu, "s"),
            Measure("our processor time, repeated", again.cpu, "s"),
            Measure("tippecanoe's processor time", theirs.cpu, "s"),
            Measure("freestiler's processor time", peer.cpu, "s"),
        ]
        for size in _SIZES:
            _write(folder, size, lines=False)
            used = _ours(folder, "size.pmtiles")
            bar = _LARGE_MEMORY_BAR if size == max(_SIZES) else None
            measures.append(Measure(f"memory for {size:,} points", used.memory, "MiB", bar=bar, at_least=False))
            measures.append(Measure(f"processor time for {size:,} points", used.cpu, "s"))
    return publish("map_tiles", measures, points=_POINTS)


_FREESTILER = """
import sys, geopandas, freestiler
frame = geopandas.read_parquet(sys.argv[1])
freestiler.freestile(frame, sys.argv[2], layer_name="points", max_zoom=14, drop_rate=2.5, quiet=True)
"""


def _ours(folder: Path, output: str) -> Usage:
    return _run([sys.executable, "-m", "benchmarks.map_tiles_build", folder / "points.parquet", folder / output])


def _run(command: list[str | Path]) -> Usage:
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = process.stdout.read().strip()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command[0]} ended with {process.returncode}.")
    return Usage(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, float(said or 0))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(folder: Path, count: int, *, lines: bool) -> None:
    """The points as GeoParquet, and as lines of GeoJSON."""
    random = np.random.default_rng(7)
    weights = random.pareto(1.2, 200) + 0.1
    centre = random.choice(200, count, p=weights / weights.sum())
    spread = random.choice([0.002, 0.01, 0.03], count, p=[0.4, 0.4, 0.2])
    longitude = random.normal(-87.7, 0.12, 200)[centre] + random.normal(0, 1, count) * spread
    latitude = random.normal(41.85, 0.1, 200)[centre] + random.normal(0, 1, count) * spread
    rural = random.random(count) < 0.02
    longitude[rural], latitude[rural] = random.uniform(-91, -85, rural.sum()), random.uniform(39, 44, rural.sum())
    longitude, latitude = longitude.round(6), latitude.round(6)
    columns = {
        name: pa.array([f"{name} {number:05d}" for number in range(values)]).take(
            pa.array(np.minimum(random.pareto(0.7, count) * 2, values - 1).astype(np.int64))
        )
        for name, values in _VALUES.items()
    }
    shapes = pa.array(shapely.to_wkb(shapely.points(longitude, latitude)), pa.binary())
    table = pa.table({"id": pa.array(np.arange(count)), **columns, "geometry": shapes})
    described = {"geometry": {"encoding": "WKB", "geometry_types": ["Point"]}}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": described}
    parquet.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), folder / "points.parquet")
    if not lines:
        return
    with (folder / "points.geojsonl").open("w") as file:
        for place, row in enumerate(table.drop_columns(["geometry"]).to_pylist()):
            geometry = {"type": "Point", "coordinates": [longitude[place], latitude[place]]}
            feature = {"type": "Feature", "id": row.pop("id"), "geometry": geometry, "properties": row}
            file.write(json.dumps(feature) + "\n")


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
