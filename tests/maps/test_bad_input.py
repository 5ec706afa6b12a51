"""Bad input, case by case, through `stemma maps build`: in the row ledger or refused, and the last tiles stay."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pytest
import shapely
import yaml
from pyarrow import parquet

from cli.main import main
from stemma.maps.check import check

GOOD = ["a,-0.1,51.5,Theft", "b,-0.1,51.5,Arson"]
LAYER: dict[str, Any] = {
    "id": "crimes",
    "title": "Crimes",
    "kind": "points",
    "source": {"path": "in.csv"},
    "columns": {"longitude": "lon", "latitude": "lat", "id": "ref"},
    "attributes": {"type": {}},
    "bounds": [-1, 51, 1, 52],
    "incidents": False,
    "licence": "CC0-1.0",
    "attribution": "Nobody",
    "max_zoom": 4,
}


def csv(folder: Path, rows: list[str], name: str = "in.csv", encoding: str = "utf-8") -> None:
    (folder / name).write_bytes("\n".join(["ref,lon,lat,type", *rows, ""]).encode(encoding))


def geojson(folder: Path, geometries: list[Any], **collection: Any) -> None:
    features = [{"type": "Feature", "properties": {"ref": "", "type": "x"}, "geometry": item} for item in geometries]
    written = {"type": "FeatureCollection", "features": features, **collection}
    (folder / "in.geojson").write_text(json.dumps(written))


def build(folder: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> tuple[int, dict[str, Any], str]:
    """The exit code, what was built or refused, and all that was said."""
    (folder / "layer.yaml").write_text(yaml.safe_dump({**LAYER, **changes}))
    with pytest.raises(SystemExit) as ended:
        main(["maps", "build", str(folder / "layer.yaml"), "-o", str(folder / "out.pmtiles"), "--json"])
    said = capsys.readouterr()
    return int(ended.value.code or 0), json.loads(said.out), said.out + said.err


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ("c,51.5,-0.1,Theft", "out_of_bounds", "swapped"),
        ("c,0,0,Theft", "out_of_bounds", "null_island"),
        ("c,0,90,Theft", "out_of_bounds", "near_pole"),
        ("c,0,-90,Theft", "out_of_bounds", "near_pole"),
        ("c,nan,51.5,Theft", "no_coordinate", "not_a_number"),
        ("c,-0.1,inf,Theft", "no_coordinate", "not_finite"),
        ("c,-0.1,1e400,Theft", "no_coordinate", "not_finite"),
        ("c,530000,180000,Theft", "out_of_bounds", "outside_world"),
        ("c,180.5,51.5,Theft", "out_of_bounds", "outside_world"),
    ],
)
def test_a_bad_place_is_in_the_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: str, reason: str, detail: str
) -> None:
    csv(tmp_path, [*GOOD, row])
    code, built, _ = build(tmp_path, capsys)
    assert (code, built["ledger"]["rows"], built["ledger"]["kept"], built["ledger"][reason]) == (0, 3, 2, 1)
    (rejected,) = parquet.read_table(tmp_path / built["quarantine"]).to_pylist()
    assert rejected == {"file": "in.csv", "row": 3, "reason": reason, "detail": detail}
    assert check(tmp_path / "out.pmtiles").layers[-1].retained == 2


def nothing(folder: Path) -> None:
    csv(folder, [])


def all_swapped(folder: Path) -> None:
    csv(folder, ["a,51.5,-0.1,Theft"])


def metres(folder: Path) -> None:
    csv(folder, ["a,530000,180000,Theft"])


def no_column(folder: Path) -> None:
    (folder / "in.csv").write_text("ref,lon,lat\na,-0.1,51.5\n")


def two_encodings(folder: Path) -> None:
    (folder / "in.csv").write_bytes(b"ref,lon,lat,type\na,-0.1,51.5,\xc3\xbcber\nb,-0.1,51.5,\xfcber\n")


def traversal(folder: Path) -> None:
    with zipfile.ZipFile(folder / "in.zip", "w") as archive:
        archive.writestr("../in.csv", "ref,lon,lat,type\n" + GOOD[0])


def no_features(folder: Path) -> None:
    geojson(folder, [])


def without_projection(folder: Path) -> None:
    frame = geopandas.GeoDataFrame({"ref": ["a"], "type": ["x"]}, geometry=[shapely.Point(-0.1, 51.5)])
    frame.to_file(folder / "in.shp")


def another_projection(folder: Path) -> None:
    geojson(
        folder,
        [{"type": "Point", "coordinates": [530000, 180000]}],
        crs={"type": "name", "properties": {"name": "EPSG:27700"}},
    )


def text_in_one_month(folder: Path) -> None:
    (folder / "months").mkdir()
    csv(folder, ["a,-0.1,51.5,7"], "months/2020-01.csv")
    csv(folder, ["b,-0.1,51.5,seven"], "months/2020-02.csv")


NUMBER = {"source": {"path": "months", "monthly": True}, "attributes": {"type": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("given", "changes", "code"),
    [
        (nothing, {}, "source_empty"),
        (no_features, {"source": {"path": "in.geojson"}}, "source_empty"),
        (all_swapped, {}, "no_feature_left"),
        (metres, {}, "no_feature_left"),
        (no_column, {}, "column_missing"),
        (two_encodings, {}, "encoding_mixed"),
        (traversal, {"source": {"path": "in.zip"}}, "zip_traversal"),
        (without_projection, {"source": {"path": "in.shp"}}, "crs_missing"),
        (another_projection, {"source": {"path": "in.geojson", "crs": "EPSG:4326"}}, "crs_conflict"),
        (text_in_one_month, NUMBER, "attribute_type"),
    ],
)
def test_what_is_refused_leaves_the_last_tiles(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    given: Callable[[Path], None],
    changes: dict[str, Any],
    code: str,
) -> None:
    (tmp_path / "out.pmtiles").write_bytes(b"the last good tiles")
    given(tmp_path)
    ended, refused, said = build(tmp_path, capsys, **changes)
    assert (ended, refused["error"]["code"]) == (2, code)
    assert "Traceback" not in said and str(tmp_path) not in said
    assert (tmp_path / "out.pmtiles").read_bytes() == b"the last good tiles"
    assert not list(tmp_path.glob(".*")) and not list(tmp_path.parent.glob("in.csv"))


def test_an_attribute_that_is_a_number_in_one_month_and_text_in_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "months").mkdir()
    for month, value in (("2020-01", 7), ("2020-02", "seven")):
        frame = geopandas.GeoDataFrame(
            {"ref": [month], "type": [value]}, geometry=[shapely.Point(-0.1, 51.5)], crs="EPSG:4326"
        )
        frame.to_parquet(tmp_path / "months" / f"{month}.parquet")
    changes = {"source": {"path": "months", "monthly": True}}
    assert build(tmp_path, capsys, **changes)[0] == 0
    features = parquet.read_table(tmp_path / "out.features.parquet")
    assert features["type"].to_pylist() == ["7", "seven"]
    ended, _, said = build(tmp_path, capsys, **{**NUMBER, **changes})
    assert (ended, "2020-02.parquet holds a value of type that is no integer" in said) == (2, True)


def test_mixed_and_solid_geometry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    geojson(
        tmp_path,
        [
            {"type": "Point", "coordinates": [-0.1, 51.5]},
            {"type": "Point", "coordinates": [-0.1, 51.5, 80]},
            {"type": "LineString", "coordinates": [[-0.1, 51.5], [0, 51.5]]},
            {"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": [-0.1, 51.5]}]},
            {"type": "Point", "coordinates": []},
        ],
    )
    ledger = build(tmp_path, capsys, source={"path": "in.geojson"}, columns={})[1]["ledger"]
    assert (ledger["kept"], ledger["repaired"], ledger["no_coordinate"]) == (1, 1, 3)


def test_infinite_and_missing_places_in_a_binary_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = shapely.to_wkb(shapely.points([-0.1, np.inf, np.nan, -np.inf], [51.5, 51.5, 51.5, np.nan]))
    table = pa.table({"type": ["x"] * 4, "geometry": pa.array(shapes, pa.binary())})
    described = {"encoding": "WKB", "geometry_types": ["Point"]}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": described}}
    parquet.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), tmp_path / "in.parquet")
    ledger = build(tmp_path, capsys, source={"path": "in.parquet"}, columns={})[1]["ledger"]
    assert (ledger["rows"], ledger["kept"], ledger["no_coordinate"]) == (4, 1, 3)


def test_the_antimeridian(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Points on it stay, shapes that end there too; a shape drawn across it is not guessed at."""
    csv(tmp_path, ["a,180,10,x", "b,-180,10,x"])
    assert build(tmp_path, capsys, bounds=None)[1]["ledger"]["kept"] == 2
    assert check(tmp_path / "out.pmtiles").clean
    boxes = [shapely.box(170, 50, 180, 60), shapely.box(-180, 50, -170, 60), shapely.box(170, 50, 190, 60)]
    geojson(tmp_path, [shapely.geometry.mapping(box) for box in boxes])
    shapes = {"kind": "polygons", "source": {"path": "in.geojson"}, "columns": {}, "bounds": None}
    ledger = build(tmp_path, capsys, **shapes)[1]["ledger"]
    assert (ledger["kept"], ledger["out_of_bounds"]) == (2, 1)
    assert check(tmp_path / "out.pmtiles").clean
