"""Asking a service for JSON: with its key, with retries, and never in the clear."""

from __future__ import annotations

import ipaddress
import random
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

import httpx

from stemma.errors import Forbidden, InvalidInput, NotFound, Unavailable

ATTEMPTS: Final = 5
LONGEST_PAUSE: Final = 60.0
"""Seconds that a service may ask to wait; who asks for more is asked again another time."""

_TIMEOUT: Final = 30.0
_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})

Query = list[tuple[str, str]]


class Web:
    """One service. `close()`, or use it as a context manager."""

    def __init__(
        self,
        name: str,
        url: str,
        headers: Mapping[str, str],
        *,
        setting: str,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """`setting` is the one that has the key. Raises InvalidInput for a URL by which the key would be sent in the
        clear.
        """
        self._name = name
        self._setting = setting
        self._pause = pause
        try:
            base = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise _bad_url(name, f"it is none: {error}") from error
        if not base.host or (base.scheme != "https" and not (base.scheme == "http" and _is_loopback(base))):
            raise _bad_url(name, "it is no https, so that the key would be sent in the clear")
        self._client = httpx.Client(
            base_url=base,
            headers={"User-Agent": "stemma", "Accept": "application/json", **headers},
            timeout=_TIMEOUT,
            verify=httpx.create_ssl_context(),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def get(self, path: str, query: Query) -> Any:
        """The JSON of a GET, tried up to `ATTEMPTS` times.

        Raises Unavailable, Forbidden (401, 403), NotFound (404), InvalidInput for another refusal.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                response = self._client.get(path, params=httpx.QueryParams(tuple(query)))
            except httpx.TransportError as error:
                why, asked = f"there is no connection: {type(error).__name__}", None
            else:
                asked = _asked_to_wait(response)
                if response.status_code not in _AGAIN and asked is None:
                    return self._read(response)
                why = f"it answers with status {response.status_code}"
            seconds = 2.0 ** (attempt - 1) * random.uniform(0.5, 1.0) if asked is None else asked  # noqa: S311
            if seconds > LONGEST_PAUSE or attempt == ATTEMPTS:
                break
            self._pause(seconds)
        hint = f"It asks to wait for {seconds:,.0f} seconds." if seconds > LONGEST_PAUSE else "Try again later."
        raise Unavailable("source_unavailable", f"{self._name} does not answer: {why}.", hint=hint)

    def _read(self, response: httpx.Response) -> Any:
        status = response.status_code
        if status in (401, 403):
            what = f"{self._name} does not take the key (status {status})."
            raise Forbidden("source_forbidden", what, field=self._setting)
        if status == 404:
            what = f"{self._name} has nothing there, or shows it to nobody with this key."
            raise NotFound("source_unknown", what)
        if not response.is_success:
            raise InvalidInput("source_refused", f"{self._name} refuses the request with status {status}.")
        try:
            return response.json()
        except ValueError as error:
            what = f"{self._name} answers with something that is no JSON."
            raise Unavailable("source_unavailable", what) from error


def _asked_to_wait(response: httpx.Response) -> float | None:
    """Seconds until the service wants to be asked again: `Retry-After` (RFC 9110 §10.2.3), or GitHub's headers when no
    request is left.
    """
    after = response.headers.get("retry-after", "")
    if after.isdecimal() and response.status_code in (*_AGAIN, 403):
        return float(after)
    reset = response.headers.get("x-ratelimit-reset", "")
    if response.headers.get("x-ratelimit-remaining") == "0" and reset.isdecimal() and not response.is_success:
        return max(float(reset) - time.time(), 1.0)
    return None


def _is_loopback(url: httpx.URL) -> bool:
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return url.host == "localhost"


def _bad_url(name: str, why: str) -> InvalidInput:
    return InvalidInput("source_url_invalid", f"The URL of {name} cannot be used: {why}.", hint="Write https://host.")
