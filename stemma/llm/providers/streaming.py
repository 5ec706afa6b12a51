"""From the bytes of a provider's response to the pieces of its answer, within what an answer may be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from stemma.llm.failures import too_long
from stemma.llm.providers.base import Answering, Ended, Request
from stemma.llm.providers.frames import Frames
from stemma.llm.providers.patience import Patience

_PIECES_PER_TOKEN = 2
_SPARE_PIECES = 64


class Reading(Protocol):
    """One answer as its events come, in the shapes of one protocol."""

    over: bool

    def text_of(self, data: bytes) -> str:
        """The text that an event adds."""
        ...

    def ended(self) -> Ended:
        """The end of the answer."""
        ...


async def pieces(
    provider: str,
    request: Request,
    read: Callable[[], Awaitable[bytes]],
    reading: Reading,
    patience: Patience,
    largest: int,
) -> Answering:
    """The text as it comes, what came together as one piece, then the end. `read` gives b"" at the end of the stream.

    Raises ProviderFailed: `provider_garbage`, `provider_unavailable` where it broke off, and `answer_too_long` beyond
    `largest` bytes, or where events go on well beyond the tokens that were asked for.
    """
    frames = Frames(provider)
    left, events = largest, request.max_tokens * _PIECES_PER_TOKEN + _SPARE_PIECES
    while not reading.over:
        received = await patience.wait(read())
        if not received:
            frames.finish()
            break
        came = frames.feed(received)
        if not came:
            continue
        patience.progress()
        texts = [text for data in came if (text := reading.text_of(data))]
        if not texts:
            continue
        events -= len(texts)
        text = texts[0] if len(texts) == 1 else "".join(texts)
        left -= len(text)
        if events < 0:
            raise too_long(provider, f"the {request.max_tokens:,} tokens it was asked for")
        if left < 0:
            raise too_long(provider, f"{largest:,} characters")
        yield text
    yield reading.ended()
