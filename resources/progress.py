"""Where the progress of long steps goes: Dagster's log by default, a display when the command line runs the graph."""

from __future__ import annotations

import time
from collections.abc import Callable

import dagster as dg

from stemma.progress import Progress, ReportProgress

_SECONDS_BETWEEN_LINES = 5.0


class ProgressLog:
    """Hands out a callback that logs a line now and then, with the rate and what is still to go."""

    def reporter(self, context: dg.AssetExecutionContext) -> ReportProgress:
        """A callback for one step of `context`."""
        return now_and_then(context.log.info)


def now_and_then(write: Callable[[str], object]) -> ReportProgress:
    """A callback that writes a line every few seconds, and one at the end."""
    last = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES or progress.done == progress.total:
            last = now
            write(str(progress))

    return report
