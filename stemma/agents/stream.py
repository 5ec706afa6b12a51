"""What a call streams, as numbered events in memory: appended by the call, followed by whoever is connected.

Tokens are the path that has to be fast: an event is encoded once, as the bytes that every follower sends, and followers
are woken once for all that a model sent together. Writing events down is the scribe's business.
"""

from __future__ import annotations

import asyncio
import json
import math
from array import array
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any, Final
from uuid import UUID

LAST: Final = frozenset({"done", "error", "cancelled"})
"""The kinds of events after which no other follows."""

Event = str | tuple[str, Mapping[str, Any]]
"""A token's text, or the kind and the data of any other event."""


class Stream:
    """The events of one call, numbered from 1. Belongs to the event loop's thread.

    `job_id` is None for what leaves no trace. `sent` is what SSE clients get, event by event.
    """

    def __init__(self, job_id: UUID | None) -> None:
        self.job_id = job_id
        self.ended = False
        self.sent = bytearray()
        self._ends = array("Q", [0])
        self._waiting: list[asyncio.Future[None]] = []
        self._unwritten: list[Event] = []
        self._written = 0
        self._woken = False
        self._loop = asyncio.get_running_loop()

    @property
    def seq(self) -> int:
        """The number of the newest event; 0 where there is none."""
        return len(self._ends) - 1

    def token(self, text: str) -> None:
        """Add text of the answer."""
        self._append(text, b'event: token\ndata: {"text":%b}\n\n' % encode_basestring_ascii(text).encode("ascii"))

    def tell(self, kind: str, data: Mapping[str, Any]) -> None:
        """Add another event; one of `LAST` ends the stream."""
        self.ended = kind in LAST
        kept = cleaned(data)
        said = json.dumps(kept, separators=(",", ":"))
        self._append((kind, kept), f"event: {kind}\ndata: {said}\n\n".encode())

    def _append(self, event: Event, frame: bytes) -> None:
        ends = self._ends
        self.sent += b"id: %d\n%b" % (len(ends), frame)
        ends.append(len(self.sent))
        if self.job_id is not None:
            self._unwritten.append(event)
        if not self._woken:
            # Runs when the provider's bytes that are here have all become tokens.
            self._woken = True
            self._loop.call_soon(self.wake)

    def wake(self) -> None:
        """Have every follower look again."""
        self._woken = False
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)

    async def news(self) -> None:
        """Wait until somebody wakes the followers."""
        future = self._loop.create_future()
        self._waiting.append(future)
        await future

    async def follow(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """The kinds and the data of all events, as they come, until the last."""
        position = 0
        while position < len(self.sent) or not self.ended:
            if position == len(self.sent):
                await self.news()
            part, position = bytes(self.sent[position:]), len(self.sent)
            for event in decoded(part):
                yield event

    def after(self, seq: int) -> int:
        """How many bytes of `sent` whoever has the event `seq` has; raises IndexError for one that there is not."""
        return self._ends[seq]

    @property
    def is_written(self) -> bool:
        """Whether everything is written down."""
        return not self._unwritten

    def unwritten(self) -> tuple[int, Sequence[Event]]:
        """What is not written down yet, and the number of its first event."""
        return self._written + 1, self._unwritten[:]

    def wrote(self, events: int) -> None:
        """So many of the oldest `unwritten` events are written down."""
        del self._unwritten[:events]
        self._written += events


def decoded(sent: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """The kinds and the data of the events in a part of `Stream.sent`; comments are left out."""
    for frame in sent.split(b"\n\n"):
        fields = dict(line.split(b": ", 1) for line in frame.split(b"\n") if b": " in line)
        if b"event" in fields:
            yield fields[b"event"].decode(), json.loads(fields[b"data"])


def cleaned(value: Any) -> Any:
    """A value as JSON that can be stored; what JSON has no form for becomes text, and no number null."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, Mapping):
        return {storable(str(name)): cleaned(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [cleaned(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (bool, int)) or value is None else storable(str(value))


def storable(text: str) -> str:
    """The text as a database and JSON can hold it: without U+0000 and halves of surrogate pairs."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text if text.isascii() else text.encode(errors="replace").decode()
