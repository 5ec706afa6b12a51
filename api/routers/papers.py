"""Papers over HTTP: take one in, look at its pages and claims, decide on claims, and plan their reproduction.

Each step of the pipeline is a job that can be asked for alone. Runs and reports are other routers' business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Body, File, Form, Path, Response, UploadFile
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.bodies import RequestBody
from api.deps import DatabaseDep, LedgerDep, PageDep, SettingsDep
from api.idempotency import OnceDep
from api.launches import LaunchesDep
from api.limits import limited
from api.openapi import problems
from api.preconditions import SeenDep, entity_tag
from api.routers import API
from stemma.access.principal import Principal
from stemma.jobs.model import Job, JobState
from stemma.jobs.submission import JobRequest, submit
from stemma.ledger.change import Change
from stemma.papers import catalog, intake, pages, plan, planning, review, steps
from stemma.papers.model import (
    Box,
    Claim,
    ClaimOrigin,
    ClaimStatus,
    Paper,
    PaperKind,
    PaperSource,
    PaperStatus,
    Plan,
    PlanOrigin,
)
from stemma.store.cursors import Page
from stemma.store.database import Connection, Database
from stemma.store.files import FileStore
from stemma.store.settings import Settings

PATH: Final = "/papers"
PNG: Final = "image/png"

router = APIRouter(prefix=API, tags=["papers"], route_class=limited("papers"))

ReaderDep = Annotated[Principal, allow("papers:read")]
WriterDep = Annotated[Principal, allow("papers:write")]
PaperPath = Annotated[UUID, Path(examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"])]
ClaimPath = Annotated[UUID, Path(examples=["5b0f8c1e-8d8c-4d1c-9a5b-0f2a6f2a7c11"])]
PlanPath = Annotated[UUID, Path(examples=["5b0f8c1e-8d8c-4d1c-9a5b-0f2a6f2a7c11"])]
NumberPath = Annotated[int, Path(ge=1, le=100_000, description="From 1", examples=[2])]
Licence = Annotated[str | None, Field(max_length=200, description="Under which licence it may be kept")]

Step = Literal["pages", "extract", "plan", "report", "materialize"]


class PaperBody(BaseModel):
    """A paper."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    title: str = Field(examples=["Beta Regression in R"])
    kind: PaperKind = Field(description="A claim sheet restates what a paper printed, and is not the paper")
    source: PaperSource
    source_ref: str = Field(description="The file name or URL that it came from", examples=["betareg.pdf"])
    licence: str | None
    sha256: str = Field(description="Of the PDF, hexadecimal")
    bytes: int
    pages: int
    status: PaperStatus
    error_code: str | None = Field(description="Why the newest step failed, where it did")
    error_message: str | None = Field(description="Redacted")
    created_at: datetime
    created_by: str
    updated_at: datetime


class PapersBody(BaseModel):
    """One page of papers, the newest first."""

    data: list[PaperBody]
    next_cursor: str | None


class IngestedBody(PaperBody):
    """A paper that was taken in."""

    ingested: Literal["created", "unchanged"] = Field(description="`unchanged`: the same PDF was there already")


class UrlBody(RequestBody):
    """Where a paper is."""

    url: str = Field(max_length=4096, description="A public address")
    licence: Licence = None


class LineBody(BaseModel):
    """A line of a page."""

    text: str
    words: list[tuple[str, float, float, float, float]] = Field(
        description="Each word with its left, top, right and bottom in points from the top left corner"
    )


class PaperPageBody(BaseModel):
    """The text of a page with boxes."""

    number: int
    width: float = Field(description="Points")
    height: float = Field(description="Points")
    lines: list[LineBody]


class ClaimBody(BaseModel):
    """A number that a paper reports, and where."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    paper_id: UUID
    position: int
    metric: str = Field(examples=["LOO accuracy"])
    value: float = Field(examples=[98.9])
    printed: str = Field(description="As the page prints it", examples=["98.9"])
    decimals: int = Field(description="Digits after the decimal point", examples=[1])
    unit: str | None = Field(examples=["%"])
    dataset: str | None = Field(examples=["wine"])
    method: str | None = Field(examples=["LDA"])
    split: str | None = Field(examples=["leave-one-out"])
    page: int = Field(description="From 1")
    box: Box = Field(description="Left, top, right and bottom in points from the top left corner of the page")
    quote: str = Field(description="The line or sentence that it stands in")
    confidence: float
    origin: ClaimOrigin
    status: ClaimStatus
    revision: int
    updated_at: datetime
    updated_by: str
    etag: str = Field(description="What If-Match has to name to change it")


class ClaimsBody(BaseModel):
    """The claims of a paper in their order."""

    data: list[ClaimBody]


class ClaimEditBody(RequestBody):
    """What is changed of a claim; what is left out stays. An empty text takes away what may be unknown."""

    metric: str | None = Field(default=None, min_length=1, max_length=300)
    printed: str | None = Field(default=None, min_length=1, max_length=60, description="As the page prints it")
    page: int | None = Field(default=None, ge=1, le=100_000)
    unit: str | None = Field(default=None, max_length=60)
    dataset: str | None = Field(default=None, max_length=300)
    method: str | None = Field(default=None, max_length=1000)
    split: str | None = Field(default=None, max_length=100)
    status: ClaimStatus | None = None


class PlanBody(BaseModel):
    """A version of a paper's plan."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    paper_id: UUID
    version: int
    document: dict[str, Any] = Field(description="As GET /api/v1/plan-schema describes it")
    sha256: str = Field(description="Of the document's RFC 8785 bytes, hexadecimal")
    origin: PlanOrigin
    template: str | None
    created_at: datetime
    created_by: str


class PlanAnswer(PlanBody):
    """A plan, and what it lacks here."""

    missing_packages: list[str] = Field(description="What has to be installed before it can be run")


class StepBody(BaseModel):
    """A step that was asked for."""

    job_id: UUID
    kind: str = Field(examples=["paper:extract"])
    state: JobState


@router.post(
    PATH,
    status_code=201,
    response_model=IngestedBody,
    responses={
        200: {"model": IngestedBody, "description": "The same PDF was there already"},
        **problems(401, 403, 409, 415, 429, 503),
    },
    summary="Take in a paper",
)
async def upload_paper(
    principal: WriterDep,
    once: OnceDep,
    settings: SettingsDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    file: Annotated[UploadFile, File(description="The PDF, with its file name")],
    licence: Annotated[str | None, Form(max_length=200, description="Under which licence it may be kept")] = None,
) -> Response:
    """Reads and keeps the PDF; it becomes searchable by itself. What it claims is found by the steps."""
    change = await run_in_threadpool(
        _ingest,
        settings,
        database,
        principal,
        lambda: intake.receive(
            file.file, settings, source="upload", source_ref=file.filename or "paper.pdf", licence=licence
        ),
    )
    return await _ingested(once, ledger, change)


@router.post(
    f"{PATH}/fetch",
    status_code=201,
    response_model=IngestedBody,
    responses={
        200: {"model": IngestedBody, "description": "The same PDF was there already"},
        **problems(401, 403, 409, 415, 429, 503),
    },
    summary="Take in a paper from a URL",
)
async def fetch_paper(
    principal: WriterDep,
    once: OnceDep,
    settings: SettingsDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    wanted: UrlBody,
) -> Response:
    """Fetches the PDF from a public address, then does as with an upload."""
    change = await run_in_threadpool(
        _ingest,
        settings,
        database,
        principal,
        lambda: intake.receive_url(wanted.url, settings, licence=wanted.licence),
    )
    return await _ingested(once, ledger, change)


@router.get(PATH, response_model=PapersBody, responses=problems(401, 403, 429, 503), summary="List the papers")
def list_papers(principal: ReaderDep, database: DatabaseDep, page: PageDep) -> Page[Paper]:
    """The newest first."""
    return database.read(lambda connection: catalog.list_papers(connection, cursor=page.cursor, limit=page.limit))


@router.get(
    f"{PATH}/{{paper_id}}",
    response_model=PaperBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="Look at a paper",
)
def show_paper(principal: ReaderDep, database: DatabaseDep, paper_id: PaperPath) -> Paper:
    """Where it came from, and how far it got."""
    return database.read(lambda connection: catalog.get_paper(connection, paper_id))


@router.get(
    f"{PATH}/{{paper_id}}/pages/{{number}}",
    response_model=PaperPageBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="Read a page",
)
def read_page(
    principal: ReaderDep, database: DatabaseDep, settings: SettingsDep, paper_id: PaperPath, number: NumberPath
) -> PaperPageBody:
    """The words of a page with their boxes; 404 `paper_not_read` before the step `pages`."""
    paper = database.read(lambda connection: catalog.get_paper(connection, paper_id))
    read = steps.stored_pages(FileStore.open_default(settings), paper)
    found = next((page for page in read if page.number == number), None)
    if found is None:
        raise pages.page_not_found(number)
    lines = [LineBody(text=line.text, words=[(word.text, *word.box) for word in line.words]) for line in found.lines]
    return PaperPageBody(number=found.number, width=found.width, height=found.height, lines=lines)


@router.get(
    f"{PATH}/{{paper_id}}/pages/{{number}}/image",
    response_class=Response,
    responses={
        200: {"description": "The page as it looks, two pixels for a point", "content": {PNG: {"schema": {}}}},
        **problems(401, 403, 404, 429, 503),
    },
    summary="See a page",
)
def see_page(
    principal: ReaderDep, database: DatabaseDep, settings: SettingsDep, paper_id: PaperPath, number: NumberPath
) -> Response:
    """The picture that claims' boxes lie on."""
    paper = database.read(lambda connection: catalog.get_paper(connection, paper_id))
    picture = pages.picture(FileStore.open_default(settings).read(paper.file_key), number)
    return Response(picture, media_type=PNG, headers={"Cache-Control": "private, max-age=3600, immutable"})


@router.get(
    f"{PATH}/{{paper_id}}/claims",
    response_model=ClaimsBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="List what a paper claims",
)
def list_claims(principal: ReaderDep, database: DatabaseDep, paper_id: PaperPath) -> ClaimsBody:
    """The surest first, then as printed."""
    with database.snapshot() as connection:
        catalog.get_paper(connection, paper_id)
        found = catalog.list_claims(connection, paper_id)
    return ClaimsBody(data=[ClaimBody.model_validate(claim) for claim in found])


@router.get(
    "/claims/{claim_id}",
    response_model=ClaimBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="Look at a claim",
)
def show_claim(principal: ReaderDep, response: Response, database: DatabaseDep, claim_id: ClaimPath) -> Claim:
    """What it says and where; the ETag is what a change has to name."""
    claim = database.read(lambda connection: catalog.get_claim(connection, claim_id))
    response.headers["ETag"] = entity_tag(claim.etag)
    return claim


@router.patch(
    "/claims/{claim_id}",
    response_model=ClaimBody,
    responses=problems(401, 403, 404, 409, 412, 428, 429, 503),
    summary="Edit, accept or reject a claim",
)
async def edit_claim(
    principal: Annotated[Principal, allow("papers:review")],
    once: OnceDep,
    seen: SeenDep,
    settings: SettingsDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    claim_id: ClaimPath,
    edit: ClaimEditBody,
) -> Response:
    """Changes exactly what If-Match names. A value whose digits the cited page does not print is refused."""
    wanted = review.ClaimEdit(**edit.model_dump())

    def prepare(connection: Connection) -> Change[Claim]:
        claim = catalog.get_claim(connection, claim_id)
        paper = catalog.get_paper(connection, claim.paper_id)
        read = steps.stored_pages(FileStore.open_default(settings), paper)
        return review.edit_claim(connection, principal, claim_id, wanted, read, seen=seen)

    change = await run_in_threadpool(database.read, prepare)
    return await once.commit(ledger, change, status=200, body=ClaimBody.model_validate)


@router.post(
    f"{PATH}/{{paper_id}}/steps/{{step}}",
    status_code=202,
    response_model=StepBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Run a step of a paper's pipeline",
)
async def run_step(
    principal: WriterDep,
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    launches: LaunchesDep,
    paper_id: PaperPath,
    step: Annotated[Step, Path(description="One step alone, or all of them by `materialize`")],
) -> Response:
    """Queues the job and answers; a step works on what the ones before it left."""
    request = JobRequest(f"paper:{step}", {"paper": str(paper_id)})
    change = await run_in_threadpool(database.read, lambda c: submit(c, principal, request))
    response = await once.commit(ledger, change, status=202, body=_step)
    launches.launch(change.result(()))
    return response


@router.get(
    f"{PATH}/{{paper_id}}/plan",
    response_model=PlanAnswer,
    responses=problems(401, 403, 404, 429, 503),
    summary="Look at a paper's plan",
)
def show_newest_plan(principal: ReaderDep, database: DatabaseDep, paper_id: PaperPath) -> PlanAnswer:
    """The newest version, which is the one that counts."""
    with database.snapshot() as connection:
        catalog.get_paper(connection, paper_id)
        return _plan(planning.require_plan(catalog.latest_plan(connection, paper_id), paper_id))


@router.put(
    f"{PATH}/{{paper_id}}/plan",
    response_model=PlanAnswer,
    responses=problems(400, 401, 403, 404, 409, 429, 503),
    summary="Write a plan",
)
async def write_plan(
    principal: WriterDep,
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    paper_id: PaperPath,
    document: Annotated[dict[str, Any], Body(description="As GET /api/v1/plan-schema describes it")],
) -> Response:
    """Keeps it as the newest version; no template replaces it. 400 `E_GPU_REQUESTED` where it wants a GPU."""
    change = await run_in_threadpool(database.read, lambda c: planning.write_plan(c, principal, paper_id, document))
    return await once.commit(ledger, change, status=200, body=_plan)


@router.get(
    "/plans/{plan_id}",
    response_model=PlanAnswer,
    responses=problems(401, 403, 404, 429, 503),
    summary="Look at a version of a plan",
)
def show_plan(principal: ReaderDep, database: DatabaseDep, plan_id: PlanPath) -> PlanAnswer:
    """A version, whether it still counts or not."""
    return _plan(database.read(lambda connection: catalog.get_plan(connection, plan_id)))


@router.get(
    "/plan-schema",
    response_model=dict[str, Any],
    responses=problems(401, 403, 429, 503),
    summary="Read the JSON Schema of plans",
)
def show_schema(principal: ReaderDep) -> dict[str, Any]:
    """What a plan may say."""
    return plan.json_schema()


def _ingest(
    settings: Settings, database: Database, principal: Principal, receive: Callable[[], intake.Received]
) -> Change[intake.Ingested]:
    received = receive()
    key = intake.store(received, settings)
    return database.read(lambda connection: intake.record(connection, principal, received, key))


async def _ingested(once: OnceDep, ledger: LedgerDep, change: Change[intake.Ingested]) -> Response:
    status = 201 if change.result(()).status == "created" else 200
    return await once.commit(ledger, change, status=status, body=_ingested_body)


def _ingested_body(ingested: intake.Ingested) -> IngestedBody:
    return IngestedBody(**asdict(ingested.paper), ingested=ingested.status)


def _plan(found: Plan) -> PlanAnswer:
    missing = planning.missing_packages(plan.parse_plan(found.document))
    return PlanAnswer(**asdict(found), missing_packages=list(missing))


def _step(job: Job) -> StepBody:
    return StepBody(job_id=job.id, kind=job.kind, state=job.state)
