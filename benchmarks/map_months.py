"""What another month costs: 32 months of crime in the City of London, built whole, and built of 31 and the last one.

Both go the whole way of the studio, by the functions that its assets call: read and clean, keep the features, tile,
check every tile, prove that nothing raw is shown, keep the archive. Whole means with nothing from before; another month
means after 31 were built that way: months that were judged, tiles and parts of tiles that stay, and what was decoded of
them, are there. The two take turns in one process; the processor time of all threads counts, and the median of the
paired ratios. Both archives must have the same bytes, and `stemma maps check`, which remembers nothing, must pass them.
What the database does is the same for both and not in it. The data are not shipped; they are looked for beside the
repository, in `../shared/data/maps`.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.studio import Measure, console, publish
from stemma.maps.catalog import BuiltArchive, RegisteredLayer
from stemma.maps.check import check
from stemma.maps.cleaning import clean_layer
from stemma.maps.layers import parse_layer
from stemma.maps.part_memory import PartMemory, memory_file
from stemma.maps.tiling import build_archive
from stemma.store.files import FileStore
from stemma.store.settings import REPOSITORY, Settings

LONDON = REPOSITORY.parent / "shared" / "data" / "maps"
_MONTHS = "city_of_london_street"
_ROUNDS = 15
_SHARE_BAR = 0.25
_LAYER = parse_layer(
    {
        "id": "london-crime",
        "title": "London",
        "kind": "points",
        "source": {"path": _MONTHS, "monthly": True},
        "columns": {"longitude": "Longitude", "latitude": "Latitude", "id": "Crime ID"},
        "category": "type",
        "time": "month",
        "attributes": {"type": {"column": "Crime type"}, "month": {"column": "Month"}},
        "licence": "OGL-UK-3.0",
        "attribution": "data.police.uk",
    }
)


@dataclass(frozen=True, slots=True)
class _Built:
    """An archive, where it lies, and what it cost (s of the processor)."""

    archive: BuiltArchive
    path: Path
    cleaning: float
    tiling: float

    @property
    def cost(self) -> float:
        return self.cleaning + self.tiling


def main() -> bool:
    """Run the benchmark; True when every bar is met."""
    if not LONDON.is_dir():
        console.print(f"map_months: skipped, there are no months at {LONDON}")
        return True
    months = sorted((LONDON / _MONTHS).iterdir())
    whole, month, same, sound = [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder, source = Path(name), Path(name, "source")
        (source / _MONTHS).mkdir(parents=True)
        for path in months[:-1]:
            shutil.copy(path, source / _MONTHS)
        before = _build(folder / "before", source)
        shutil.copy(months[-1], source / _MONTHS)
        for _ in range(_ROUNDS):
            whole.append(_build(folder / "whole", source))
            shutil.copytree(folder / "before", folder / "month")
            month.append(_build(folder / "month", source, before.archive))
            same.append(whole[-1].path.read_bytes() == month[-1].path.read_bytes())
            sound.append(check(month[-1].path).clean)
            for studio in ("whole", "month"):
                shutil.rmtree(folder / studio)
    ledger = whole[0].archive.ledger
    ratios = [one.cost / other.cost for one, other in zip(month, whole, strict=True)]
    measures = [
        Measure("another month over a full build", statistics.median(ratios), bar=_SHARE_BAR, at_least=False),
        Measure("the same bytes", float(all(same)), bar=1),
        Measure("sound by a check that remembers nothing", float(all(sound)), bar=1),
        Measure("full build, processor time", statistics.median(built.cost for built in whole), "s"),
        Measure("… of which reading and cleaning", statistics.median(built.cleaning for built in whole), "s"),
        Measure("another month, processor time", statistics.median(built.cost for built in month), "s"),
        Measure("… of which reading and cleaning", statistics.median(built.cleaning for built in month), "s"),
        Measure("rows", ledger.rows),
        Measure("rows on the map", ledger.released),
    ]
    return publish("map_months", measures, rounds=_ROUNDS)


def _build(folder: Path, source: Path, current: BuiltArchive | None = None) -> _Built:
    """Build the layer as its assets do, in the studio of that folder; `current` is the archive that it has."""
    settings, files = Settings(home=folder / "home"), FileStore(folder / "files")
    registered = RegisteredLayer(_LAYER, source, "everyone", datetime.now(UTC), "local:benchmark")
    in_use = () if current is None else (current.features_path,)
    started = time.process_time()
    cleaned, _ = clean_layer(files, registered, settings, in_use=in_use)
    read = time.process_time()
    kept = memory_file(settings, _LAYER.id)
    memory = PartMemory.load(kept)
    archive = build_archive(files, _LAYER, cleaned, current, "benchmark", memory).archive
    memory.save(kept)
    done = time.process_time()
    return _Built(archive, folder / "files" / archive.path, read - started, done - read)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
