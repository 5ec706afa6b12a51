"""Jobs: asking for work, looking at it, following it, and cancelling it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Path, Query, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.bodies import RequestBody
from api.deps import DatabaseDep, LedgerDep, PageDep, SettingsDep
from api.idempotency import OnceDep
from api.launches import LaunchesDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from api.streams import Batch, LastEventIdDep, StreamsDep, Topic, hold_place, no_event_id
from stemma.access.authentication import require_in_force
from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.jobs import catalog, kinds, launching, lifecycle, named, submission
from stemma.jobs.model import CHANNEL, FINAL, Job, JobEvent, JobState
from stemma.store.cursors import Page
from stemma.store.database import Connection
from stemma.store.settings import Settings

router = APIRouter(prefix=API, tags=["jobs"], route_class=limited("jobs"))
# Counted apart: a stream holds its place for as long as somebody looks.
_FOLLOW = allow("jobs:read", counted="streams")
streams = APIRouter(prefix=API, tags=["jobs"], dependencies=[_FOLLOW, Depends(hold_place)])
aliases = APIRouter(tags=["jobs"], route_class=limited("jobs"), include_in_schema=False)

_EVENTS: Final = 200

IdPath = Annotated[UUID, Path(alias="id", examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"])]


class JobRequestBody(RequestBody):
    """What is asked for."""

    kind: str = Field(max_length=63, description="One of GET /api/v1/job-kinds", examples=["noop"])
    input: dict[str, Any] = Field(default={}, description="What the kind takes", examples=[{"message": "hello"}])
    priority: int = Field(
        default=0, ge=-submission.MOST_URGENT, le=submission.MOST_URGENT, description="The higher, the sooner"
    )
    scheduled_at: AwareDatetime | None = Field(default=None, description="Not before this time, with its offset")


class RunBody(RequestBody):
    """What a job that is started by name takes."""

    input: dict[str, Any] = Field(default={}, description="What the kind takes; a schedule takes nothing")


class ErrorBody(BaseModel):
    """Why a job failed."""

    code: str = Field(examples=["source_unreadable"])
    message: str = Field(description="Redacted")


class WorkerBody(BaseModel):
    """Whether jobs are run here."""

    worker: str = Field(description="`on`, or `off` where jobs stay queued", examples=["on"])
    hint: str | None = Field(description="What to do where it is off")


class JobBody(BaseModel):
    """A job as it stands."""

    id: UUID
    kind: str = Field(examples=["noop"])
    input: dict[str, Any]
    priority: int
    state: JobState
    actor: str = Field(description="Who asked for it", examples=["key:5b0f8c1e-8d8c-4d1c-9a5b-0f2a6f2a7c11"])
    role: Role = Field(description="In which role")
    submitted_at: datetime
    scheduled_at: datetime | None
    due_at: datetime = Field(description="Before this, the next attempt does not start")
    attempt: int = Field(description="How often it was started")
    max_attempts: int
    run_id: str | None = Field(description="The Dagster run of the newest attempt")
    cancel_requested_at: datetime | None
    started_at: datetime | None = Field(description="Of the newest attempt")
    finished_at: datetime | None
    queued_ms: int | None = Field(description="How long the newest attempt was due before it started")
    run_ms: int | None = Field(description="How long the newest attempt took")
    error: ErrorBody | None


class JobAnswer(JobBody, WorkerBody):
    """A job, and whether jobs are run here."""


class JobsBody(WorkerBody):
    """One page of jobs, the newest first."""

    data: list[JobBody]
    next_cursor: str | None


class StartedBody(WorkerBody):
    """The jobs that a name stands for."""

    data: list[JobBody]


class EventBody(BaseModel):
    """One event of a job. `seq` numbers them without gaps, from 1."""

    model_config = ConfigDict(from_attributes=True)

    seq: int
    kind: str
    at: datetime
    data: dict[str, Any]


class KindBody(BaseModel):
    """A kind of job."""

    name: str = Field(examples=["noop"])
    description: str
    input_schema: dict[str, Any] = Field(description="JSON Schema of the input")
    materializes: bool = Field(description="Whether it materializes assets")
    permission: str | None = Field(description="What it takes beside `jobs:write`")
    max_attempts: int
    max_runtime_seconds: int
    executed_in: str = Field(
        description="`dagster`, or `api` for what begins by a request of its own", examples=["dagster"]
    )


class KindsBody(BaseModel):
    """Every kind of job."""

    data: list[KindBody]


@router.get("/job-kinds", response_model=KindsBody, summary="List the kinds of jobs")
def list_kinds(principal: Annotated[Principal, allow("jobs:read")]) -> KindsBody:
    """What can be asked for, and what each kind takes."""
    return KindsBody(data=[_kind(kind) for kind in kinds.KINDS.values()])


@router.post(
    "/jobs",
    status_code=201,
    response_model=JobAnswer,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Submit a job",
)
async def submit(
    principal: Annotated[Principal, allow("jobs:write")],
    once: OnceDep,
    settings: SettingsDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    launches: LaunchesDep,
    wanted: JobRequestBody,
) -> Response:
    """Queues it and answers; its run is asked for afterwards. A kind may take a permission of its own."""
    request = submission.JobRequest(wanted.kind, wanted.input, wanted.priority, wanted.scheduled_at)
    change = await run_in_threadpool(database.read, lambda c: submission.submit(c, principal, request))
    response = await once.commit(ledger, change, status=201, body=lambda job: _answer(settings, job))
    launches.launch(change.result(()))
    return response


@router.get("/jobs", response_model=JobsBody, responses=problems(401, 403, 429, 503), summary="List jobs")
def list_jobs(
    principal: Annotated[Principal, allow("jobs:read")],
    settings: SettingsDep,
    database: DatabaseDep,
    page: PageDep,
    kind: Annotated[str | None, Query(max_length=63, description="Only this kind")] = None,
    state: Annotated[JobState | None, Query(description="Only those in this state")] = None,
    actor: Annotated[str | None, Query(max_length=500, description="Only what this actor asked for")] = None,
) -> JobsBody:
    """The newest first."""
    found: Page[Job] = database.read(
        lambda connection: catalog.list_jobs(
            connection, kind=kind, state=state, actor=actor, cursor=page.cursor, limit=page.limit
        )
    )
    return JobsBody(data=[_body(job) for job in found.data], next_cursor=found.next_cursor, **_worker(settings))


@router.get(
    "/jobs/{id}", response_model=JobAnswer, responses=problems(401, 403, 404, 429, 503), summary="Look at a job"
)
def show_job(
    principal: Annotated[Principal, allow("jobs:read")], settings: SettingsDep, database: DatabaseDep, job_id: IdPath
) -> JobAnswer:
    """Where it stands, how long it waited and took, and why it failed where it did."""
    return _answer(settings, database.read(lambda connection: catalog.get_job(connection, job_id)))


@router.post(
    "/jobs/{id}/cancel",
    response_model=JobAnswer,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Cancel a job",
)
async def cancel(
    principal: Annotated[Principal, allow("jobs:write")],
    once: OnceDep,
    settings: SettingsDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    launches: LaunchesDep,
    job_id: IdPath,
) -> Response:
    """A queued job is cancelled at once; a running one is asked to stop, and is cancelled when its run has ended.

    409 `job_finished` for what is done or failed, `job_cancelled` for what was cancelled before.
    """
    change = await run_in_threadpool(database.read, lambda c: lifecycle.cancel(c, principal, job_id))
    response = await once.commit(ledger, change, status=200, body=lambda job: _answer(settings, job))
    launches.terminate(change.result(()))
    return response


def first_position(database: DatabaseDep, job_id: IdPath, last_event_id: LastEventIdDep) -> int:
    """Where a request's stream begins; raises NotFound, InvalidInput for an event that the job does not have."""
    position = last_event_id or 0

    def look(connection: Connection) -> bool:
        catalog.get_job(connection, job_id)
        return position == 0 or bool(catalog.list_events(connection, job_id, position - 1, limit=1))

    if not database.read(look):
        raise no_event_id()
    return position


@streams.get(
    "/jobs/{id}/events",
    response_class=EventSourceResponse,
    responses=problems(404, 429, 503),
    summary="Follow a job",
)
async def stream_events(
    reader: Annotated[Principal, _FOLLOW],
    database: DatabaseDep,
    streams: StreamsDep,
    job_id: IdPath,
    start: Annotated[int, Depends(first_position)],
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events from the job's first on, or after `Last-Event-ID`; `id` is the event's seq.

    Ends after `done`, `error` or `cancelled`. The server may end it before, and does when the key is revoked or
    expires; an EventSource resumes by itself.
    """

    def read(position: int) -> Batch:
        with database.snapshot() as connection:
            require_in_force(connection, reader)
            found = catalog.list_events(connection, job_id, position, limit=_EVENTS)
            # A client that resumes after the last event is told nothing more.
            ended = found[-1].is_last if found else catalog.get_job(connection, job_id).state in FINAL
        last = found[-1].seq if found else position
        return Batch([_event(event) for event in found], last, len(found) == _EVENTS, ended)

    async for event in streams.follow(Topic(CHANNEL, str(job_id)), start, read):
        yield event


@aliases.post("/jobs/{name}/run", status_code=201, response_model=StartedBody)
@router.post(
    "/jobs/{name}/run",
    status_code=201,
    response_model=StartedBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Start jobs by name, from an outside scheduler",
)
async def run_by_name(
    principal: Annotated[Principal, allow("jobs:write", scheduler=True)],
    once: OnceDep,
    settings: SettingsDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    launches: LaunchesDep,
    name: Annotated[str, Path(max_length=63, examples=["reread_sources"])],
    given: Annotated[RunBody | None, Body()] = None,
) -> Response:
    """For cron, n8n and the like: takes `x-internal-token` instead of a key. The name is a kind or a schedule."""
    wanted = given.input if given else {}
    change = await run_in_threadpool(database.read, lambda c: named.run(c, principal, name, wanted))

    def body(jobs: tuple[Job, ...]) -> StartedBody:
        return StartedBody(data=[_body(job) for job in jobs], **_worker(settings))

    response = await once.commit(ledger, change, status=201, body=body)
    launches.launch(*change.result(()))
    return response


def _worker(settings: Settings) -> dict[str, Any]:
    on = launching.is_on(settings)
    return {"worker": "on" if on else "off", "hint": None if on else launching.OFF_HINT}


def _body(job: Job) -> JobBody:
    return JobBody(**_fields(job))


def _answer(settings: Settings, job: Job) -> JobAnswer:
    return JobAnswer(**_fields(job), **_worker(settings))


def _fields(job: Job) -> dict[str, Any]:
    known = {name: getattr(job, name) for name in JobBody.model_fields if name != "error"}
    failed = job.error_code is not None
    return {**known, "error": {"code": job.error_code, "message": job.error_message} if failed else None}


def _kind(kind: kinds.Kind) -> KindBody:
    return KindBody(
        name=kind.name,
        description=kind.description,
        input_schema=kind.input.model_json_schema(),
        materializes=kind.materializes,
        permission=kind.permission,
        max_attempts=kind.max_attempts,
        max_runtime_seconds=int(kind.max_runtime.total_seconds()),
        executed_in=kind.executed_in,
    )


def _event(event: JobEvent) -> ServerSentEvent:
    return ServerSentEvent(id=str(event.seq), raw_data=EventBody.model_validate(event).model_dump_json())
