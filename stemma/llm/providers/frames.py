"""Server-sent events out of raw bytes (WHATWG HTML, "Server-sent events"), and their JSON: once per token, so by hand.

Lines may end in CRLF; a lone CR, which the standard allows too, is sent by no provider.
"""

from __future__ import annotations

import json
from typing import Any, Final

from stemma.llm.failures import garbage

_LARGEST: Final = 1 << 22


class Frames:
    """Cuts a stream of bytes into the data of its events, however they are split."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._rest = b""

    def feed(self, received: bytes) -> list[bytes]:
        """The data of the events that are complete now; events without data, such as comments, are left out.

        Raises ProviderFailed (`provider_garbage`) for an event beyond 4 MiB.
        """
        if b"\r" in received:
            received = received.replace(b"\r", b"")
        whole, ended, rest = (self._rest + received).rpartition(b"\n\n")
        self._rest = rest
        if len(rest) > _LARGEST:
            raise garbage(self._provider, "an event without end")
        return [data for event in whole.split(b"\n\n") if (data := _data(event))] if ended else []

    def finish(self) -> None:
        """The stream is over; raises ProviderFailed (`provider_garbage`) where it ended within an event."""
        if self._rest.strip():
            raise garbage(self._provider, "half an event")


def _data(event: bytes) -> bytes:
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)


def parse(provider: str, data: bytes) -> dict[str, Any]:
    """The JSON object of one event; raises ProviderFailed (`provider_garbage`)."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise garbage(provider, "what is no JSON") from error
    if not isinstance(document, dict):
        raise garbage(provider, "what is no JSON object")
    return document


def clean(text: str) -> str:
    """The text without what no database and no page can hold: U+0000 and halves of characters."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
