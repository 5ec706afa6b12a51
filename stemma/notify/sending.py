"""What every kind of channel has in common: how an attempt ends that did not succeed, addresses, and the one POST.

What is sent is the business of `slack`, `signed` and `mail`; when and how often, of `delivery`.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

import anyio
import anyio.to_thread
import httpx

from stemma.errors import Unavailable
from stemma.store.fetch import is_public

MAX_RETRY_AFTER: Final = 24 * 3600.0

_TOLD_TO_WAIT: Final = frozenset({408, 429})
_MAX_EXCERPT: Final = 2048
_SECONDS = re.compile(r"[0-9]{1,10}")


class Undelivered(Unavailable):
    """An attempt that did not succeed. A `permanent` one would not later either; `retry_after` is in seconds."""

    def __init__(self, code: str, message: str, *, permanent: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(code, message)
        self.permanent = permanent
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver said: its status and the beginning of its body."""

    status: int
    excerpt: bytes
    retry_after: float


def post(url: str, body: bytes, headers: Mapping[str, str], *, allow_private: bool, timeout: float) -> Answer:
    """POST to a channel and return a 2xx answer; redirects are not followed, variables for proxies not read.

    `timeout` is for everything together, so that no receiver holds a delivery up by answering slowly. Raises
    Undelivered. Not to be called on a thread that runs an event loop.
    """

    async def run() -> Answer:
        with anyio.fail_after(timeout):
            return await _post(httpx.URL(url), body, headers, allow_private=allow_private)

    try:
        answer = anyio.run(run)
    except TimeoutError:
        raise timed_out(timeout) from None
    if 200 <= answer.status < 300:
        return answer
    raise refused(answer)


def refused(answer: Answer, said: str = "") -> Undelivered:
    """The error for an answer that is not 2xx; a 4xx but 408 and 429 is permanent (RFC 9110, RFC 6585)."""
    permanent = 400 <= answer.status < 500 and answer.status not in _TOLD_TO_WAIT
    reason = f": {said}" if said else ""
    what = f"The receiver answered with status {answer.status}{reason}."
    return Undelivered(f"http_{answer.status}", what, permanent=permanent, retry_after=answer.retry_after)


def timed_out(timeout: float) -> Undelivered:
    """The error for a receiver that hangs."""
    return Undelivered("receiver_timeout", f"The receiver did not take it within {timeout:g} seconds.")


async def resolve(host: str, port: int, *, allow_private: bool) -> list[str]:
    """The addresses of a host, each of them public unless private ones are allowed; raises Undelivered."""

    def look_up() -> list[str]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    try:
        addresses = await anyio.to_thread.run_sync(look_up, abandon_on_cancel=True)
    except (OSError, UnicodeError):
        raise Undelivered("receiver_unresolved", "The receiver's name does not resolve.") from None
    if not allow_private and not all(is_public(ipaddress.ip_address(address)) for address in addresses):
        what = "The receiver has a private address, and the channel does not say `allow_private: true`."
        raise Undelivered("receiver_private", what, permanent=True)
    return addresses


def reach(host: str, port: int, *, tls: bool, allow_private: bool, timeout: float) -> None:
    """Connect to a receiver as `post` would, and send nothing; raises Undelivered."""

    async def addresses() -> list[str]:
        with anyio.fail_after(timeout):
            return await resolve(host, port, allow_private=allow_private)

    try:
        found = anyio.run(addresses)
    except TimeoutError:
        raise Undelivered("receiver_unresolved", "The receiver's name does not resolve.") from None
    for address in found:
        try:
            with socket.create_connection((address, port), timeout) as connection:
                if tls:
                    _tls().wrap_socket(connection, server_hostname=host).close()
                return
        except (OSError, ValueError):
            continue
    raise Undelivered("receiver_unreachable", "No connection to the receiver, or none that TLS can trust.")


async def _post(url: httpx.URL, body: bytes, headers: Mapping[str, str], *, allow_private: bool) -> Answer:
    port = url.port or (443 if url.scheme == "https" else 80)
    addresses = await resolve(url.raw_host.decode(), port, allow_private=allow_private)
    # The caller's limit is for everything together; one for each step would add nothing.
    timeout = httpx.Timeout(None)
    async with httpx.AsyncClient(verify=_tls(), trust_env=False, timeout=timeout) as client:
        for address in addresses:
            # The very address that was checked, so that a second answer of the name server changes nothing.
            request = client.build_request(
                "POST",
                url.copy_with(host=address),
                content=body,
                headers={**headers, "Host": url.netloc.decode("ascii"), "User-Agent": "stemma"},
                extensions={"sni_hostname": url.raw_host.decode("ascii")},
            )
            try:
                response = await client.send(request, stream=True)
            except httpx.ConnectError:
                continue
            except httpx.HTTPError:
                raise Undelivered("receiver_broken", "The receiver ended the connection without an answer.") from None
            try:
                return Answer(response.status_code, await _beginning(response), _retry_after(response))
            finally:
                await response.aclose()
    raise Undelivered("receiver_unreachable", "No connection to the receiver, or none that TLS can trust.")


@functools.cache
def _tls() -> ssl.SSLContext:
    """Loading the certificates of all authorities takes longer than most requests."""
    return httpx.create_ssl_context()


async def _beginning(response: httpx.Response) -> bytes:
    """Enough of the body for a reason; it decides nothing, so that a broken one is an empty one."""
    if response.is_success:
        return b""
    try:
        async for block in response.aiter_raw(_MAX_EXCERPT):
            return block
    except httpx.HTTPError:
        pass
    return b""


def _retry_after(response: httpx.Response) -> float:
    """Seconds (RFC 9110, 10.2.3), at most a day; 0 where nothing usable is said."""
    text = response.headers.get("retry-after", "").strip()
    try:
        seconds = float(text) if _SECONDS.fullmatch(text) else _until(text)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def _until(date: str) -> float:
    at = parsedate_to_datetime(date)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - time.time()
