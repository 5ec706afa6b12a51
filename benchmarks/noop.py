"""A code location for `run_launch`: the studio's own assets, no sensor of it, and a job that does nothing."""

from __future__ import annotations

import time

import dagster as dg

from definitions import build_defs


@dg.op
def nothing() -> None:
    """No work."""


@dg.op
def endless() -> None:
    """Work that a kill ends."""
    time.sleep(600)


@dg.job(executor_def=dg.in_process_executor)
def noop() -> None:
    """A run of one empty step."""
    nothing()


@dg.job(executor_def=dg.in_process_executor, tags={"dagster/max_retries": "0"})
def stuck() -> None:
    """A run that waits to be killed and is not tried again."""
    endless()


_studio = build_defs()
defs = dg.Definitions(
    assets=_studio.assets,
    asset_checks=_studio.asset_checks,
    resources=_studio.resources,
    jobs=[*(_studio.jobs or ()), noop, stuck],
    executor=dg.in_process_executor,
)
