from __future__ import annotations

import contextlib
import datetime
import gzip
import hashlib
import ipaddress
import json
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from stemma.errors import InvalidInput, StemmaError, TooLarge, Unavailable
from stemma.store.fetch import fetch, fetch_async, is_public
from stemma.store.settings import Settings

HERE = [ipaddress.ip_network("127.0.0.1/32")]
LIMIT = 100_000


class Site(BaseHTTPRequestHandler):
    """A site whose paths behave and misbehave; it notes what was asked on `server.seen`."""

    server: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        self.close_connection = True
        with contextlib.suppress(ConnectionError):
            getattr(self, "serve_" + urlsplit(self.path).path.strip("/").replace("-", "_"))()

    def answer(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", headers.pop("Content_Length", str(len(body))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def serve_ok(self) -> None:
        self.answer(b"plain text", Content_Type="text/plain; charset=utf-8")

    def serve_headers(self) -> None:
        self.answer(json.dumps(dict(self.headers.items())).encode())

    def serve_missing(self) -> None:
        self.answer(b"no such page", status=404)

    def serve_gzip(self) -> None:
        halves = gzip.compress(b"first half, ") + gzip.compress(b"second half")
        self.answer(halves, Content_Encoding="gzip")

    def serve_bomb(self) -> None:
        self.answer(gzip.compress(bytes(50_000_000)), Content_Encoding="gzip")

    def serve_cut_gzip(self) -> None:
        self.answer(gzip.compress(b"x" * 1000)[:-5], Content_Encoding="gzip")

    def serve_not_gzip(self) -> None:
        self.answer(b"plain text", Content_Encoding="gzip")

    def serve_deflate(self) -> None:
        self.answer(zlib.compress(b"x"), Content_Encoding="deflate")

    def serve_full(self) -> None:
        self.answer(b"x" * LIMIT)

    def serve_announced(self) -> None:
        self.answer(b"", Content_Length=str(LIMIT + 1))

    def serve_unannounced(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:
            self.wfile.write(b"2710\r\n" + b"x" * 10_000 + b"\r\n")

    def serve_short(self) -> None:
        self.answer(b"not all", Content_Length="100")

    def serve_slow_body(self) -> None:
        self.send_response(200)
        self.end_headers()
        self._trickle()

    def serve_slow_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        self._trickle()

    def _trickle(self) -> None:
        while not self.server.stopping.wait(0.05):
            self.wfile.write(b"x")

    def serve_noise(self) -> None:
        self.wfile.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")

    def serve_to(self) -> None:
        target = parse_qs(urlsplit(self.path).query)["url"][0]
        self.answer(status=302, Location=target, Set_Cookie="session=1; Path=/")

    def serve_loop(self) -> None:
        self.answer(status=307, Location="/loop")


@contextlib.contextmanager
def running(host: str, port: int = 0, context: ssl.SSLContext | None = None) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer((host, port), Site)
    server.seen = []
    server.stopping = threading.Event()
    server.url = f"http://{host}:{server.server_port}"
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def site() -> Iterator[Any]:
    with running("127.0.0.1") as server:
        yield server


@pytest.fixture
def limits(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, fetch_max_bytes=LIMIT, fetch_timeout=20.0)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Give a name addresses, one answer per lookup (the last one stays); returns the list of lookups made."""

    def answer(name: str, *answers: str) -> list[str]:
        real = socket.getaddrinfo
        asked: list[str] = []

        def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            if host != name:
                return real(host, port, *args, **kwargs)
            asked.append(host)
            return real(answers[min(len(asked), len(answers)) - 1], port, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return answer


def failure(url: str, limits: Settings) -> StemmaError:
    with pytest.raises(StemmaError) as caught:
        fetch(url, limits, allow=HERE)
    assert caught.value.field == "url"
    return caught.value


def test_a_document_is_fetched_with_its_hash(site: Any, limits: Settings) -> None:
    fetched = fetch(f"{site.url}/ok#part", limits, allow=HERE)
    assert fetched.body == b"plain text"
    assert fetched.content_type == "text/plain; charset=utf-8"
    assert fetched.url == f"{site.url}/ok"
    assert fetched.sha256 == hashlib.sha256(b"plain text").hexdigest()
    assert fetch(f"{site.url}/gzip", limits, allow=HERE).body == b"first half, second half"
    assert len(fetch(f"{site.url}/full", limits, allow=HERE).body) == LIMIT


def test_inside_an_event_loop(site: Any, limits: Settings) -> None:
    async def both() -> list[bytes]:
        return [(await fetch_async(f"{site.url}/ok", limits, allow=HERE)).body for _ in range(2)]

    assert anyio.run(both) == [b"plain text"] * 2


def test_redirects_are_followed_without_cookies(site: Any, limits: Settings) -> None:
    fetched = fetch(f"{site.url}/to?url=/headers", limits, allow=HERE)
    assert fetched.url == f"{site.url}/headers"
    assert set(json.loads(fetched.body)) == {"Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"}


def test_proxies_of_the_environment_are_ignored(site: Any, limits: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetch(f"{site.url}/ok", limits, allow=HERE).body == b"plain text"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "notes.md",
        "ftp://example.org/x",
        "file:///etc/passwd",
        "http://",
        "http:///path",
        "https://user:secret@example.org/",
        "https://user@example.org/",
        "http://exa mple.org/",
        "http://example.org:99999/",
        "http://[::1/",
        "http://example.org/\x00",
        "http://" + "a" * 5000,
    ],
)
def test_a_bad_url_is_refused(url: str, limits: Settings) -> None:
    error = failure(url, limits)
    assert isinstance(error, InvalidInput)
    assert error.code == "url_invalid"
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "localhost",
        "0",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "100.100.100.200",
        "169.254.169.254",
        "168.63.129.16",
        "192.0.0.192",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:8.8.8.8]",
        "[::7f00:1]",
        "[64:ff9b::a00:1]",
        "[64:ff9b:1::1]",
        "[2002:7f00:1::]",
        "[2001:0:1::1]",
        "[fe80::1]",
        "[fec0::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
    ],
)
def test_addresses_that_are_not_public_are_refused(host: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        fetch(f"http://{host}/", Settings(home=tmp_path))
    assert (caught.value.code, caught.value.field) == ("fetch_refused_address", "url")


@pytest.mark.parametrize("address", ["8.8.8.8", "168.63.129.17", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_inside_an_ipv6_one_gains_nothing(inner: ipaddress.IPv4Address) -> None:
    number = int(inner)
    assert not is_public(ipaddress.IPv6Address((0xFFFF << 32) | number))
    assert not is_public(ipaddress.IPv6Address(number))
    assert not is_public(ipaddress.IPv6Address((0x2002 << 112) | (number << 80)))
    translated = ipaddress.IPv6Address((0x64FF9B << 96) | number)
    assert is_public(translated) == is_public(inner)


def test_a_redirect_to_a_refused_address_is_not_followed(site: Any, limits: Settings) -> None:
    with running("127.0.0.2", site.server_port) as inner:
        error = failure(f"{site.url}/to?url={inner.url}/ok", limits)
        assert error.code == "fetch_refused_address"
        assert inner.seen == []
    assert failure(f"{site.url}/to?url=file:///etc/passwd", limits).code == "url_invalid"
    assert failure(f"{site.url}/to?url=http://u:p@127.0.0.1/", limits).code == "url_invalid"


def test_a_name_that_changes_its_address_after_the_check_changes_nothing(
    site: Any, limits: Settings, names: Callable[..., list[str]]
) -> None:
    asked = names("rebinds.example", "127.0.0.1", "127.0.0.2")
    with running("127.0.0.2", site.server_port) as inner:
        fetched = fetch(f"http://rebinds.example:{site.server_port}/headers", limits, allow=HERE)
        assert json.loads(fetched.body)["Host"] == f"rebinds.example:{site.server_port}"
        assert asked == ["rebinds.example"]
        again = f"http://rebinds.example:{site.server_port}/ok"
        assert failure(again, limits).code == "fetch_refused_address"
        assert inner.seen == []


def test_a_name_that_does_not_resolve(limits: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert failure("http://nowhere.example/", limits).code == "fetch_failed"


@pytest.mark.parametrize("path", ["announced", "unannounced", "bomb"])
def test_too_much_is_refused(site: Any, limits: Settings, path: str) -> None:
    error = failure(f"{site.url}/{path}", limits)
    assert isinstance(error, TooLarge)
    assert error.code == "fetch_too_large"


@pytest.mark.parametrize("path", ["slow-body", "slow-headers"])
def test_a_trickling_server_is_cut_off(site: Any, limits: Settings, path: str) -> None:
    error = failure(f"{site.url}/{path}", limits.model_copy(update={"fetch_timeout": 0.5}))
    assert isinstance(error, Unavailable)
    assert error.code == "fetch_timeout"


@pytest.mark.parametrize("path", ["missing", "cut-gzip", "not-gzip", "deflate", "short", "noise", "loop"])
def test_what_goes_wrong_at_the_server_is_a_typed_error(site: Any, limits: Settings, path: str) -> None:
    error = failure(f"{site.url}/{path}", limits)
    assert isinstance(error, Unavailable)
    assert error.code == "fetch_failed"


def test_a_redirect_loop_ends_after_five(site: Any, limits: Settings) -> None:
    failure(f"{site.url}/loop", limits)
    assert site.seen == ["/loop"] * 6


def test_nobody_listens(limits: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert failure(f"http://127.0.0.1:{taken.getsockname()[1]}/", limits).code == "fetch_failed"


def certificate(folder: Path, name: str) -> Path:
    """A self-signed certificate with its key in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(
        built.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


def test_tls_is_verified_against_the_name_although_the_address_is_pinned(
    limits: Settings, names: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path, "files.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    asked_for: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.sni_callback = lambda _socket, name, _context: asked_for.append(name)
    names("files.example", "127.0.0.1")
    names("other.example", "127.0.0.1")
    with running("127.0.0.1", context=context) as server:
        fetched = fetch(f"https://files.example:{server.server_port}/headers", limits, allow=HERE)
        assert json.loads(fetched.body)["Host"] == f"files.example:{server.server_port}"
        error = failure(f"https://other.example:{server.server_port}/ok", limits)
        assert error.code == "fetch_failed"
        assert asked_for == ["files.example", "other.example"]
        assert server.seen == ["/headers"]
