"""How long one call waits: for the first token, between two, and in all.

A timer per call stands still while tokens flow: a token costs no timer of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from stemma.llm.failures import silent

T = TypeVar("T")


class Patience:
    """The waiting of one call, in seconds; `deadline` is a time of the event loop. Belongs to the event loop."""

    def __init__(self, provider: str, *, first: float, between: float, deadline: float) -> None:
        self._provider = provider
        self._limit = first
        self._between = between
        self._speaking = False
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._begun = 0.0
        self._waited = 0.0
        self._expired = False

    async def wait(self, coming: Awaitable[T]) -> T:
        """Await what the provider is to send; raises ProviderSilent (`provider_timeout`) when that takes too long."""
        self._begun = self._loop.time()
        if self._begun >= self._deadline:
            _drop(coming)
            raise self._error()
        self._task = asyncio.current_task()
        if self._timer is None:
            self._look()
        try:
            return await coming
        except asyncio.CancelledError:
            if not self._expired or self._task is None or self._task.uncancel() > 0:
                raise
            raise self._error() from None
        finally:
            self._task = None
            self._waited += self._loop.time() - self._begun

    def progress(self) -> None:
        """Something of the answer came: what was waited is forgotten, and from now on tokens follow each other."""
        self._waited = 0.0
        if not self._speaking:
            self._speaking = True
            self._limit = self._between
            # The timer stands where the first token was due.
            self.end()
            self._look()

    def end(self) -> None:
        """Nothing more is waited for."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        """Cancel the wait that is due, else come back when it will be; waits that end early move that on."""
        now = self._loop.time()
        begun = now if self._task is None else self._begun
        due = min(begun + self._limit - self._waited, self._deadline)
        if now < due:
            self._timer = self._loop.call_at(due, self._look)
        elif self._task is not None:
            self._expired = True
            self._task.cancel()
        else:
            # Nobody waits: the next wait finds out by itself.
            self._timer = None

    def _error(self) -> Exception:
        if self._loop.time() >= self._deadline:
            return silent(self._provider, "did not end its answer in time")
        if not self._speaking:
            return silent(self._provider, f"said nothing for {self._limit:g} seconds")
        return silent(self._provider, f"fell silent for {self._limit:g} seconds in the middle of its answer")


def _drop(coming: Awaitable[object]) -> None:
    """Let go of what is not awaited after all."""
    if asyncio.iscoroutine(coming):
        coming.close()
