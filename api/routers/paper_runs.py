"""Runs of papers' plans over HTTP: asking for one, following it, cancelling it, and what it left.

A run of Dagster is something else (`api.routers.runs`).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Path, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.bodies import RequestBody
from api.deps import DatabaseDep, LedgerDep, PageDep, SettingsDep
from api.idempotency import OnceDep
from api.launches import LaunchesDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from api.streams import HEADERS, MEDIA_TYPE, Batch, LastEventIdDep, StreamsDep, Topic, hold_place, no_event_id
from stemma.access.authentication import require_in_force
from stemma.access.principal import Principal
from stemma.papers.catalog import get_paper
from stemma.papers.runs import artifacts, catalog, lifecycle
from stemma.papers.runs.model import CHANNEL, Run, RunEvent, RunStatus
from stemma.store import signed_urls
from stemma.store.cursors import Page
from stemma.store.database import Connection
from stemma.store.files import FileStore
from stemma.store.settings import Settings

router = APIRouter(prefix=API, tags=["papers"], route_class=limited("paper_runs"))
_FOLLOW = allow("papers:read", counted="streams")
streams = APIRouter(prefix=API, tags=["papers"], dependencies=[_FOLLOW, Depends(hold_place)])

_EVENTS: Final = 500
_READABLE_FOR: Final = timedelta(hours=1)

ReaderDep = Annotated[Principal, allow("papers:read")]
RunnerDep = Annotated[Principal, allow("papers:run")]
PaperPath = Annotated[UUID, Path(examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"])]
PlanPath = Annotated[UUID, Path(examples=["5b0f8c1e-8d8c-4d1c-9a5b-0f2a6f2a7c11"])]
RunPath = Annotated[UUID, Path(examples=["3b8f1d52-7a0e-4c58-9d0c-1f2b8a5de001"])]


class WantedRunBody(RequestBody):
    """Which run of a plan is wanted."""

    alternative: str | None = Field(
        default=None, max_length=100, description="One of the plan's alternatives; by default what it says first"
    )


class SeedBody(BaseModel):
    """What was measured with one seed."""

    seed: int
    value: float


class MeasuredBody(BaseModel):
    """The last value of a metric on a split: that of the first seed, and of each."""

    metric: str = Field(examples=["accuracy"])
    split: str = Field(examples=["leave-one-out"])
    value: float
    seeds: list[SeedBody]


class PaperRunBody(BaseModel):
    """A run of a plan."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    plan_id: UUID
    paper_id: UUID
    alternative: str | None = Field(description="The plan's alternative that is run; null: what it says first")
    status: RunStatus
    sandbox: str | None = Field(description="The level of the sandbox in force", examples=["landlock+seccomp"])
    env_hash: str | None = Field(description="SHA-256 of the environment's lock")
    job_id: UUID | None
    dagster_run_id: str | None
    output_sha256: str | None = Field(description="Of the canonical output")
    deterministic: bool | None = Field(description="Whether a second execution put out the same")
    metrics: list[MeasuredBody] | None
    error_code: str | None = Field(examples=["E_RUN_TIMEOUT"])
    error_message: str | None
    actor: str
    cancel_requested_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


class ArtifactBody(BaseModel):
    """A file that a run left, and a URL that reads it for an hour."""

    name: str = Field(examples=["logs.txt"])
    size: int = Field(description="Bytes")
    truncated: bool = Field(description="Whether its tail was dropped (E_ARTIFACT_TOO_LARGE)")
    url: str


class PaperRunAnswer(PaperRunBody):
    """A run of a plan with what it left."""

    artifacts: list[ArtifactBody]


class PaperRunsBody(BaseModel):
    """One page of a paper's runs, the newest first."""

    data: list[PaperRunBody]
    next_cursor: str | None


class StartedRunBody(BaseModel):
    """The run that was asked for, and the job that carries it out."""

    run_id: UUID
    job_id: UUID
    status: RunStatus


@router.post(
    "/plans/{plan_id}/run",
    status_code=202,
    response_model=StartedRunBody,
    responses=problems(400, 401, 403, 404, 409, 429, 503),
    summary="Run a plan",
)
async def run_plan(
    principal: RunnerDep,
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    launches: LaunchesDep,
    plan_id: PlanPath,
    wanted: Annotated[WantedRunBody | None, Body()] = None,
) -> Response:
    """Queues a run and answers. Two run at once; the others wait. It takes `jobs:write` too."""
    alternative = wanted.alternative if wanted else None
    change = await run_in_threadpool(
        database.read, lambda c: lifecycle.request(c, principal, plan_id, alternative=alternative)
    )
    response = await once.commit(ledger, change, status=202, body=lambda asked: _started(asked[0]))
    launches.launch(change.result(())[1])
    return response


@router.get(
    "/papers/{paper_id}/runs",
    response_model=PaperRunsBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="List a paper's runs",
)
def list_runs(principal: ReaderDep, database: DatabaseDep, page: PageDep, paper_id: PaperPath) -> Page[Run]:
    """The newest first."""

    def read(connection: Connection) -> Page[Run]:
        get_paper(connection, paper_id)
        return catalog.list_runs(connection, paper_id, cursor=page.cursor, limit=page.limit)

    return database.read(read)


@router.get(
    "/papers/{paper_id}/runs/{run_id}",
    response_model=PaperRunAnswer,
    responses=problems(401, 403, 404, 429, 503),
    summary="Look at a run",
)
def show_run(
    principal: ReaderDep, settings: SettingsDep, database: DatabaseDep, paper_id: PaperPath, run_id: RunPath
) -> PaperRunAnswer:
    """How it stands, what it measured, and the files that it left."""
    run = database.read(lambda connection: catalog.get_run_of(connection, paper_id, run_id))
    return PaperRunAnswer(**PaperRunBody.model_validate(run).model_dump(), artifacts=_artifacts(settings, run_id))


@router.post(
    "/runs/{run_id}/cancel",
    status_code=202,
    response_model=PaperRunBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Cancel a run of a plan",
)
async def cancel(
    principal: RunnerDep,
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    run_id: RunPath,
) -> Response:
    """One that waits is cancelled at once. Else its cell is interrupted, and what it made until then is kept.

    409 `paper_run_finished` for what has ended, `paper_run_cancelled` for what was cancelled before.
    """
    change = await run_in_threadpool(database.read, lambda c: lifecycle.cancel(c, principal, run_id))
    return await once.commit(ledger, change, status=202, body=PaperRunBody.model_validate)


def first_position(database: DatabaseDep, run_id: RunPath, last_event_id: LastEventIdDep) -> int:
    """Where a request's stream begins; raises NotFound, InvalidInput for an event that the run does not have."""
    position = last_event_id or 0

    def look(connection: Connection) -> bool:
        catalog.get_run(connection, run_id)
        return position == 0 or bool(catalog.list_events(connection, run_id, position - 1, limit=1))

    if not database.read(look):
        raise no_event_id()
    return position


@streams.get(
    "/runs/{run_id}/events",
    response_class=Response,
    responses={200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}, **problems(404, 429, 503)},
    summary="Follow a run of a plan",
)
async def stream_events(
    reader: Annotated[Principal, _FOLLOW],
    database: DatabaseDep,
    streams: StreamsDep,
    run_id: RunPath,
    start: Annotated[int, Depends(first_position)],
) -> StreamingResponse:
    """Server-sent events from the run's first on, or after `Last-Event-ID`; `id` is the event's seq.

    `stage_update`, `progress`, `metric_update` and `sample_pred` bear an object, `log_line` and `token` text. Ends
    after the stage `run_complete`, `run_error` or `run_cancelled`.
    """

    def read(position: int) -> Batch:
        with database.snapshot() as connection:
            require_in_force(connection, reader)
            found = catalog.list_events(connection, run_id, position, limit=_EVENTS)
            ended = found[-1].is_last if found else catalog.get_run(connection, run_id).status.is_final
        last = found[-1].seq if found else position
        return Batch([_event(event) for event in found], last, len(found) == _EVENTS, ended)

    events = streams.follow_many(Topic(CHANNEL, str(run_id)), start, read)
    return StreamingResponse(events, media_type=MEDIA_TYPE, headers=HEADERS)


def _event(event: RunEvent) -> ServerSentEvent:
    return ServerSentEvent(event=event.type, id=str(event.seq), data=event.payload)


def _started(run: Run) -> StartedRunBody:
    assert run.job_id is not None
    return StartedRunBody(run_id=run.id, job_id=run.job_id, status=run.status)


def _artifacts(settings: Settings, run_id: UUID) -> list[ArtifactBody]:
    found = artifacts.list_artifacts(FileStore.open_default(settings), run_id)
    return [
        ArtifactBody(
            name=artifact.name,
            size=artifact.size,
            truncated=artifact.truncated,
            url=signed_urls.sign(settings, artifact.key, _READABLE_FOR, name=artifact.name).url,
        )
        for artifact in found
    ]
