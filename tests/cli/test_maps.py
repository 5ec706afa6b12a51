"""`stemma maps`: adding layers of the studio, seeing and building them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from stemma.maps.check import check
from stemma.store.files import FileStore
from stemma.store.settings import Settings

LAYER = {
    "id": "trees",
    "title": "Trees",
    "kind": "points",
    "source": {"path": "trees.csv"},
    "columns": {"longitude": "lon", "latitude": "lat"},
    "incidents": False,
    "max_zoom": 4,
    "licence": "CC0-1.0",
    "attribution": "Nobody",
}


def described(folder: Path, **more: Any) -> Path:
    path = folder / "trees.yaml"
    path.write_text(yaml.safe_dump({**LAYER, **more}))
    return path


def test_a_layer_is_added_built_and_shown(
    tmp_path: Path, settings: Settings, stemma: Any, done: Callable[..., Any]
) -> None:
    (tmp_path / "trees.csv").write_text("lon,lat\n1,2\n3,4\n")
    assert done("maps", "add", described(tmp_path), "--members")["visibility"] == "members"
    assert "not yet" in stemma("maps", "layers").out
    built = done("maps", "build", "trees")
    assert [item["asset"] for item in built["built"]] == ["maps/features", "maps/tiles"]
    (shown,) = done("maps", "layers")
    assert shown["archive"]["ledger"]["kept"] == 2
    with FileStore.open_default(settings).on_this_machine(shown["archive"]["path"]) as path:
        assert check(path).clean


def test_mistakes_are_one_line_and_add_nothing(tmp_path: Path, settings: Settings, stemma: Any) -> None:
    without_source = stemma("maps", "add", described(tmp_path))
    denied = stemma("maps", "add", described(tmp_path, incidents=True, attributes={"victim_name": {}}))
    unknown = stemma("maps", "build", "trees")
    assert [ended.code for ended in (without_source, denied, unknown)] == [3, 2, 3]
    assert "source_not_found" in without_source.err and "attribute_denied" in denied.err
    assert "layer_unknown" in unknown.err and "Traceback" not in unknown.err
    assert "No map layers" in stemma("maps", "layers").out
