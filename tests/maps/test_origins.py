"""Where a layer's source may be: on this machine, in a package, behind a URL, in a bucket."""

from __future__ import annotations

import ipaddress
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from s3fs import S3FileSystem

from stemma.errors import InvalidInput, NotFound, StemmaError, Unavailable
from stemma.maps.layers import Layer, parse_layer
from stemma.maps.origins import fingerprint, opened
from stemma.store.settings import Settings

HERE = [ipaddress.ip_network("127.0.0.1/32")]
CSV = b"lon,lat\n1,2\n"


def layer(path: str, **source: Any) -> Layer:
    said = {"id": "trees", "title": "Trees", "kind": "points", "licence": "CC0-1.0", "attribution": "Nobody"}
    columns = {"longitude": "lon", "latitude": "lat"}
    return parse_layer({**said, "columns": columns, "source": {"path": path, **source}})


class Shelf(BaseHTTPRequestHandler):
    """Objects by path, as a web server gives them out and, as far as reading goes, S3 does."""

    objects: dict[str, bytes]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        query = parse_qs(asked.query, keep_blank_values=True)
        if asked.path.startswith("/private"):
            self.answer(403, b"", "text/plain")
            return
        if "list-type" in query:
            self.answer(200, self.listing(asked.path.strip("/"), query["prefix"][0]), "application/xml")
        elif asked.path in self.objects:
            self.answer(200, self.objects[asked.path], "text/csv; charset=utf-8")
        else:
            self.answer(404, b"", "text/plain")

    def listing(self, bucket: str, prefix: str) -> bytes:
        found = [key.removeprefix(f"/{bucket}/") for key in self.objects if key.startswith(f"/{bucket}/{prefix}")]
        items = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(self.objects[f'/{bucket}/{key}'])}</Size><ETag>{self.tag(key)}</ETag>"
            "<LastModified>2026-01-02T03:04:05.000Z</LastModified></Contents>"
            for key in sorted(found)
        )
        return f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{items}</ListBucketResult>'.encode()

    def tag(self, key: str) -> str:
        return str(abs(hash(self.objects.get(key, b""))))

    def answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(body)),
            "Content-Type": kind,
            "ETag": str(abs(hash(body))),
            "Last-Modified": "Fri, 02 Jan 2026 03:04:05 GMT",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """What a server on loopback has, by path; also the S3 of this process."""
    Shelf.objects = {}
    S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Shelf) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Shelf.objects
        server.shutdown()
        thread.join()


@pytest.fixture
def address(objects: dict[str, bytes]) -> str:
    """Where that server listens."""
    return os.environ["AWS_ENDPOINT_URL"]


def contents(wanted: Layer, folder: Path | None = None) -> dict[str, tuple[str, bytes]]:
    with opened(wanted, folder, Settings(), allow=HERE) as files:
        return {file.path.name: (file.partition, file.path.read_bytes()) for file in files}


def refused(wanted: Layer, folder: Path | None = None, *, allow: Any = HERE) -> StemmaError:
    with pytest.raises(StemmaError) as caught, opened(wanted, folder, Settings(), allow=allow):
        pytest.fail("it was opened")
    return caught.value


def test_a_url_is_fetched_and_named_by_its_end_or_its_type(objects: dict[str, bytes], address: str) -> None:
    objects.update({"/data/trees.csv": CSV, "/export": CSV})
    assert contents(layer(f"{address}/data/trees.csv")) == {"trees.csv": ("", CSV)}
    assert contents(layer(f"{address}/export?all=1")) == {"export.csv": ("", CSV)}


def test_a_url_that_does_not_answer_or_is_private_is_refused(objects: dict[str, bytes], address: str) -> None:
    missing, private = refused(layer(f"{address}/no.csv")), refused(layer(f"{address}/no.csv"), allow=())
    assert isinstance(missing, Unavailable) and missing.code == "fetch_failed"
    assert isinstance(private, InvalidInput) and private.code == "fetch_refused_address"


def test_objects_are_read_alone_or_by_month(objects: dict[str, bytes]) -> None:
    objects.update({"/bucket/a/2020-01.csv": CSV, "/bucket/a/2020-02.csv": CSV + b"3,4\n"})
    assert contents(layer("s3://bucket/a/2020-01.csv")) == {"2020-01.csv": ("", CSV)}
    assert contents(layer("s3://bucket/a/", monthly=True)) == {
        "2020-01.csv": ("2020-01", CSV),
        "2020-02.csv": ("2020-02", CSV + b"3,4\n"),
    }


def test_a_changed_object_changes_the_fingerprint_also_in_a_process_that_saw_it(
    objects: dict[str, bytes],
) -> None:
    objects["/bucket/a/2020-01.csv"] = CSV
    months = layer("s3://bucket/a", monthly=True)
    first = fingerprint(months, None)
    assert fingerprint(months, None) == first
    objects["/bucket/a/2020-02.csv"] = CSV
    assert fingerprint(months, None) != first


def test_an_object_that_is_not_there_or_a_store_that_fails_is_said(objects: dict[str, bytes]) -> None:
    gone, closed = refused(layer("s3://bucket/none.csv")), refused(layer("s3://private/trees.csv"))
    assert isinstance(gone, NotFound) and gone.code == "source_not_found"
    assert isinstance(closed, Unavailable) and closed.code == "source_unreachable"


def test_a_package_brings_its_own_files(tmp_path: Path) -> None:
    points = layer("package://libpysal/examples/geodanet/crimes.shp")
    with opened(points, None, Settings()) as (file,):
        assert [part.name for part in file.parts] == ["crimes.dbf", "crimes.prj", "crimes.shp", "crimes.shx"]
    assert fingerprint(points, None) == fingerprint(points, tmp_path)
    assert refused(layer("package://nothing_of_the_kind/a.csv")).code == "package_unknown"
    assert refused(layer("package://libpysal/../../a.csv")).code == "path_outside"


def test_a_path_needs_its_folder_and_a_part_of_a_shapefile_counts(tmp_path: Path) -> None:
    for name in ("a.shp", "a.dbf", "b.dbf", "a.shp.xml"):
        (tmp_path / name).write_bytes(b"1")
    shapes = layer("a.shp")
    first = fingerprint(shapes, tmp_path)
    (tmp_path / "b.dbf").write_bytes(b"22")
    assert fingerprint(shapes, tmp_path) == first
    (tmp_path / "a.dbf").write_bytes(b"22")
    assert fingerprint(shapes, tmp_path) != first
    assert refused(shapes).code == "folder_unknown"


@pytest.mark.parametrize("path", ["ftp://host/a.csv", "file:///etc/passwd", "memory://a", "https://host/months"])
def test_other_schemes_are_no_sources(path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        layer(path, monthly=True)
    assert caught.value.code == "layer_invalid"
