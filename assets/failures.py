"""How domain errors end a step: what a retry cannot mend fails at once, the rest is tried again.

Only this translation lives here; no asset catches errors itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import dagster as dg
import psycopg

from stemma.errors import StemmaError, Unavailable

RETRY = dg.RetryPolicy(max_retries=3, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


class PermanentFailure(dg.Failure):
    """A failure that another try cannot mend; it stops the step's retries."""

    def __init__(self, error: Exception) -> None:
        if isinstance(error, StemmaError):
            metadata = {"code": error.code, "field": error.field or "", "hint": error.hint or ""}
            super().__init__(str(error), metadata=metadata, allow_retries=False)
        else:
            super().__init__(f"{type(error).__name__}: {error}", allow_retries=False)


@contextlib.contextmanager
def permanent_failures() -> Iterator[None]:
    """Let what may pass by itself (a database that restarts) be tried again; everything else fails at once."""
    try:
        yield
    except (Unavailable, psycopg.OperationalError):
        raise
    except Exception as error:
        raise PermanentFailure(error) from error
