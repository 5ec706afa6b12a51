"""The clients of the relay's benchmark: so many streams at once, read by one process as cheaply as can be.

Each token holds the time at which the provider sent it; what is read here is how many come, how late, and the first.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any, Final

import uvloop

_STAMP: Final = re.compile(rb"(\d{10}\.\d{6}) ")
_ENDS: Final = (b"event: done", b"data: [DONE]")
_DEADLINE: Final = 120.0


@dataclass(frozen=True)
class Target:
    """Who is asked: where, with which key, and how."""

    port: int
    path: str
    key: str
    body: dict[str, Any]

    def request(self) -> bytes:
        """The request as it is sent."""
        body = json.dumps(self.body).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.key}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass
class Load:
    """What the clients of one round saw, in milliseconds, and who took how many seconds of the processor meanwhile."""

    seconds: float = 0.0
    tokens: int = 0
    dropped: int = 0
    first: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    busy: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


def load(target: Target, streams: int, tokens: int, *, ramp: float = 0.2) -> Load:
    """Open the streams within `ramp` seconds, and read each to its end; one that ends without all of it is dropped."""
    seen = Load()
    uvloop.run(_read_all(target, seen, streams, tokens, ramp))
    return seen


async def _read_all(target: Target, seen: Load, streams: int, tokens: int, ramp: float) -> None:
    loop = asyncio.get_running_loop()
    request = target.request()

    async def one(number: int) -> None:
        await asyncio.sleep(number * ramp / streams)
        reading = _Reading(request, seen, loop.create_future())
        try:
            async with asyncio.timeout(_DEADLINE):
                await loop.create_connection(lambda: reading, "127.0.0.1", target.port)
                whole = await reading.ended
        except (TimeoutError, OSError):
            whole = False
        finally:
            reading.close()
        seen.tokens += reading.tokens
        seen.dropped += not (whole and reading.tokens == tokens)

    started = time.perf_counter()
    await asyncio.gather(*map(one, range(streams)))
    seen.seconds = time.perf_counter() - started


class _Reading(asyncio.Protocol):
    """One stream; `ended` says whether it came to its end."""

    def __init__(self, request: bytes, seen: Load, ended: asyncio.Future[bool]) -> None:
        self._request, self._seen, self.ended = request, seen, ended
        self._transport: Any = None
        self._rest = b""
        self.tokens = 0

    def close(self) -> None:
        """Leave, whether or not the stream has ended."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport, self._asked = transport, time.time()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now, received = time.time(), self._rest + data
        if stamps := _STAMP.findall(received):
            if not self.tokens:
                self._seen.first.append((now - self._asked) * 1000)
            self.tokens += len(stamps)
            self._seen.delays += [(now - float(stamp)) * 1000 for stamp in stamps]
            received = received.rpartition(stamps[-1])[2]
        self._rest = received
        if any(end in received for end in _ENDS) and not self.ended.done():
            self.ended.set_result(True)

    def connection_lost(self, _: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(False)
