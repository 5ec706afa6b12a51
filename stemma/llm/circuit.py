"""A circuit breaker per provider: one that failed several times in a row rests, and is then tried by a single call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

FAILURES: Final = 5
"""Failures in a row after which a provider rests."""

_REST: Final = 10.0
_LONGEST_REST: Final = 120.0


class Circuit:
    """The failures of one provider, by a monotonic clock in seconds. Used on the event loop's thread alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._until = 0.0
        self._trial_until = 0.0

    @property
    def resting(self) -> float:
        """Seconds for which the provider still rests; 0 where it does not."""
        return max(0.0, self._until - self._clock())

    def admit(self) -> bool:
        """Whether a call may be made now. After a rest one call may; until it ended, or hung for as long as a rest, no
        other.
        """
        now = self._clock()
        if now < self._until:
            return False
        if self._failures < FAILURES:
            return True
        if now < self._trial_until:
            return False
        self._trial_until = now + _REST
        return True

    def succeeded(self) -> None:
        """An admitted call was answered."""
        self._failures = 0
        self._until = self._trial_until = 0.0

    def failed(self, retry_after: float | None = None) -> None:
        """An admitted call failed; `retry_after` is for how long the provider asks to be left alone."""
        if self.resting:
            # It was begun before the rest, and says nothing new.
            return
        self._failures += 1
        self._trial_until = 0.0
        rest = _REST * 2 ** min(self._failures - FAILURES, 8) if self._failures >= FAILURES else 0.0
        self._until = self._clock() + min(max(rest, retry_after or 0.0), _LONGEST_REST)

    def left(self) -> None:
        """An admitted call ended without saying anything of the provider, as when its caller went away."""
        self._trial_until = 0.0
