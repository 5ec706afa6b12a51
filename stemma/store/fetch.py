"""The one client for URLs that a user gave: public addresses only, bounded in size and time.

Calls to services that the operator configured (model providers, webhooks of ours) do not belong here.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import anyio
import anyio.to_thread
import httpx
from pydantic import SecretStr

from stemma.errors import Forbidden, InvalidInput, StemmaError, TooLarge, Unavailable
from stemma.store.settings import Settings

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_MAX_REDIRECTS = 5
_MAX_URL = 4096
_CONNECT_TIMEOUT = 5.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {"User-Agent": "stemma", "Accept": "*/*", "Accept-Encoding": "gzip"}

# IANA special-purpose address registries, written out: what `ipaddress` knows of them depends on its version.
_REFUSED_V4 = tuple(
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # Azure's metadata and wire server stands in public address space.
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
# RFC 6052: a translator's address; the IPv4 address inside it is what gets reached.
_NAT64 = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Credential:
    """A header that one service alone is sent. `host` is exact, with the port where that is not the scheme's own."""

    host: str
    header: str
    value: SecretStr

    def belongs_to(self, url: httpx.URL, allow: Sequence[Network]) -> bool:
        """Whether a request is for that service, and cannot be read on its way there."""
        return url.netloc.decode("ascii") == self.host and (url.scheme == "https" or _is_among(url.host, allow))


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole response body, decompressed; `url` is where it came from after redirects, `sha256`
    hexadecimal.
    """

    url: str
    content_type: str
    body: bytes
    sha256: str


def fetch(
    url: str,
    settings: Settings,
    *,
    allow: Sequence[Network] = (),
    hosts: Collection[str] | None = None,
    credential: Credential | None = None,
) -> Fetched:
    """GET a URL that a user gave; not to be called on a thread that runs an event loop.

    Raises InvalidInput (`url_invalid`, `fetch_refused_address`), TooLarge (`fetch_too_large`), Unavailable
    (`fetch_timeout`, `fetch_failed`), and Forbidden (`fetch_host_refused`) for a host, also one that is redirected to,
    that is not among `hosts`, where these are given. `allow` names networks that are reachable in spite of the address
    rules; it exists for tests on loopback. `credential` goes with requests for its host over TLS alone, and with none
    that a redirect leads elsewhere; Forbidden (`fetch_credential_refused`) for a URL that is for another.
    """

    async def run() -> Fetched:
        return await fetch_async(url, settings, allow=allow, hosts=hosts, credential=credential)

    return anyio.run(run)


async def fetch_async(
    url: str,
    settings: Settings,
    *,
    allow: Sequence[Network] = (),
    hosts: Collection[str] | None = None,
    credential: Credential | None = None,
) -> Fetched:
    """`fetch` for callers that run an event loop."""
    try:
        with anyio.fail_after(settings.fetch_timeout):
            return await _follow(_checked_url(url), settings.fetch_max_bytes, allow, hosts, credential)
    except (TimeoutError, httpx.TimeoutException) as error:
        raise Unavailable(
            "fetch_timeout",
            f"The server did not deliver the whole document within {settings.fetch_timeout:g} seconds.",
            field="url",
            hint="Try again later, or raise STEMMA_FETCH_TIMEOUT.",
        ) from error


async def _follow(
    url: httpx.URL,
    max_bytes: int,
    allow: Sequence[Network],
    hosts: Collection[str] | None,
    credential: Credential | None,
) -> Fetched:
    if credential is not None and not credential.belongs_to(url, allow):
        what = f"The secret is for https://{credential.host} and sent nowhere else."
        raise Forbidden("fetch_credential_refused", what, field="url")
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    timeout = httpx.Timeout(None, connect=_CONNECT_TIMEOUT)
    # The context reads SSL_CERT_FILE; the client reads no variable, so no proxy or .netrc changes the route.
    context = httpx.create_ssl_context()
    async with httpx.AsyncClient(
        verify=context, trust_env=False, cookies=no_cookies, headers=_HEADERS, timeout=timeout
    ) as client:
        for _ in range(_MAX_REDIRECTS + 1):
            _require_host(url, hosts)
            belongs = credential is not None and credential.belongs_to(url, allow)
            response = await _send(client, url, await _resolve(url, allow), credential if belongs else None)
            try:
                if response.status_code not in _REDIRECTS or "location" not in response.headers:
                    return await _read(url, response, max_bytes)
                url = _redirected(url, response.headers["location"])
            finally:
                await response.aclose()
    raise _failed(f"The server redirects more than {_MAX_REDIRECTS} times.")


def _checked_url(text: str) -> httpx.URL:
    try:
        if len(text) > _MAX_URL:
            raise httpx.InvalidURL(f"it is longer than {_MAX_URL} characters")
        if any(character.isspace() or not character.isprintable() for character in text):
            raise httpx.InvalidURL("it holds white space or control characters")
        return _checked(httpx.URL(text))
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        raise _bad_url(str(error)) from error


def _redirected(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return _checked(url.join(location))
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        raise _failed(f"The server redirects to something that is not a URL: {error}.") from error


def _checked(url: httpx.URL) -> httpx.URL:
    if url.scheme not in ("http", "https"):
        raise _bad_url("only http and https are fetched")
    if not url.host:
        raise _bad_url("it names no host")
    if url.port is not None and not 0 < url.port < 65536:
        raise _bad_url("its port is not a port number")
    if url.userinfo:
        raise _bad_url("it carries credentials")
    return url.copy_with(fragment=None)


def _require_host(url: httpx.URL, hosts: Collection[str] | None) -> None:
    if hosts is not None and url.host not in hosts:
        hint = f"Allowed are {', '.join(sorted(hosts)) or 'none'}."
        raise Forbidden("fetch_host_refused", f"The host {url.host} is not allowed.", field="url", hint=hint)


def _bad_url(problem: str) -> InvalidInput:
    return InvalidInput(
        "url_invalid",
        f"This URL cannot be fetched: {problem}.",
        field="url",
        hint="Write https://host/path without user name and password.",
    )


def _failed(problem: str) -> Unavailable:
    return Unavailable("fetch_failed", problem, field="url", hint="Check the URL in a browser, then try again.")


async def _resolve(url: httpx.URL, allow: Sequence[Network]) -> list[Address]:
    """The addresses of the URL's host; InvalidInput when any of them must not be reached."""

    def look_up() -> list[Address]:
        found = socket.getaddrinfo(url.raw_host.decode(), url.port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in found))

    try:
        addresses = await anyio.to_thread.run_sync(look_up, abandon_on_cancel=True)
    except (OSError, UnicodeError) as error:
        raise _failed(f"The name {url.host} does not resolve.") from error
    for address in addresses:
        if not is_public(address) and not any(address in network for network in allow):
            raise InvalidInput(
                "fetch_refused_address",
                f"{url.host} is at {address}, which is not a public address.",
                field="url",
                hint="Only documents on the public internet are fetched; put local files into the inbox.",
            )
    return addresses


def is_public(address: Address) -> bool:
    """Whether an address is that of an ordinary host on the public internet (RFC 6890).

    Refused are private, loopback, link-local (with the metadata services of clouds), multicast, reserved and
    shared addresses, and IPv6 forms that carry an IPv4 address, save those of a translator to a public one.
    """
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_V4)
    if address in _NAT64:
        return is_public(IPv4Address(address.packed[-4:]))
    return address in _GLOBAL_V6 and not any(address in network for network in _REFUSED_V6)


def _is_among(host: str, networks: Sequence[Network]) -> bool:
    try:
        return any(ipaddress.ip_address(host) in network for network in networks)
    except ValueError:
        return False


async def _send(
    client: httpx.AsyncClient, url: httpx.URL, addresses: Sequence[Address], credential: Credential | None
) -> httpx.Response:
    """Send to the very addresses that were checked, so that a second answer of the name server changes
    nothing.
    """
    headers = {"Host": url.netloc.decode("ascii")}
    if credential is not None:
        headers[credential.header] = credential.value.get_secret_value()
    problem: httpx.HTTPError | None = None
    for address in addresses:
        request = client.build_request(
            "GET",
            url.copy_with(host=str(address)),
            headers=headers,
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        )
        try:
            return await client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            problem = error
        except httpx.TimeoutException:
            raise
        except httpx.HTTPError as error:
            raise _failed(f"The server does not speak HTTP as it should: {error}.") from error
    raise _failed(f"No connection to {url.host}: {problem}.") from problem


async def _read(url: httpx.URL, response: httpx.Response, max_bytes: int) -> Fetched:
    if not response.is_success:
        raise _failed(f"The server answered with status {response.status_code}.")
    if int(response.headers.get("content-length", "0")) > max_bytes:
        raise _too_large(max_bytes)
    body = _Body(response.headers.get("content-encoding", ""), max_bytes)
    try:
        async for block in response.aiter_raw():
            body.feed(block)
        content = body.finish()
    except httpx.TimeoutException:
        raise
    except (httpx.HTTPError, zlib.error) as error:
        raise _failed(f"The document arrived incomplete: {error}.") from error
    return Fetched(
        url=str(url),
        content_type=response.headers.get("content-type", ""),
        body=content,
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _too_large(max_bytes: int) -> StemmaError:
    return TooLarge(
        "fetch_too_large",
        f"The document is larger than {max_bytes} bytes.",
        field="url",
        hint="Raise STEMMA_FETCH_MAX_BYTES to fetch it.",
    )


class _Body:
    """Collects a body and decompresses it without ever holding more than the limit."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        if encoding.strip().lower() not in ("", "identity", "gzip", "x-gzip"):
            raise _failed(f"The server used the content encoding {encoding!r}, which was not asked for.")
        self._compressed = "gzip" in encoding.lower()
        self._inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self._max_bytes = max_bytes
        self._received = 0
        self._content = bytearray()

    def feed(self, block: bytes) -> None:
        self._received += len(block)
        if self._received > self._max_bytes:
            raise _too_large(self._max_bytes)
        if not self._compressed:
            self._content += block
            return
        while block:
            if self._inflate.eof:  # RFC 1952: a gzip file may hold several members, one after the other.
                self._inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
            self._content += self._inflate.decompress(block, self._max_bytes + 1 - len(self._content))
            if len(self._content) > self._max_bytes:
                raise _too_large(self._max_bytes)
            block = self._inflate.unconsumed_tail or self._inflate.unused_data

    def finish(self) -> bytes:
        if self._compressed and self._received and not self._inflate.eof:
            raise zlib.error("the compressed data ends early")
        return bytes(self._content)
