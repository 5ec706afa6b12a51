"""Runs: which there were, what happened in one and what it changed, and its log as it grows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field

from api.access import allow
from api.deps import DatabaseDep, PageDep, SettingsDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from api.streams import Batch, LastEventIdDep, StreamsDep, Topic, hold_place, no_event_id
from stemma.access.authentication import require_in_force
from stemma.access.principal import Principal
from stemma.jobs.model import CHANNEL
from stemma.runs.changes import Change
from stemma.runs.dagster import read_log
from stemma.runs.model import Event, Level, Run, RunState
from stemma.runs.story import Story, list_stories, read_story

router = APIRouter(prefix=API, tags=["runs"], route_class=limited("runs"))
# Counted apart: a stream holds its place for as long as somebody looks.
_FOLLOW = allow("jobs:read", counted="streams")
streams = APIRouter(prefix=API, tags=["runs"], dependencies=[_FOLLOW, Depends(hold_place)])

_LINES: Final = 200
_FARTHEST: Final = 2**53

RunId = Annotated[str, Path(alias="id", max_length=100, examples=["5fbb0f5d-9d0e-4c38-8b3d-0d5e9c3a7c11"])]


class RunBody(BaseModel):
    """A run as Dagster keeps it."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    job_name: str = Field(description="The Dagster job", examples=["job_convert"])
    state: RunState
    actor: str = Field(description="For whom it is", examples=["sensor:inbox"])
    job_id: UUID | None = Field(description="The job that it is for")
    assets: list[str] = Field(description="What it was asked to make, up to 50")
    tags: dict[str, str]
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class ListedBody(BaseModel):
    """One run of a list."""

    id: str
    actor: str = Field(description="For whom it is", examples=["sensor:inbox"])
    made: list[str] = Field(description="What it left receipts of; empty without `ledger:read`")
    run: RunBody | None = Field(description="Null where Dagster does not answer")


class RunsBody(BaseModel):
    """One page of runs, the newest first."""

    data: list[ListedBody]
    next_cursor: str | None
    unanswered: str | None = Field(description="Why there are only the runs of the newest receipts")


class StepBody(BaseModel):
    """A step that was begun."""

    model_config = ConfigDict(from_attributes=True)

    key: str
    state: str = Field(description="`running`, `done`, `failed` or `skipped`")
    started_at: datetime | None
    ended_at: datetime | None
    attempts: int


class CheckBody(BaseModel):
    """What a check of an asset found."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    asset: str
    partition: str | None
    at: datetime
    passed: bool
    blocking: bool
    description: str | None


class ArtifactChangeBody(BaseModel):
    """An artifact before and after; null where there was none."""

    name: str
    how: str = Field(description="`added`, `removed`, `changed` or `unchanged`")
    sha256_before: str | None
    sha256_after: str | None
    size_before: int | None
    size_after: int | None


class FigureChangeBody(BaseModel):
    """A figure of the metadata before and after; null where it was not told."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    before: float | None
    after: float | None


class ChangeBody(BaseModel):
    """Something that the run materialized, as it was and as it is."""

    asset: str
    partition: str | None
    changed: bool
    receipt: UUID | None = Field(description="Null until there is one, which takes some seconds")
    previous_receipt: UUID | None
    data_version_before: str | None
    data_version_after: str | None
    artifacts: list[ArtifactChangeBody]
    figures: list[FigureChangeBody]


class StoryBody(BaseModel):
    """A run and what belongs to it."""

    id: str
    actor: str | None
    run: RunBody | None = Field(description="Null where Dagster does not answer, or has it no more")
    unanswered: str | None = Field(description="Why Dagster's part is missing")
    job_id: UUID | None
    steps: list[StepBody]
    checks: list[CheckBody]
    changes: list[ChangeBody] = Field(description="Empty without `ledger:read`")
    approvals: list[UUID] = Field(description="Those that concern the run; empty without `approvals:read`")


class LineBody(BaseModel):
    """One event of a run's log. `seq` numbers them from 1; the message is redacted."""

    model_config = ConfigDict(from_attributes=True)

    seq: int
    at: datetime
    level: Level
    kind: str = Field(description="Dagster's type of event, or `LOG` for a line of the code's", examples=["STEP_START"])
    step: str | None
    message: str


@router.get("/runs", response_model=RunsBody, responses=problems(401, 403, 429, 503), summary="List runs")
def list_all(
    principal: Annotated[Principal, allow("jobs:read")],
    settings: SettingsDep,
    database: DatabaseDep,
    page: PageDep,
    state: Annotated[RunState | None, Query(description="Only those in this state")] = None,
) -> RunsBody:
    """The newest first, whoever started them. Where Dagster does not answer, those of the newest receipts."""
    may = principal.may("ledger:read")
    found = list_stories(database, settings, state=state, receipts=may, cursor=page.cursor, limit=page.limit)
    listed = [
        ListedBody(id=one.id, actor=one.actor, made=list(one.made), run=_run(one.run) if one.run else None)
        for one in found.runs
    ]
    return RunsBody(data=listed, next_cursor=found.next_cursor, unanswered=found.unanswered)


@router.get(
    "/runs/{id}", response_model=StoryBody, responses=problems(401, 403, 404, 429, 503), summary="Look at a run"
)
def show_run(
    principal: Annotated[Principal, allow("jobs:read")], settings: SettingsDep, database: DatabaseDep, run_id: RunId
) -> StoryBody:
    """Its steps and checks, and what it changed. Where Dagster does not answer, what the ledger knows of it."""
    receipts, approvals = principal.may("ledger:read"), principal.may("approvals:read")
    return _story(read_story(database, settings, run_id, receipts=receipts, approvals=approvals))


def first_position(
    settings: SettingsDep,
    run_id: RunId,
    last_event_id: LastEventIdDep,
    after: Annotated[int, Query(ge=0, le=_FARTHEST, description="Begin after this seq")] = 0,
) -> int:
    """Where a request's stream begins; raises NotFound, InvalidInput for an event that the log does not have."""
    position = after if last_event_id is None else last_event_id
    if position > _FARTHEST:
        raise no_event_id()
    look = read_log(settings, run_id, max(position - 1, 0), limit=1)
    if position and not look.events:
        raise no_event_id()
    return position


@streams.get(
    "/runs/{id}/log", response_class=EventSourceResponse, responses=problems(404, 429, 503), summary="Follow a log"
)
async def stream_log(
    reader: Annotated[Principal, _FOLLOW],
    settings: SettingsDep,
    database: DatabaseDep,
    streams: StreamsDep,
    run_id: RunId,
    start: Annotated[int, Depends(first_position)],
    level: Annotated[Level, Query(description="The least level that is sent")] = "DEBUG",
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events from the log's first on, or after `after` or `Last-Event-ID`; `id` is the event's seq.

    Ends with an event `end`, which has the last seq, once the run has ended. The server may end it before, and does
    when the key is revoked or expires; an EventSource resumes by itself.
    """

    def read(position: int) -> Batch:
        with database.snapshot() as connection:
            require_in_force(connection, reader)
        log = read_log(settings, run_id, position, limit=_LINES)
        sent = [_line(event) for event in log.events if event.is_at_least(level)]
        ended = log.state.is_final and not log.more
        if ended:
            sent.append(ServerSentEvent(id=str(log.position), event="end", raw_data=f'"{log.state}"'))
        return Batch(sent, log.position, log.more, ended)

    # Nothing notifies of a run's events: the poll serves.
    async for event in streams.follow(Topic(CHANNEL, f"run/{run_id}"), start, read):
        yield event


def _run(run: Run) -> RunBody:
    return RunBody.model_validate(run)


def _line(event: Event) -> ServerSentEvent:
    return ServerSentEvent(id=str(event.seq), raw_data=LineBody.model_validate(event).model_dump_json())


def _story(story: Story) -> StoryBody:
    detail = story.detail
    return StoryBody(
        id=story.id,
        actor=story.actor,
        run=_run(detail.run) if detail else None,
        unanswered=story.unanswered,
        job_id=story.job.id if story.job else None,
        steps=[StepBody.model_validate(step) for step in detail.steps] if detail else [],
        checks=[CheckBody.model_validate(check) for check in detail.checks] if detail else [],
        changes=[_change(change) for change in story.changes],
        approvals=[approval.id for approval in story.approvals],
    )


def _change(change: Change) -> ChangeBody:
    receipt, previous = change.receipt, change.previous
    return ChangeBody(
        asset=change.asset,
        partition=change.partition,
        changed=change.changed,
        receipt=receipt.id if receipt else None,
        previous_receipt=previous.id if previous else None,
        data_version_before=previous.data_version if previous else None,
        data_version_after=receipt.data_version if receipt else None,
        artifacts=[
            ArtifactChangeBody(
                name=one.name,
                how=one.how,
                sha256_before=one.before.sha256 if one.before else None,
                sha256_after=one.after.sha256 if one.after else None,
                size_before=one.before.size if one.before else None,
                size_after=one.after.size if one.after else None,
            )
            for one in change.artifacts
        ],
        figures=[FigureChangeBody.model_validate(figure) for figure in change.figures],
    )
