"""What outside schedulers start by name: a kind of job, or one of the studio's own schedules, now instead of then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from stemma.access.principal import Principal
from stemma.errors import Conflict, InvalidInput, NotFound
from stemma.jobs import kinds
from stemma.jobs.model import Job
from stemma.jobs.submission import JobRequest, submit
from stemma.knowledge.sources import list_sources
from stemma.ledger.change import Change
from stemma.store.database import Connection


def _every_source(connection: Connection) -> list[JobRequest]:
    return [JobRequest("convert", {"source": source.name}) for source in list_sources(connection)]


SCHEDULES: Final[dict[str, Callable[[Connection], list[JobRequest]]]] = {
    "reread_sources": _every_source,
    "aggregate_day": lambda _: [JobRequest("governance:aggregate", {})],
    "distil_day": lambda _: [JobRequest("governance:distil", {})],
    "distil_memory": lambda _: [JobRequest("agents:distil", {})],
}
"""The schedules that can be started by name, as the jobs that each of them comes to."""


def run(connection: Connection, principal: Principal, name: str, given: Mapping[str, Any]) -> Change[tuple[Job, ...]]:
    """Queue what the name stands for, all of it or nothing.

    Raises NotFound for an unknown name, InvalidInput for input to a schedule, Conflict where a schedule has nothing to
    do, and what `submit` raises.
    """
    if name not in SCHEDULES and name not in kinds.KINDS:
        hint = f"There are {', '.join(sorted({*SCHEDULES, *kinds.KINDS}))}."
        raise NotFound("job_name_unknown", f"Nothing here is called {name!r}.", field="name", hint=hint)
    if name in kinds.KINDS:
        wanted = [JobRequest(name, given)]
    elif given:
        raise InvalidInput("job_input_invalid", f"{name} takes no input.", field="input")
    else:
        wanted = SCHEDULES[name](connection)
    if not wanted:
        raise Conflict("nothing_to_do", f"{name} has nothing to do.", field="name")
    return _together([submit(connection, principal, request) for request in wanted])


def _together(changes: list[Change[Job]]) -> Change[tuple[Job, ...]]:
    first, *others = changes
    joined = first
    for other in others:
        joined = joined.joined(other)
    jobs = tuple(change.result(()) for change in changes)
    return Change(joined.entries, joined.companions, lambda _: jobs)
