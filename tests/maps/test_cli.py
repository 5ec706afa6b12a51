"""`stemma maps`: one line for a user's mistake, an exit code that says what, and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cli.main import main
from stemma.maps.check import check

LAYER = {
    "id": "crimes",
    "title": "Crimes",
    "kind": "points",
    "source": {"path": "crimes.csv"},
    "columns": {"longitude": "lon", "latitude": "lat"},
    "category": "type",
    "attributes": {"type": {}},
    "licence": "CC0-1.0",
    "attribution": "Nobody",
}


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def write_layer(folder: Path, rows: list[str]) -> Path:
    (folder / "crimes.csv").write_text("\n".join(["lon,lat,type", *rows]))
    (folder / "crimes.yaml").write_text(yaml.safe_dump(LAYER))
    return folder / "crimes.yaml"


def test_build_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described = write_layer(tmp_path, ["-0.1,51.5,Theft"] * 5 + ["1,2,Theft", ",,Theft"])
    output = tmp_path / "out" / "crimes.pmtiles"
    assert run("maps", "build", described, "-o", output, "--json") == 0
    built = json.loads(capsys.readouterr().out)
    assert built["ledger"]["kept"] == 5
    assert built["ledger"]["suppressed"] == built["ledger"]["no_coordinate"] == 1
    assert check(output).clean
    assert run("maps", "check", output) == 0
    assert "15 tiles, all decoded" in capsys.readouterr().out
    before = output.read_bytes()
    write_layer(tmp_path, ["here,there,Theft"])
    assert run("maps", "build", described, "-o", output) == 2
    assert "no_feature_left" in capsys.readouterr().err
    assert output.read_bytes() == before
    assert sorted(item.name for item in output.parent.iterdir()) == [
        "crimes.features.parquet",
        "crimes.pmtiles",
        "crimes.rejected.parquet",
    ]


def test_build_polygons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ring = [[0, 50], [1, 50], [1, 51], [0, 51], [0, 50]]
    square = {"type": "Feature", "properties": {"name": "x"}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    (tmp_path / "in.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [square]}))
    described = {**LAYER, "id": "parks", "kind": "polygons", "source": {"path": "in.geojson"}, "max_zoom": 4}
    described |= {"columns": {}, "category": "name", "attributes": {"name": {}}}
    (tmp_path / "parks.yaml").write_text(yaml.safe_dump(described))
    assert run("maps", "build", tmp_path / "parks.yaml", "-o", tmp_path / "parks.pmtiles") == 0
    assert "tiles" in capsys.readouterr().out
    assert check(tmp_path / "parks.pmtiles").clean
    (tmp_path / "parks.yaml").write_text(yaml.safe_dump({**described, "incidents": True}))
    assert run("maps", "build", tmp_path / "parks.yaml", "-o", tmp_path / "parks.pmtiles") == 2
    assert "only points can be incidents" in capsys.readouterr().err


def test_an_unsound_archive_ends_with_6(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = tmp_path / "cut.pmtiles"
    cut.write_bytes(archive.read_bytes()[:-10])
    assert run("maps", "check", cut, "--json") == 6
    report = json.loads(capsys.readouterr().out)
    assert report["clean"] is False
    assert "file_truncated" in {problem["code"] for problem in report["problems"]}
    assert run("maps", "check", cut) == 6
    assert "archive_unsound" in capsys.readouterr().err


def test_what_is_no_archive_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_text("no")
    assert run("maps", "check", tmp_path / "x") == 2
    assert run("maps", "check", tmp_path / "absent") == 3
    captured = capsys.readouterr()
    assert "archive_invalid" in captured.err and "Traceback" not in captured.err
