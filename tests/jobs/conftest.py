"""Jobs submitted as somebody who may do everything, in the test's own studio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stemma.access.principal import local_principal
from stemma.jobs.model import Job
from stemma.jobs.submission import JobRequest, submit
from stemma.ledger.change import Change
from stemma.store.database import Database

Submit = Callable[..., Job]


@pytest.fixture
def queue(database: Database, commit: Callable[[Change[Any]], Any]) -> Submit:
    """Queue a job; a `noop` unless told otherwise."""

    def submitted(kind: str = "noop", **request: Any) -> Job:
        wanted = JobRequest(kind, **request)
        job: Job = commit(database.read(lambda connection: submit(connection, local_principal(), wanted)))
        return job

    return submitted
