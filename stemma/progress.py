"""How long-running domain functions tell that they are getting on.

Only the value and the callback's type live here; how progress is shown is up to each face.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` units of one stage after `seconds`; `total` is None where it is not known."""

    stage: str
    unit: str
    done: int
    total: int | None
    seconds: float

    @property
    def rate(self) -> float:
        """Units per second so far."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds still to go at this rate, or None where that cannot be said."""
        if self.total is None or self.rate == 0:
            return None
        return (self.total - self.done) / self.rate

    def __str__(self) -> str:
        of = f" of {self.total:,}" if self.total is not None else ""
        eta = f", {self.eta:.0f} s to go" if self.eta is not None else ""
        return f"{self.stage}: {self.done:,}{of} {self.unit}, {self.rate:,.0f}/s{eta}"


ReportProgress = Callable[[Progress], None]
