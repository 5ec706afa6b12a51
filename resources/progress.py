"""Where the progress of long steps goes: Dagster's log and the events of the job, or a display of the command line."""

from __future__ import annotations

import time
from collections.abc import Callable

import dagster as dg

from stemma.progress import Progress, ReportProgress

_SECONDS_BETWEEN_LINES = 5.0


class ProgressLog:
    """Hands out a callback that logs a line now and then, with the rate and what is still to go."""

    def reporter(self, context: dg.AssetExecutionContext) -> ReportProgress:
        """A callback for one step of `context`; who watches the job that it belongs to sees it as well."""
        from stemma.jobs import running

        job = running.current()

        def write(progress: Progress) -> None:
            context.log.info(str(progress))
            if job is not None:
                job.progress(progress)

        return _seldom(write)


def now_and_then(write: Callable[[str], object]) -> ReportProgress:
    """A callback that writes a line every few seconds, and one at the end."""
    return _seldom(lambda progress: write(str(progress)))


def _seldom(write: Callable[[Progress], object]) -> ReportProgress:
    last = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES or progress.done == progress.total:
            last = now
            write(progress)

    return report
