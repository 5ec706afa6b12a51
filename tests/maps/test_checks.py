"""The invariants of what is kept of a layer, each with something that breaks it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from stemma.errors import CheckFailed
from stemma.maps import checks, layer_build
from stemma.maps.catalog import BuiltArchive, RegisteredLayer
from stemma.maps.cleaning import Cleaned, clean_layer, get_cleaned
from stemma.maps.layers import Layer, parse_layer
from stemma.maps.part_memory import PartMemory
from stemma.maps.tiling import build_archive
from stemma.store.files import FileStore
from stemma.store.settings import Settings

LAYER = parse_layer(
    {
        "id": "crimes",
        "title": "Crimes",
        "kind": "points",
        "source": {"path": "crimes.csv"},
        "columns": {"longitude": "lon", "latitude": "lat"},
        "attributes": {"type": {}},
        "category": "type",
        "max_zoom": 6,
        "licence": "CC0-1.0",
        "attribution": "Nobody",
    }
)
ROWS = ["-0.1,51.5,Theft"] * 5 + ["-0.2,51.6,Arson"] * 3 + ["2,48,Theft", ",,Theft"]


@dataclasses.dataclass
class Kept:
    """A layer as it is kept."""

    files: FileStore
    layer: Layer
    cleaned: Cleaned
    archive: BuiltArchive

    def results(self) -> list[bool]:
        """Which of the checks pass."""
        return [
            checks.rows_reconcile(self.files, self.cleaned).passed,
            checks.features_are_sound(self.files, self.cleaned, self.layer).passed,
            checks.archive_is_sound(self.files, self.archive, PartMemory()).passed,
            checks.nothing_raw_is_shown(self.files, self.archive, self.layer, PartMemory()).passed,
        ]

    def rewrite(self, change: Callable[[pa.Table], pa.Table]) -> None:
        """Change the features where they lie."""
        with self.files.open(self.cleaned.features.key) as file:
            table = parquet.read_table(file)
        buffer = pa.BufferOutputStream()
        parquet.write_table(change(table), buffer)
        self.files.write(self.cleaned.features.key, buffer.getvalue().to_pybytes())


@pytest.fixture(params=["folder", "memory"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    (tmp_path / "crimes.csv").write_text("\n".join(["lon,lat,type", *ROWS]))
    files = FileStore(tmp_path / "files" if request.param == "folder" else f"memory://{tmp_path.name}/files")
    registered = RegisteredLayer(LAYER, tmp_path, "everyone", datetime.now(UTC), "local:me")
    cleaned, new = clean_layer(files, registered, Settings())
    assert new and clean_layer(files, registered, Settings()) == (cleaned, False)
    assert get_cleaned(files, "crimes") == cleaned
    return Kept(files, LAYER, cleaned, build_archive(files, LAYER, cleaned, None, "run", PartMemory()).archive)


def test_what_was_just_built_holds(kept: Kept) -> None:
    assert kept.results() == [True] * 4


def test_a_feature_that_went_missing_does_not_reconcile(kept: Kept) -> None:
    kept.rewrite(lambda table: table.slice(1))
    assert kept.results()[:2] == [False, True]


def test_an_id_that_came_twice_or_a_column_too_many_is_unsound(kept: Kept) -> None:
    kept.rewrite(lambda table: pa.concat_tables([table.slice(1), table.slice(1, 1)]))
    assert kept.results()[:2] == [True, False]
    kept.rewrite(lambda table: table.append_column("victim", table["type"]))
    found = checks.features_are_sound(kept.files, kept.cleaned, kept.layer)
    assert any("victim" in problem for problem in found.problems)


def test_a_damaged_archive_is_found(kept: Kept) -> None:
    data = kept.files.read(kept.archive.path)
    kept.files.write(kept.archive.path, data[:-100])
    found = checks.archive_is_sound(kept.files, kept.archive, PartMemory())
    assert not found.passed and "not the file that was recorded" in found.problems[0] and len(found.problems) > 1


def test_an_archive_of_other_places_shows_too_much(kept: Kept, tmp_path: Path) -> None:
    loose = LAYER.model_copy(update={"incidents": False})
    (tmp_path / "crimes.csv").write_text("\n".join(["lon,lat,type", *ROWS, "-0.3,51.7,Theft"]))
    registered = RegisteredLayer(loose, tmp_path, "everyone", datetime.now(UTC), "local:me")
    raw, _ = clean_layer(kept.files, registered, Settings())
    archive = build_archive(kept.files, loose, raw, None, "run", PartMemory()).archive
    assert not checks.nothing_raw_is_shown(kept.files, archive, LAYER, PartMemory()).passed
    with pytest.raises(CheckFailed) as caught, kept.files.on_this_machine(archive.path) as path:
        layer_build.verified(path, raw.features.read(kept.files), LAYER)
    assert caught.value.code == "privacy_unproven"
