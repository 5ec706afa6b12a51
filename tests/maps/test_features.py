"""Features: every row is accounted for, bad input has a name, and incidents are shown only as their rule says."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from stemma.errors import CheckFailed, InvalidInput, NotFound, StemmaError, TooLarge
from stemma.maps import privacy, sources
from stemma.maps.building import Provenance, build_points
from stemma.maps.features import Features, read_features, to_points
from stemma.maps.layers import Layer, load_layer, parse_layer
from stemma.maps.row_ledger import Reason, RowLedger

LONDON = Path(__file__).parents[3] / "shared" / "data" / "maps"

CRIMES: dict[str, Any] = {
    "id": "crimes",
    "title": "Crimes",
    "kind": "points",
    "source": {"path": "crimes.csv"},
    "columns": {"longitude": "lon", "latitude": "lat", "id": "ref"},
    "category": "type",
    "attributes": {"type": {"column": "Crime type"}},
    "incidents": False,
    "licence": "CC0-1.0",
    "attribution": "Nobody",
}


def layer(**changes: Any) -> Layer:
    return parse_layer(CRIMES | changes)


def from_csv(folder: Path, lines: list[str], encoding: str = "utf-8", **changes: Any) -> Features:
    (folder / "crimes.csv").write_bytes("\n".join(["ref,lon,lat,Crime type", *lines, ""]).encode(encoding))
    return read_features(layer(**changes), folder)


def details(found: Features) -> dict[int, tuple[str, str]]:
    return {row["row"]: (row["reason"], row["detail"]) for row in found.rejected.to_pylist()}


def test_each_bad_row_has_a_reason(tmp_path: Path) -> None:
    rows = [
        "a,-0.1,51.5,Theft",
        "b,,51.5,Theft",
        "c,-0.1,here,Theft",
        "d,nan,51.5,Theft",
        "e,inf,51.5,Theft",
        "f,0,0,Theft",
        "g,0,90,Theft",
        "h,0,-90,Theft",
        "i,51.5,-0.1,Theft",
        "j,181,51.5,Theft",
        "a,-0.2,51.5,Theft",
        ",-0.1,51.5,Theft",
        ",-0.1,51.5,Theft",
        "k,-0.1,51.5",
        '"l",-0.1,51.5,"Theft\nand more"',
        "m,5,5,Theft",
        "b,-0.1,51.4,Theft",
    ]
    found = from_csv(tmp_path, rows, bounds=(-1, 51, 1, 52))
    assert details(found) == {
        2: ("no_coordinate", "missing"),
        3: ("no_coordinate", "not_a_number"),
        4: ("no_coordinate", "not_a_number"),
        5: ("no_coordinate", "not_finite"),
        6: ("out_of_bounds", "null_island"),
        7: ("out_of_bounds", "near_pole"),
        8: ("out_of_bounds", "near_pole"),
        9: ("out_of_bounds", "swapped"),
        10: ("out_of_bounds", "outside_world"),
        11: ("duplicate", "same_id"),
        14: ("no_coordinate", "malformed_row"),
        16: ("out_of_bounds", "outside_bounds"),
    }
    assert found.ledger == RowLedger("", 17, 5, 0, 1, 5, 6, 0)
    assert found.table["stemma_id"].to_pylist() == [0, 11, 12, 14, 16]


def test_the_antimeridian_and_the_edge_of_the_map_stay(tmp_path: Path) -> None:
    found = from_csv(tmp_path, ["a,180,10,x", "b,-180,10,x", "c,0,85.05,x"])
    assert found.ledger.kept == 3
    assert len(to_points(found.table, layer())) == 3


cells = st.sampled_from(["", "x", "nan", "inf", "0", "51.5", "-0.1", "90", "181", "1e400"])


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), cells, cells), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_any_rows_are_accounted_for(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]) -> None:
    folder = tmp_path_factory.getbasetemp()
    lines = [",".join((*row, "x")) for row in rows]
    try:
        found = from_csv(folder, lines)
    except InvalidInput as refused:
        assert refused.code == "no_feature_left"
        return
    ledger = found.ledger
    assert ledger.rows == len(rows) == len(found) + len(found.rejected)
    assert ledger.released == len(found)
    kept = [rows[number][0] for number in found.table["stemma_id"].to_pylist()]
    assert len(set(filter(None, kept))) == len(list(filter(None, kept)))


def test_a_ledger_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(CheckFailed, match="account for all 3"):
        RowLedger.of(np.array([Reason.KEPT, Reason.KEPT], np.int8), 3)


SQUARE = shapely.box(1, 50, 2, 51)
BOWTIE = shapely.Polygon([(0, 50), (1, 51), (1, 50), (0, 51)])


@pytest.mark.parametrize("suffix", ["geojson", "fgb", "shp", "parquet", "zip"])
def test_every_format_gives_the_same_features(tmp_path: Path, suffix: str) -> None:
    shapes = [SQUARE, BOWTIE, shapely.box(3, 50, 4, 51), None]
    frame = geopandas.GeoDataFrame({"ref": list("abcd"), "Crime type": ["x"] * 4}, geometry=shapes, crs="EPSG:4326")
    frame = frame.rename(columns={"Crime type": "type"}).to_crs("EPSG:3857")
    target = tmp_path / f"in.{suffix}"
    if suffix == "parquet":
        frame.to_parquet(target)
    elif suffix == "zip":
        (tmp_path / "parts").mkdir()
        frame.to_file(tmp_path / "parts" / "in.shp")
        with zipfile.ZipFile(target, "w") as archive:
            for part in sorted((tmp_path / "parts").iterdir()):
                archive.write(part, f"folder/{part.name}")
    else:
        frame.to_file(target, SPATIAL_INDEX="NO") if suffix == "fgb" else frame.to_file(target)
    found = read_features(
        layer(kind="polygons", source={"path": target.name}, columns={"id": "ref"}, attributes={"type": {}}), tmp_path
    )
    assert (found.ledger.kept, found.ledger.repaired, found.ledger.no_coordinate) == (2, 1, 1)
    made = shapely.from_wkb(found.table["geometry"].to_numpy(zero_copy_only=False))
    assert shapely.is_valid(made).all()
    assert shapely.hausdorff_distance(made[0], SQUARE) < 1e-6
    found.write(tmp_path / "out.parquet", tmp_path / "rejected.parquet")
    again = geopandas.read_parquet(tmp_path / "out.parquet")
    assert again.crs == "EPSG:4326" or again.crs.equals("OGC:CRS84")
    assert list(again.geometry) == list(made)
    assert parquet.read_table(tmp_path / "rejected.parquet").num_rows == 1


def geojson(folder: Path, geometries: list[dict[str, Any] | None]) -> None:
    features = [{"type": "Feature", "properties": {"ref": "", "type": "x"}, "geometry": item} for item in geometries]
    (folder / "in.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def test_geometry_of_another_kind_is_rejected(tmp_path: Path) -> None:
    mixed = [
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "Point", "coordinates": [1, 2, 3]},
        {"type": "MultiPoint", "coordinates": [[1, 2]]},
        {"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]},
        {"type": "LineString", "coordinates": [[1, 2], [3, 4]]},
        None,
    ]
    geojson(tmp_path, mixed)
    found = read_features(layer(source={"path": "in.geojson"}, attributes={"type": {}}), tmp_path)
    assert (found.ledger.kept, found.ledger.repaired, found.ledger.no_coordinate) == (1, 2, 3)
    assert [detail for _, detail in details(found).values()] == ["several_points", "wrong_geometry", "missing"]


def test_months_keep_their_ids_when_others_change(tmp_path: Path) -> None:
    for month, rows in (("2020-01", ["a,1,1,x", "b,1,1,x"]), ("2020-02", ["a,1,1,x", "c,1,1,x"])):
        (tmp_path / f"{month}-crimes.csv").write_text("\n".join(["ref,lon,lat,Crime type", *rows]))
    monthly = layer(source={"path": ".", "monthly": True})
    both = read_features(monthly, tmp_path)
    assert [item.partition for item in both.by_partition] == ["2020-01", "2020-02"]
    assert (both.ledger.kept, both.ledger.duplicate) == (3, 1)
    (tmp_path / "2020-01-crimes.csv").unlink()
    later = read_features(monthly, tmp_path)
    assert later.table["stemma_id"].to_pylist()[-1] == both.table["stemma_id"].to_pylist()[-1]
    (tmp_path / "notes.csv").write_text("x")
    with pytest.raises(InvalidInput, match="has no month"):
        read_features(monthly, tmp_path)


HEAD = b"ref,lon,lat,Crime type\n"


@pytest.mark.parametrize(
    ("content", "changes", "code"),
    [
        (b"", {}, "source_empty"),
        (b"ref,lon,lat,Crime type\n", {}, "source_empty"),
        (b"ref,lon,lat\na,1,1\n", {}, "column_missing"),
        (b"ref,lon,lon,Crime type\n", {}, "column_twice"),
        (b"ref,lon,lat,Crime type\na,1,1,\xfcber\n", {}, "encoding_mixed"),
        (
            b"ref,lon,lat,Crime type\na,1,1,x\n",
            {"source": {"path": "crimes.csv", "encoding": "klingon"}},
            "encoding_unknown",
        ),
        (b"ref,lon,lat,Crime type\na,1,1,x\n", {"source": {"path": "crimes.csv", "crs": "EPSG:0"}}, "crs_unknown"),
        (b"ref,lon,lat,Crime type\na,530000,180000,x\n", {}, "no_feature_left"),
        (
            b"ref,lon,lat,Crime type\na,1,1,7\nb,1,1,seven\n",
            {"attributes": {"type": {"column": "Crime type", "type": "integer"}}},
            "attribute_type",
        ),
        (b"x", {"source": {"path": "../crimes.csv"}}, "path_outside"),
        (b"x", {"source": {"path": "absent.csv"}}, "source_not_found"),
        (b"x", {"columns": {}}, "column_missing"),
    ],
)
def test_a_source_that_cannot_be_read(tmp_path: Path, content: bytes, changes: dict[str, Any], code: str) -> None:
    (tmp_path / "crimes.csv").write_bytes(content)
    with pytest.raises(StemmaError) as refused:
        read_features(layer(**changes), tmp_path)
    assert refused.value.code == code


def test_a_declared_encoding_and_projection_are_followed(tmp_path: Path) -> None:
    source = {"path": "crimes.csv", "encoding": "cp1252", "crs": "EPSG:27700"}
    found = from_csv(tmp_path, ["a,530000,180000,über"], "cp1252", source=source)
    assert found.table["type"].to_pylist() == ["über"]
    (shape,) = shapely.from_wkb(found.table["geometry"].to_numpy(zero_copy_only=False))
    assert shape.distance(shapely.Point(-0.1287, 51.5038)) < 0.001


@pytest.mark.parametrize(
    "name", ["../escaped.csv", "/escaped.csv", "a/../../escaped.csv", "..\\escaped.csv", "C:/x.csv"]
)
def test_a_zip_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr(name, "ref,lon,lat,Crime type\na,1,1,x\n")
    with pytest.raises(InvalidInput) as refused:
        read_features(layer(source={"path": "in.zip"}), tmp_path)
    assert refused.value.code == "zip_traversal"


def test_other_bad_zips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.zip").write_bytes(b"PK not really")
    with pytest.raises(InvalidInput, match="cannot be unpacked"):
        read_features(layer(source={"path": "in.zip"}), tmp_path)
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("a.csv", "x" * 100)
        archive.writestr("b.csv", "x")
    with pytest.raises(InvalidInput, match="holds 2 files"):
        read_features(layer(source={"path": "in.zip"}), tmp_path)
    monkeypatch.setattr(sources, "_UNPACKED_LIMIT", 50)
    with pytest.raises(TooLarge):
        read_features(layer(source={"path": "in.zip"}), tmp_path)


def test_files_that_are_not_what_they_are_called(tmp_path: Path) -> None:
    for name in ("in.geojson", "in.parquet", "in.fgb"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(InvalidInput) as refused:
            read_features(layer(source={"path": name}), tmp_path)
        assert refused.value.code == "source_invalid"
    (tmp_path / "in.xlsx").write_bytes(b"")
    with pytest.raises(InvalidInput, match="no format"):
        read_features(layer(source={"path": "in.xlsx"}), tmp_path)


def test_a_layer_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "crimes.yaml"
    path.write_text(json.dumps(CRIMES))
    assert load_layer(path).point_layer.category == "type"
    for text, field in (("kind: dots", "kind"), ("[", None), ("category: none", None), ("colour: red", "colour")):
        path.write_text(text if text == "[" else json.dumps(CRIMES | dict([text.split(": ")])))
        with pytest.raises(InvalidInput) as refused:
            load_layer(path)
        assert (refused.value.code, refused.value.field) == ("layer_invalid", field)
    with pytest.raises(NotFound):
        load_layer(tmp_path / "absent.yaml")


@pytest.mark.parametrize("column", ["Age range", "victim_name", "officerEthnicity", "SEX", "free text", "dob"])
def test_incident_layers_keep_nothing_personal(column: str) -> None:
    asked = {"type": {"column": "Crime type"}, "other": {"column": column}}
    with pytest.raises(InvalidInput) as refused:
        layer(incidents=None, attributes=asked)
    assert refused.value.code == "attribute_denied"
    assert layer(incidents=None, attributes=asked, privacy={"allow": [column]}).gate is not None
    assert layer(attributes=asked).gate is None


def test_incident_layers_keep_no_free_text(tmp_path: Path) -> None:
    rows = [f"{n},-0.1,51.5,He said that number {n} was seen near the door at night" for n in range(20)]
    with pytest.raises(InvalidInput, match="free text"):
        from_csv(tmp_path, rows, incidents=True)


def incidents(folder: Path) -> tuple[Layer, Features]:
    random = np.random.default_rng(3)
    rows = [
        f"{n},{-0.1 + x:.6f},{51.5 + y:.6f},{'Theft' if n % 3 else 'Arson'}"
        for n, (x, y) in enumerate(random.normal(0, 0.002, (400, 2)))
    ]
    rows.append("alone,1.5,52.5,Theft")
    return layer(incidents=True), from_csv(folder, rows, incidents=True)


def test_the_gate_shows_no_raw_place_and_no_rare_one(tmp_path: Path) -> None:
    asked, found = incidents(tmp_path)
    assert found.ledger.suppressed > 0
    assert details(found)[401] == ("suppressed", "rare_place")
    rule = asked.gate
    assert rule is not None
    released = to_points(found.table, asked)
    path = tmp_path / "safe.pmtiles"
    build_points(path, released, asked.point_layer, Provenance("Crimes"))
    proof = privacy.prove(path, released, "crimes", rule.level, rule.minimum_count)
    assert proof.holds and proof.features > 0, proof.problems


def test_the_proof_sees_raw_places_rare_places_and_unreleased_values(tmp_path: Path) -> None:
    asked, found = incidents(tmp_path)
    rule = asked.gate
    assert rule is not None
    released = to_points(found.table, asked)
    raw_layer = layer(attributes={"type": {"column": "Crime type"}, "ref": {}}, category="type")
    raw = to_points(read_features(raw_layer, tmp_path).table, raw_layer)
    path = tmp_path / "raw.pmtiles"
    build_points(path, raw, raw_layer.point_layer, Provenance("Crimes"))
    proof = privacy.prove(path, released, "crimes", rule.level, rule.minimum_count)
    assert {problem.code for problem in proof.problems} == {
        "attribute_unreleased",
        "value_unreleased",
        "coordinate_raw",
    }
    proof = privacy.prove(path, raw, "crimes", rule.level, rule.minimum_count)
    assert {problem.code for problem in proof.problems} == {"coordinate_raw", "place_rare"}


needs_london = pytest.mark.skipif(not LONDON.is_dir(), reason="the shared data are not on this machine")

POLICE = CRIMES | {
    "id": "london-crime",
    "source": {"path": "city_of_london_street", "monthly": True},
    "columns": {"longitude": "Longitude", "latitude": "Latitude", "id": "Crime ID"},
    "attributes": {"type": {"column": "Crime type"}, "month": {"column": "Month"}},
    "time": "month",
    "incidents": None,
}


def test_column_of_a_layer_is_typed(tmp_path: Path) -> None:
    found = from_csv(tmp_path, ["a,1,1, 7 ", "b,1,1,"], attributes={"type": {"column": "Crime type", "type": "number"}})
    assert found.table["type"].type == pa.float64()
    assert found.table["type"].to_pylist() == [7.0, None]
