"""The provider that the relay is measured with, as a process of its own: Chat Completions, as cheap as can be made.

It shares the processors with what is measured: a token costs it one timer and one write of bytes that were made before,
but for the time at which it is sent. What it is asked it does not read; tests have `tests.llm.upstream`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from typing import Any, Final

import uvloop

MODEL: Final = "loopback-1"

_CHUNK: Final = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
_LENGTH: Final = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def _choice(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {**_CHUNK, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def _framed(*documents: dict[str, Any] | bytes) -> bytes:
    """Each document as an event in a chunk of HTTP (RFC 9112, 7.1) of its own."""
    said = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in documents]
    return b"".join(b"%x\r\ndata: %b\n\n\r\n" % (len(one) + 8, one) for one in said)


_PLACE: Final = "0000000000.000000 "
_BEGIN: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + _framed(
    _choice({"role": "assistant", "content": ""})
)
_TOKEN: Final = _framed(_choice({"content": _PLACE})).replace(_PLACE.encode(), b"%.6f ")


class _Provider(asyncio.Protocol):
    """One connection; its client sends a request when it has read the answer to the one before."""

    def __init__(self, tokens: int, gap: float) -> None:
        self._tokens, self._gap = tokens, gap
        usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
        last = {**_CHUNK, "choices": [], "usage": usage}
        self._end = _framed(_choice({}, "stop"), last, b"[DONE]") + b"0\r\n\r\n"
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._received = b""
        self._left = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, whole, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not whole or len(body) < int(length[1] if length else 0):
            return
        self._received = b""
        if head.startswith(b"POST "):
            self._left = self._tokens
            self._transport.write(_BEGIN)
            self._say()
        else:
            listing = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()
            said = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            self._transport.write(said % (len(listing), listing))

    def _say(self) -> None:
        if self._left:
            self._left -= 1
            self._transport.write(_TOKEN % time.time())
            self._timer = self._loop.call_later(self._gap, self._say)
        else:
            self._transport.write(self._end)


async def _serve(port: int, tokens: int, gap: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Provider(tokens, gap), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def main() -> None:
    """Serve answers of `--tokens` tokens, `--gap` seconds apart, until killed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--gap", type=float, required=True)
    given = parser.parse_args()
    uvloop.run(_serve(given.port, given.tokens, given.gap))


if __name__ == "__main__":
    main()
