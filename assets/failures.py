"""How domain errors end a step, and how a failed step's error is had back: its class, code, field and hint survive.

What a retry cannot mend fails at once, the rest is tried again. Only this translation lives here; no asset catches
errors itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import dagster as dg
from dagster._utils.interrupts import raise_interrupts_as

from stemma.errors import (
    CheckFailed,
    Conflict,
    InvalidInput,
    NotFound,
    StemmaError,
    TooLarge,
    Unavailable,
    UnsupportedType,
)

RETRY = dg.RetryPolicy(max_retries=3, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)

INTERRUPTED = "Interrupted"
_KINDS = {
    kind.__name__: kind
    for kind in (StemmaError, InvalidInput, TooLarge, UnsupportedType, NotFound, Conflict, Unavailable, CheckFailed)
}


class DomainFailure(dg.Failure):
    """A domain error as the failure of a step; only one that may pass by itself lets the step be tried again."""

    def __init__(self, error: StemmaError) -> None:
        facts = {"code": error.code, "message": error.message, "field": error.field or "", "hint": error.hint or ""}
        super().__init__(
            str(error),
            metadata={"kind": type(error).__name__, **facts},
            allow_retries=isinstance(error, Unavailable),
        )


class PermanentFailure(dg.Failure):
    """An error that nobody foresaw; another try cannot mend it."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__}: {error}", allow_retries=False)


class Interrupted(dg.Failure):
    """Somebody stopped the run. Dagster would try an interrupted step again wherever it has a retry policy."""

    def __init__(self) -> None:
        super().__init__("Interrupted.", metadata={"kind": INTERRUPTED}, allow_retries=False)


@contextlib.contextmanager
def domain_failures() -> Iterator[None]:
    """Let what may pass by itself (a database that restarts) be tried again; everything else fails at once.

    An interrupt reaches the domain as KeyboardInterrupt, at which psycopg cancels its statement; at Dagster's own
    exception it does not.
    """
    try:
        with raise_interrupts_as(KeyboardInterrupt):
            yield
    except BaseException as error:
        if _was_interrupted(error):
            raise Interrupted from error
        if _may_pass(error):
            raise
        if isinstance(error, StemmaError):
            raise DomainFailure(error) from error
        raise PermanentFailure(error) from error


def _may_pass(error: BaseException) -> bool:
    import psycopg

    return isinstance(error, psycopg.OperationalError)


def _was_interrupted(error: BaseException) -> bool:
    """Whether it is an interrupt or came up while one was handled."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, (KeyboardInterrupt, dg.DagsterExecutionInterruptedError)):
        seen = seen.__context__
    return seen is not None


def domain_error(metadata: Mapping[str, dg.MetadataValue], *, step: str) -> StemmaError | KeyboardInterrupt | None:
    """The error that a failed step's metadata tell of, its message led by the step; None for another failure."""
    facts = {name: str(value.value) for name, value in metadata.items()}
    if facts.get("kind") == INTERRUPTED:
        return KeyboardInterrupt()
    kind = _KINDS.get(facts.get("kind", ""))
    if kind is None:
        return None
    return kind(facts["code"], f"{step}: {facts['message']}", field=facts["field"] or None, hint=facts["hint"] or None)
