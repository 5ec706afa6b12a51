"""Cleaning a layer of the studio: its features and its rejected rows, kept in the file store, and what is said of them.

How rows are judged is decided in `features`. What is kept of a cleaning stands in one small file, which names the
others: whoever reads it sees a whole cleaning, the one before or the new one.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Collection, Iterator, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from stemma.errors import NotFound
from stemma.maps.building import Input
from stemma.maps.catalog import RegisteredLayer
from stemma.maps.features import Judged, combine, judge
from stemma.maps.layers import Layer
from stemma.maps.months import judge_files
from stemma.maps.origins import opened
from stemma.maps.row_ledger import RowLedger
from stemma.maps.sources import SourceFile, read
from stemma.maps.versions import CLEANING
from stemma.progress import Progress, ReportProgress
from stemma.store.files import FileStore, staged
from stemma.store.outputs import Artifact, record_file, record_read
from stemma.store.settings import Settings

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """A table in the file store as Parquet: its key, SHA-256 (hexadecimal), size in bytes and rows."""

    key: str
    sha256: str
    size: int
    rows: int

    def read(self, files: FileStore) -> pa.Table:
        """The table; raises NotFound."""
        with files.open(self.key) as file:
            return parquet.read_table(file)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A cleaned layer: what is on the map and what is not, of which inputs, and where every row went.

    `made_of` is a fingerprint of all that it follows from, `months` the row ledger by month.
    """

    layer: str
    made_of: str
    features: Stored
    rejected: Stored
    inputs: tuple[Input, ...]
    ledger: RowLedger
    months: tuple[RowLedger, ...]

    @property
    def written(self) -> bytes:
        """What is kept of it."""
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()

    @property
    def version(self) -> str:
        """The same for the same content."""
        return hashlib.sha256(self.written).hexdigest()[:32]

    @classmethod
    def parse(cls, data: bytes) -> Cleaned:
        """Read what was kept."""
        said: dict[str, Any] = json.loads(data)
        read = {
            "features": Stored(**said["features"]),
            "rejected": Stored(**said["rejected"]),
            "inputs": tuple(Input(**item) for item in said["inputs"]),
            "ledger": RowLedger(**said["ledger"]),
            "months": tuple(RowLedger(**month) for month in said["months"]),
        }
        return cls(**{**said, **read})


def folder_of(layer: str) -> str:
    """Where the files of a layer lie in the store."""
    return f"maps/{layer}"


def find_cleaned(files: FileStore, layer: str) -> Cleaned | None:
    """The newest cleaning of a layer, where there is one."""
    try:
        return Cleaned.parse(files.read(_key(layer)))
    except NotFound:
        return None


def get_cleaned(files: FileStore, layer: str) -> Cleaned:
    """The newest cleaning of a layer; raises NotFound(layer_not_cleaned)."""
    cleaned = find_cleaned(files, layer)
    if cleaned is None:
        hint = f"`stemma maps build {layer}` cleans and builds it."
        raise NotFound("layer_not_cleaned", f"The layer {layer} was never cleaned.", field="layer", hint=hint)
    return cleaned


def clean_layer(
    files: FileStore,
    registered: RegisteredLayer,
    settings: Settings,
    *,
    in_use: Collection[str] = (),
    progress: ReportProgress | None = None,
) -> tuple[Cleaned, bool]:
    """Read and clean a layer; returns what is kept, and whether it is new.

    A source that is as it was is not read again; of one by month, months that changed are. `in_use` names files of
    former cleanings that archives are made of, which stay. Raises what `opened`, `read` and `combine` raise; then the
    cleaning before stays.
    """
    layer, before, started = registered.layer, find_cleaned(files, registered.id), time.monotonic()
    with opened(layer, registered.folder, settings) as sources:
        inputs = tuple(part for source in sources for part in source.inputs)
        _tell_of_inputs(sources, inputs)
        made_of = _made_of(layer, [(source.partition, source.path.name) for source in sources], inputs)
        if before is not None and before.made_of == made_of and _is_whole(files, before):
            _tell_of(before)
            return before, False
        judged = _judged(layer, sources, settings)
    cleaned = combine(layer, judged)
    with tempfile.TemporaryDirectory() as name:
        features, rejected = Path(name, "features"), Path(name, "rejected")
        cleaned.write(features, rejected)
        kept = Cleaned(
            layer.id,
            made_of,
            _store(files, layer, features, len(cleaned)),
            _store(files, layer, rejected, len(cleaned.rejected)),
            inputs,
            cleaned.ledger,
            cleaned.by_partition if layer.source.monthly else (),
        )
    files.write(_key(layer.id), kept.written)
    if before is not None:
        for key in {before.features.key, before.rejected.key} - {kept.features.key, kept.rejected.key, *in_use}:
            files.delete(key)
    if progress is not None:
        count = cleaned.ledger.rows
        progress(Progress("cleaned", "rows", count, count, time.monotonic() - started))
    return kept, True


class _Months(MutableMapping[str, bytes]):
    """What was judged of the months of a layer, as files of a folder of the studio's own.

    It tells more than is released, so that it does not lie in the file store, whose files may be given away.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: set[str] = set()

    def __getitem__(self, key: str) -> bytes:
        self._used.add(key)
        try:
            return (self._folder / key).read_bytes()
        except FileNotFoundError as error:
            raise KeyError(key) from error

    def __setitem__(self, key: str, value: bytes) -> None:
        self._used.add(key)
        with staged(self._folder) as file:
            file.write(value)
            file.flush()
            file.replace(self._folder / key)

    def __delitem__(self, key: str) -> None:
        (self._folder / key).unlink(missing_ok=True)

    def __iter__(self) -> Iterator[str]:
        return (path.name for path in self._folder.iterdir() if path.is_file())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def forget_unused(self) -> None:
        """Delete what nobody asked for."""
        for key in set(self) - self._used:
            del self[key]


def _judged(layer: Layer, sources: Sequence[SourceFile], settings: Settings) -> list[Judged]:
    """The rows of all files; a month that was judged before is not read again."""
    if not layer.source.monthly:
        return [judge(layer, read(layer, source)) for source in sources]
    months = _Months(settings.home / "maps" / layer.id)
    judged = judge_files(layer, sources, months)
    months.forget_unused()
    return judged


def is_whole(files: FileStore, key: str, sha256: str) -> bool:
    """Whether a file is there as it was written."""
    digest = hashlib.sha256()
    try:
        with files.open(key) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except NotFound:
        return False
    return digest.hexdigest() == sha256


def _is_whole(files: FileStore, cleaned: Cleaned) -> bool:
    return all(is_whole(files, table.key, table.sha256) for table in (cleaned.features, cleaned.rejected))


def _key(layer: str) -> str:
    return f"{folder_of(layer)}/cleaned.json"


def _made_of(layer: Layer, places: list[tuple[str, str]], inputs: tuple[Input, ...]) -> str:
    said = [CLEANING, layer.model_dump(mode="json"), places, [(item.name, item.sha256) for item in inputs]]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _store(files: FileStore, layer: Layer, path: Path, rows: int) -> Stored:
    """Put a table into the store under a name that follows from its content."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        written = files.write(f"{folder_of(layer.id)}/{path.name}-{sha256[:16]}.parquet", file)
    return Stored(written.key, written.sha256, written.size, rows)


def _tell_of_inputs(sources: tuple[SourceFile, ...], inputs: tuple[Input, ...]) -> None:
    parts = [part for source in sources for part in source.parts]
    for part, given in zip(parts, inputs, strict=True):
        record_read(Artifact(given.name, "application/octet-stream", given.sha256, part.stat().st_size))


def _tell_of(cleaned: Cleaned) -> None:
    for table in (cleaned.features, cleaned.rejected):
        record_file(table.key, table.sha256, table.size)
    written = cleaned.written
    record_file(_key(cleaned.layer), hashlib.sha256(written).hexdigest(), len(written))
