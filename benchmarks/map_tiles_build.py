"""The process of ours that `map_tiles` measures: GeoParquet in, archive out; prints its peak memory in MiB."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pyarrow import parquet

from stemma.maps.building import Provenance, build_points
from stemma.maps.features import column_of, coordinates
from stemma.maps.point_tiles import PointLayer
from stemma.maps.points import Points

_COLUMNS = ("type", "code", "date", "hour", "district", "block")


def _build(source: Path, target: Path) -> None:
    """Read, arrange, encode, compress, write."""
    table = parquet.read_table(source, read_dictionary=list(_COLUMNS))
    longitude, latitude = coordinates(table["geometry"])
    ids = table["id"].to_numpy()
    columns = [column_of(name, table[name]) for name in _COLUMNS]
    del table
    layer = PointLayer("points", category="type")
    build_points(target, Points.of(ids, longitude, latitude, columns), layer, Provenance("Points"))


if __name__ == "__main__":
    _build(Path(sys.argv[1]), Path(sys.argv[2]))
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    print(int(peak[1]) / 1024 if peak else 0)
