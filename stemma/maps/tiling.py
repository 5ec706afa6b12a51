"""From a cleaned layer of the studio to a checked archive in the file store.

What was built is served only after `lifecycle.activated` is committed; until then the archive before is.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pyarrow as pa
from pyarrow import parquet

from stemma.maps.building import Built, Provenance
from stemma.maps.catalog import BuiltArchive
from stemma.maps.check import Report
from stemma.maps.cleaning import Cleaned, folder_of, is_whole
from stemma.maps.features import same_batches, to_points, without
from stemma.maps.incremental import rebuild_points
from stemma.maps.layer_build import build_tiles, provenance_of, verified
from stemma.maps.layers import Layer
from stemma.maps.part_memory import PartMemory
from stemma.maps.pmtiles import Archive
from stemma.maps.versions import TILING
from stemma.progress import Progress, ReportProgress
from stemma.store.files import FileStore
from stemma.store.outputs import record_file

ASSET: Final = "maps/tiles"


@dataclass(frozen=True, slots=True)
class Tiled:
    """An archive that passed its check, and how: `copied` of its tiles were taken from the archive before."""

    archive: BuiltArchive
    report: Report
    copied: int


def made_of(layer: Layer, cleaned: Cleaned) -> str:
    """A fingerprint of all that an archive's bytes follow from; what precedes the dash is the same while changed
    features alone make the difference.
    """
    frame = [TILING, layer.kind, *_encoding(layer)]
    content = [cleaned.features.sha256, [(item.name, item.sha256) for item in cleaned.inputs]]
    said = [layer.title, layer.licence, layer.attribution, layer.description]
    return f"{_digest(frame)}-{_digest([content, said])}"


def build_archive(
    files: FileStore,
    layer: Layer,
    cleaned: Cleaned,
    current: BuiltArchive | None,
    run_id: str,
    memory: PartMemory,
    *,
    progress: ReportProgress | None = None,
) -> Tiled:
    """Build, check and store the archive of a layer; of one that changed, only the tiles that the change touches, and
    parts of tiles that `memory` has are not decoded again.

    Raises what `build_tiles` and `verified` raise, NotFound where the cleaned features are gone.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "tiles.pmtiles")
        features = cleaned.features.read(files)
        provenance = provenance_of(layer, cleaned.inputs, ASSET, layer.id)
        built, copied = _built(files, path, features, layer, provenance, current, made_of(layer, cleaned))
        _tell(progress, "encoded", sum(zoom.tiles for zoom in built.zooms), started)
        report = verified(path, features, layer, memory)
        _tell(progress, "checked", report.read, started)
        with Archive(path) as archive:
            vector_layers = tuple(archive.metadata()["vector_layers"])
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            written = files.write(f"{folder_of(layer.id)}/{sha256[:16]}.pmtiles", file)
    header = built.header
    result = BuiltArchive(
        layer=layer.id,
        version=current.version + 1 if current else 1,
        path=written.key,
        sha256=written.sha256,
        size=written.size,
        features_path=cleaned.features.key,
        features_sha256=cleaned.features.sha256,
        made_of=made_of(layer, cleaned),
        bounds=header.bounds,
        min_zoom=header.min_zoom,
        max_zoom=header.max_zoom,
        vector_layers=vector_layers,
        zooms=built.zooms,
        ledger=cleaned.ledger,
        months=cleaned.months,
        run_id=run_id,
        built_at=datetime.now(UTC),
    )
    return Tiled(result, report, copied)


def stands(files: FileStore, layer: Layer, cleaned: Cleaned, archive: BuiltArchive) -> bool:
    """Whether an archive is whole and the one that would be built now, and is told of as if it had been."""
    if archive.made_of != made_of(layer, cleaned) or not is_whole(files, archive.path, archive.sha256):
        return False
    record_file(archive.path, archive.sha256, archive.size)
    return True


def _built(
    files: FileStore,
    path: Path,
    features: pa.Table,
    layer: Layer,
    provenance: Provenance,
    current: BuiltArchive | None,
    wanted: str,
) -> tuple[Built, int]:
    """The written archive, and how many tiles are those of the one before."""
    frame = wanted.partition("-")[0]
    if layer.kind == "points" and current is not None and current.made_of.startswith(f"{frame}-"):
        before = ((current.path, current.sha256), (current.features_path, current.features_sha256))
        if all(is_whole(files, key, sha256) for key, sha256 in before):
            return _rebuilt(files, path, features, layer, provenance, current)
    return build_tiles(path, features, layer, provenance), 0


def _rebuilt(
    files: FileStore, path: Path, features: pa.Table, layer: Layer, provenance: Provenance, current: BuiltArchive
) -> tuple[Built, int]:
    with files.open(current.features_path) as file:
        former = parquet.read_table(file)
    same = same_batches(former, features)
    before, after = to_points(without(former, same), layer), to_points(features, layer)
    with files.on_this_machine(current.path) as previous:
        rebuilt = rebuild_points(path, previous, before, after, layer.point_layer, provenance, same)
    return rebuilt.built, rebuilt.copied


def _encoding(layer: Layer) -> list[object]:
    attributes = {name: attribute.type for name, attribute in layer.attributes.items()}
    return [layer.id, attributes, layer.category, layer.time, layer.min_zoom, layer.max_zoom, layer.tile_bytes]


def _digest(words: list[object]) -> str:
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]


def _tell(progress: ReportProgress | None, stage: str, tiles: int, started: float) -> None:
    if progress is not None:
        progress(Progress(stage, "tiles", tiles, tiles, time.monotonic() - started))
