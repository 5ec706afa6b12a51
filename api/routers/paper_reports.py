"""What became of papers over HTTP: the report of one, the leaderboard of all, and a paper told to children."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.bodies import RequestBody
from api.deps import DatabaseDep, LedgerDep, SettingsDep
from api.idempotency import OnceDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from api.routers.llm import RouterDep, caller_of
from stemma.access.principal import Principal
from stemma.llm.router import Router
from stemma.papers.kid import keeping
from stemma.papers.kid.asking import Telling, ask_for_story
from stemma.papers.kid.keeping import KeptStoryboard
from stemma.papers.kid.storyboard import Page, Score, Term
from stemma.papers.model import PaperKind
from stemma.papers.reports import leaderboard, publishing
from stemma.papers.reports.leaderboard import Standing
from stemma.papers.reports.model import Attempt, Citation, Finding, Report
from stemma.papers.reports.verdicts import Verdict
from stemma.store import signed_urls
from stemma.store.database import Database
from stemma.store.settings import Settings

router = APIRouter(prefix=API, tags=["papers"], route_class=limited("papers"))

ReaderDep = Annotated[Principal, allow("papers:read")]
WriterDep = Annotated[Principal, allow("papers:write")]
PaperPath = Annotated[UUID, Path(description="The paper's id")]

_EXPLAIN: Final = f"{API}/explain/kid"
LINK_LASTS: Final = timedelta(hours=1)


class LinkBody(BaseModel):
    """A file that the run left; whoever has the URL can read it until then."""

    name: str = Field(examples=["metrics.json"])
    size: int = Field(description="Bytes")
    truncated: bool = Field(description="Its tail was dropped (E_ARTIFACT_TOO_LARGE)")
    url: str
    expires_at: datetime


class ReportBody(BaseModel):
    """A paper's newest report; what it says as a whole is said of the plan's first target."""

    paper_id: UUID
    title: str
    kind: PaperKind = Field(description="A claim sheet restates a paper's numbers and is not the paper")
    plan_id: UUID
    plan_version: int
    run_id: UUID
    completed_at: datetime | None = Field(description="When the run ended")
    created_at: datetime
    sha256: str = Field(description="Of the report's RFC 8785 bytes, hexadecimal")
    sandbox: str | None = Field(description="The level of the sandbox that was in force")
    env_hash: str | None
    output_sha256: str | None = Field(description="Of what both executions gave, hexadecimal")
    deterministic: bool | None = Field(description="Whether two executions gave the same")
    claimed: float = Field(examples=[98.9])
    observed: float | None = Field(examples=[98.8764])
    gap_percent: float | None = Field(description="(observed - claimed) / max(|claimed|, 1e-9) * 100")
    verdict: Verdict
    reason: str
    citations: list[Citation]
    targets: list[Finding]
    alternatives: list[Attempt] = Field(description="Those that the plan names for a target with a gap")
    artifacts: list[LinkBody]


class LeaderboardBody(BaseModel):
    """Every paper with a report, those first of which the larger share is reproduced."""

    data: list[Standing]


class WantedStoryBody(RequestBody):
    """Which paper is to be told to children."""

    paper_id: UUID


class StoryboardBody(BaseModel):
    """A paper told to children. `score` and `run_id` are null until a run has ended."""

    paper_id: UUID
    run_id: UUID | None
    told_by: str = Field(description="`templates`, or the model that wrote all pages but the last")
    grade: float = Field(description="Flesch–Kincaid, US school grades, over all that it says", examples=[1.4])
    pages: list[Page]
    glossary: list[Term]
    score: Score | None
    updated_at: datetime


@router.get(
    "/papers/leaderboard", response_model=LeaderboardBody, responses=problems(429, 503), summary="Read the leaderboard"
)
def read_leaderboard(_: ReaderDep, database: DatabaseDep) -> Any:
    """Which papers' claims are reproduced, by the newest report of each."""
    return LeaderboardBody(data=list(database.read(leaderboard.read_leaderboard)))


@router.get(
    "/papers/{paper_id}/report",
    response_model=ReportBody,
    responses=problems(404, 429, 503),
    summary="Read a paper's report",
)
def read_report(_: ReaderDep, database: DatabaseDep, settings: SettingsDep, paper_id: PaperPath) -> Any:
    """What was claimed and observed, with citations, and the files of the run by URLs that hold for an hour."""
    kept = database.read(lambda connection: publishing.report_of(connection, paper_id))
    report = kept.report
    same = set(ReportBody.model_fields) & set(Report.model_fields) - {"artifacts"}
    return ReportBody(
        **{name: getattr(report, name) for name in same},
        created_at=kept.created_at,
        sha256=kept.sha256,
        citations=list(report.citations),
        targets=list(report.findings),
        alternatives=list(report.attempts),
        artifacts=_links(settings, report),
    )


@router.get(
    "/papers/{paper_id}/storyboard",
    response_model=StoryboardBody,
    responses=problems(404, 429, 503),
    summary="Read a paper as it is told to children",
)
def read_storyboard(_: ReaderDep, database: DatabaseDep, paper_id: PaperPath) -> Any:
    """The storyboard that was made last; its last page follows the paper's newest report."""
    return _story(database.read(lambda connection: keeping.get_storyboard(connection, paper_id)))


@router.post(
    "/explain/kid",
    response_model=StoryboardBody,
    status_code=201,
    responses=problems(404, 409, 429, 503),
    summary="Tell a paper to children",
)
async def explain(
    request: Request,
    principal: WriterDep,
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    models: RouterDep,
    wanted: WantedStoryBody,
) -> Response:
    """A storyboard of five to seven pages with a glossary, for the third grade, in place of the one before.

    By a model where there is one that the caller may ask and what it writes holds, else by templates.
    """
    telling = await telling_of(request, principal, database, models, wanted.paper_id)
    change = await run_in_threadpool(
        database.read, lambda connection: keeping.explain(connection, principal, wanted.paper_id, telling)
    )
    return await once.commit(ledger, change, status=201, body=_story)


async def telling_of(
    request: Request, principal: Principal, database: Database, models: Router, paper_id: UUID
) -> Telling:
    """What a model tells of a paper, where the caller may ask one; raises NotFound, Forbidden."""
    told = await run_in_threadpool(database.read, lambda c: keeping.claims_to_tell(c, principal, paper_id))
    if not principal.may("llm:run"):
        return Telling(None)
    return await ask_for_story(told, models.complete, caller_of(request, principal, _EXPLAIN, "explain"))


def _links(settings: Settings, report: Report) -> list[LinkBody]:
    links = []
    for file in report.artifacts:
        signed = signed_urls.sign(settings, file.key, LINK_LASTS)
        url = settings.api_url + signed.url
        links.append(
            LinkBody(name=file.name, size=file.size, truncated=file.truncated, url=url, expires_at=signed.expires_at)
        )
    return links


def _story(kept: KeptStoryboard) -> StoryboardBody:
    told = kept.storyboard
    return StoryboardBody(
        paper_id=kept.paper_id,
        run_id=kept.run_id,
        told_by=told.told_by,
        grade=kept.grade,
        pages=list(told.pages),
        glossary=list(told.glossary),
        score=told.score,
        updated_at=kept.updated_at,
    )
