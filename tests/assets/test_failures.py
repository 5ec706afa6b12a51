"""How a step ends: what is tried again, what is not, and that the error comes back as it was."""

from __future__ import annotations

import signal
from collections.abc import Callable

import dagster as dg
import psycopg
import pytest

from assets.failures import domain_error, domain_failures
from stemma.errors import NotFound, StemmaError, Unavailable


def _run(act: Callable[[], None]) -> tuple[int, dict[str, dg.MetadataValue]]:
    """Run an asset that may be tried twice; returns how often it was, and the metadata of its failure."""
    attempts = 0

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=1))
    def thing() -> None:
        nonlocal attempts
        attempts += 1
        with domain_failures():
            act()

    result = dg.materialize([thing], raise_on_error=False)
    [failure] = [event for event in result.all_events if event.is_step_failure]
    data = failure.step_failure_data.user_failure_data
    return attempts, dict(data.metadata) if data else {}


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (NotFound("folder_missing", "The folder is gone.", field="source", hint="Restore it."), 1),
        (Unavailable("disk_full", "The disk is full."), 2),
    ],
    ids=["permanent", "passing"],
)
def test_a_domain_error_comes_back_whole(error: StemmaError, attempts: int) -> None:
    def act() -> None:
        raise error

    tried, metadata = _run(act)
    back = domain_error(metadata, step="thing")
    assert tried == attempts
    assert type(back) is type(error)
    assert (back.code, back.field, back.hint) == (error.code, error.field, error.hint)
    assert back.message == f"thing: {error.message}"


def test_a_lost_connection_is_tried_again_and_a_mistake_in_the_code_is_not() -> None:
    def lose() -> None:
        raise psycopg.OperationalError("the connection is lost")

    def stumble() -> None:
        raise ZeroDivisionError

    assert _run(lose)[0] == 2
    tried, metadata = _run(stumble)
    assert tried == 1 and domain_error(metadata, step="thing") is None


def test_an_interrupt_ends_the_step_even_where_clean_up_fails_after_it() -> None:
    def stop() -> None:
        signal.raise_signal(signal.SIGINT)

    def stop_with_a_broken_connection() -> None:
        try:
            stop()
        finally:
            raise psycopg.OperationalError("another command is already in progress")

    for act in (stop, stop_with_a_broken_connection):
        tried, metadata = _run(act)
        assert tried == 1
        assert isinstance(domain_error(metadata, step="thing"), KeyboardInterrupt)
