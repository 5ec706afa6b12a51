"""Asking Dagster for runs after the answer went out: nobody waits for it, and nothing is lost when it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Self, cast

import anyio
import anyio.to_thread
import structlog
from anyio import CapacityLimiter
from anyio.abc import TaskGroup
from fastapi import Depends, Request

from stemma.errors import Unavailable
from stemma.jobs import launching
from stemma.jobs.model import Job
from stemma.store.settings import Settings

_AT_ONCE: Final = 4
_log = structlog.get_logger("api.launches")


class Launches:
    """The process's requests to Dagster, a few at a time. What is not asked any more when it ends, the sensor does."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def __aenter__(self) -> Self:
        self._limiter = CapacityLimiter(_AT_ONCE)
        self._tasks: TaskGroup = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(*error)

    def launch(self, *jobs: Job) -> None:
        """Have runs launched for jobs that were committed and are due."""
        if launching.is_on(self._settings):
            for job in jobs:
                if job.scheduled_at is None:
                    self._tasks.start_soon(self._ask, launching.launch, job)

    def terminate(self, job: Job) -> None:
        """Have the run of a job that is to be cancelled terminated."""
        if job.run_id is not None and launching.is_run(job):
            self._tasks.start_soon(self._ask, launching.terminate, job.run_id)

    async def _ask(self, ask: Callable[..., Any], about: Job | str) -> None:
        try:
            await anyio.to_thread.run_sync(ask, self._settings, about, limiter=self._limiter, abandon_on_cancel=True)
        except Unavailable as error:
            _log.warning("left to the sensor", error=str(error))
        except Exception:
            # One answer that nobody foresaw must not end the others.
            _log.exception("left to the sensor")


def get_launches(request: Request) -> Launches:
    """The process's requests to Dagster."""
    return cast(Launches, request.app.state.launches)


LaunchesDep = Annotated[Launches, Depends(get_launches)]
