"""Map layers over HTTP: who sees which, ranges of archives, tiles, TileJSON, the row ledger."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from api.app import create_app
from stemma.access.keys import IssuedKey
from stemma.access.permissions import Role
from stemma.ledger.receipts import Materialization, sync
from stemma.ledger.service import Ledger
from stemma.maps.catalog import BuiltArchive
from stemma.maps.decoding import decode
from stemma.store.database import Database, DatabaseUrls
from stemma.store.outputs import Artifact
from stemma.store.settings import Settings

ARCHIVE = "/api/v1/map/crimes.pmtiles"
PAGE = {"Accept": "text/html"}


@dataclass(frozen=True)
class Maps:
    """A studio with layers and the receipt of one, a client that may do everything, and the headers of a viewer."""

    client: httpx.Client
    built: dict[str, BuiltArchive]
    made: Materialization
    viewer: dict[str, str]


@pytest.fixture(scope="module")
def maps(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
    serve: Any,
    issue_key: Callable[..., IssuedKey],
    build_layers: Callable[[Settings, Database], dict[str, BuiltArchive]],
    new_materialization: Callable[..., Materialization],
) -> Iterator[Maps]:
    urls = new_database()
    settings = Settings(home=tmp_path_factory.mktemp("maps"), ff_map_pipeline=True)
    with Database(urls) as database:
        built = build_layers(settings, database)
        crimes = built["crimes"]
        tiles = Artifact(crimes.path, "application/vnd.pmtiles", crimes.sha256, crimes.size)
        with Ledger(urls, settings) as ledger:
            made = new_materialization("maps/tiles", crimes.run_id, partition="crimes", artifacts=(tiles,))
            sync(database, ledger, [made])
        viewer = issue_key(settings, urls, role=Role.VIEWER)
        with serve(create_app(settings, database=database)) as client:
            yield Maps(client, built, made, {"Authorization": f"Bearer {viewer.key}"})
    drop_database(urls)


def test_an_archive_comes_whole_in_parts_and_not_again(maps: Maps) -> None:
    archive = maps.built["crimes"]
    whole = maps.client.get(ARCHIVE)
    assert (whole.status_code, len(whole.content)) == (200, archive.size)
    assert hashlib.sha256(whole.content).hexdigest() == archive.sha256
    etag = whole.headers["etag"]
    part = maps.client.get(ARCHIVE, headers={"Range": "bytes=0-126", "If-Range": etag})
    assert (part.status_code, part.content) == (206, whole.content[:127])
    assert part.headers["content-range"] == f"bytes 0-126/{archive.size}"
    assert maps.client.get(ARCHIVE, headers={"If-None-Match": etag}).status_code == 304
    other = maps.client.get(ARCHIVE, headers={"Range": "bytes=0-126", "If-Range": '"other"'})
    assert (other.status_code, len(other.content)) == (200, archive.size)
    beyond = maps.client.get(ARCHIVE, headers={"Range": f"bytes={archive.size}-"})
    assert (beyond.status_code, beyond.json()["code"]) == (416, "range_not_satisfiable")


def test_a_layer_of_members_is_nothing_to_others(maps: Maps) -> None:
    seen = {one["id"] for one in maps.client.get("/api/v1/map").json()["data"]}
    assert seen == {"crimes", "parks", "streets", "wards"}
    assert {one["id"] for one in maps.client.get("/api/v1/map", headers=maps.viewer).json()["data"]} == seen - {"wards"}
    tail = ("", ".json", ".pmtiles", "/0/0/0.mvt")
    for address in (f"/api/v1/map/wards{end}" for end in tail):
        assert maps.client.get(address).status_code == 200
        refused = maps.client.get(address, headers=maps.viewer)
        unknown = maps.client.get(address.replace("wards", "nowhere"), headers=maps.viewer)
        assert (refused.status_code, refused.json()["code"]) == (404, "layer_unknown")
        assert refused.json()["detail"] == unknown.json()["detail"].replace("nowhere", "wards")
    page = maps.client.get("/play/map?about=wards", headers=PAGE | maps.viewer)
    assert page.status_code == 404
    assert "Wards" not in maps.client.get("/play/map", headers=PAGE | maps.viewer).text


def test_what_was_never_built_has_no_tiles(maps: Maps) -> None:
    for address in ("/api/v1/map/parks.pmtiles", "/api/v1/map/parks.json", "/api/v1/map/parks/0/0/0.mvt"):
        answer = maps.client.get(address)
        assert (answer.status_code, answer.json()["code"]) == (404, "layer_not_built")
    answer = maps.client.get("/api/v1/map/parks").json()
    assert (answer["archive"], answer["ledger"], answer["receipt"]) == (None, None, None)


def test_tilejson_leads_to_tiles_that_hold_every_row_of_the_ledger(maps: Maps) -> None:
    said = maps.client.get("/api/v1/map/crimes.json").json()
    assert (said["tilejson"], said["minzoom"], said["maxzoom"]) == ("3.0.0", 0, 12)
    assert {one["id"] for one in said["vector_layers"]} == {"crimes", "crimes_cells"}
    address = said["tiles"][0].format(z=0, x=0, y=0).partition("/api")[2]
    packed = maps.client.get(f"/api{address}")
    plain = maps.client.get(f"/api{address}", headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip" and "content-encoding" not in plain.headers
    assert packed.content == plain.content
    (layer,) = decode(plain.content)
    ledger = maps.client.get("/api/v1/map/crimes").json()["ledger"]
    assert sum(int(layer.attributes(one)["count"]) for one in layer.features) == ledger["released"] == 3000
    reasons = ("kept", "repaired", "duplicate", "no_coordinate", "out_of_bounds", "suppressed")
    assert [ledger[name] for name in reasons] == [3000, 0, 2, 2, 2, 0]
    assert ledger["rows"] == 3006
    nowhere = maps.client.get("/api/v1/map/crimes/12/0/0.mvt")
    assert (nowhere.status_code, nowhere.json()["code"]) == (404, "tile_not_found")
    assert maps.client.get("/api/v1/map/crimes/99/0/0.mvt").status_code == 404


def test_the_receipt_is_that_of_the_archive(maps: Maps) -> None:
    assert maps.client.get("/api/v1/map/crimes").json()["receipt"] == str(maps.made.receipt)
    assert maps.client.get("/api/v1/map/streets").json()["receipt"] is None
    page = maps.client.get("/play/map?about=crimes", headers=PAGE).text
    assert f"/receipts/maps/tiles?receipt={maps.made.receipt}" in page


def test_the_page_says_in_tables_what_the_map_shows(maps: Maps) -> None:
    page = maps.client.get("/play/map?about=crimes", headers=PAGE).text
    for told in ("Row ledger", "3,006 rows", "Burglary", "2020-02", "Made up by a test", maps.built["crimes"].sha256):
        assert told in page
    following = maps.client.get("/play/map?about=wards", headers=PAGE).text
    assert "Red" in following and "members only" in following


def test_features_come_in_pages(maps: Maps) -> None:
    first = maps.client.get("/play/map?about=crimes", headers=PAGE).text
    (following,) = re.findall(r'rel="next" href="([^"#]+)', first)
    second = maps.client.get(html.unescape(following), headers=PAGE).text
    ids = [set(re.findall(r"<code>(\d+)</code>", page)) for page in (first, second)]
    assert [len(found) for found in ids] == [10, 10] and not ids[0] & ids[1]
    assert maps.client.get("/play/map?about=crimes&cursor=x", headers=PAGE).status_code == 422


def test_an_empty_studio_says_how_to_begin(client: httpx.Client) -> None:
    page = client.get("/play/map", headers=PAGE)
    assert page.status_code == 200
    assert "There is no layer yet" in page.text and "maplibre" not in page.text


def test_a_build_is_asked_for_once(maps: Maps) -> None:
    form = {"once": "a" * 22}
    sent = [maps.client.post("/play/map/parks/build", data=form, headers=PAGE) for _ in range(2)]
    assert [answer.status_code for answer in sent] == [303, 303]
    (job,) = maps.client.get("/api/v1/jobs?kind=map:build").json()["data"]
    assert job["input"] == {"layer": "parks"}
    assert maps.client.post("/play/map/nowhere/build", headers=PAGE).status_code == 404
    assert maps.client.post("/play/map/parks/build", headers=PAGE | maps.viewer).status_code == 403


def test_the_basemap_is_served_in_parts_and_kept(maps: Maps) -> None:
    part = maps.client.get("/play/map/basemap.pmtiles", headers={"Range": "bytes=0-6"})
    assert (part.status_code, part.content) == (206, b"PMTiles")
    assert "immutable" in part.headers["cache-control"]
