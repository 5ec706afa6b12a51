"""From the bytes of a provider's response to the text of its answer, within what an answer may be."""

from __future__ import annotations

from typing import Final, Protocol

from stemma.llm.failures import too_long
from stemma.llm.providers.base import Ended, Request
from stemma.llm.providers.frames import Frames
from stemma.llm.providers.patience import Patience

# Servers that cut multi-byte characters apart send more pieces than tokens.
_PIECES_PER_TOKEN: Final = 2
_SPARE_PIECES: Final = 64


class Reading(Protocol):
    """One answer as its events come, in the shapes of one protocol; `held` are the characters that it keeps to itself
    until the end, which are arguments of tools.
    """

    over: bool
    held: int

    def text_of(self, data: bytes) -> str:
        """The text that an event adds."""
        ...

    def ended(self) -> Ended:
        """The end of the answer."""
        ...


class Intake:
    """Takes the bytes of one answer as they come. Its methods raise ProviderFailed: `provider_garbage`,
    `provider_unavailable` where the stream breaks off, and `answer_too_long` beyond `largest` characters, or where
    events go on well beyond the tokens that were asked for.
    """

    def __init__(self, provider: str, request: Request, reading: Reading, patience: Patience, largest: int) -> None:
        self._provider = provider
        self._reading = reading
        self._patience = patience
        self._frames = Frames(provider)
        self._tokens = request.max_tokens
        self._pieces = request.max_tokens * _PIECES_PER_TOKEN + _SPARE_PIECES
        self._largest = self._left = largest
        self.over = False

    def feed(self, received: bytes) -> str:
        """The text in these bytes, which may be none; b"" says that the stream is over."""
        if not received:
            self._frames.finish()
            self.over = True
            return ""
        text = ""
        for data in self._frames.feed(received):
            if added := self._reading.text_of(data):
                text = text + added if text else added
                self._pieces -= 1
            self._patience.progress()
        self._left -= len(text)
        if self._pieces < 0:
            raise too_long(self._provider, f"the {self._tokens:,} tokens it was asked for")
        if self._left < self._reading.held:
            raise too_long(self._provider, f"{self._largest:,} characters")
        self.over = self._reading.over
        return text

    def ended(self) -> Ended:
        """The end of the answer."""
        return self._reading.ended()
