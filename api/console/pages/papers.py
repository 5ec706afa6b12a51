"""Papers: the leaderboard, one paper from its claims to its verdict, and the paper as it is told to children."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.console import paper_charts
from api.console.forms import FormOnceDep, kept, new_token, redirect
from api.console.rendering import render
from api.deps import DatabaseDep, LedgerDep, PageDep, SettingsDep
from api.limits import limited
from api.routers.paper_reports import LINK_LASTS
from stemma.access.principal import Principal
from stemma.ledger import receipt_catalog
from stemma.papers import catalog
from stemma.papers import pages as sheets
from stemma.papers.kid import keeping
from stemma.papers.kid.keeping import KeptStoryboard
from stemma.papers.kid.readability import GRADE
from stemma.papers.plan import parse_plan
from stemma.papers.reports.catalog import find_report
from stemma.papers.reports.leaderboard import read_leaderboard
from stemma.papers.reports.model import Report
from stemma.papers.reports.verdicts import Verdict
from stemma.papers.runs import catalog as runs
from stemma.store import signed_urls
from stemma.store.database import Connection
from stemma.store.files import FileStore
from stemma.store.settings import Settings

PATH: Final = "/papers"

router = APIRouter(prefix=PATH, route_class=limited("console"), include_in_schema=False)

ReaderDep = Annotated[Principal, allow("papers:read")]
WriterDep = Annotated[Principal, allow("papers:write")]
PaperPath = Annotated[UUID, Path(alias="id")]

_RUNS: Final = 10
_REPORT: Final = "papers/gap_report"


@router.get("")
def show(request: Request, principal: ReaderDep, database: DatabaseDep, page: PageDep) -> Response:
    """How the papers with a report stand, and all papers."""
    with database.snapshot() as connection:
        standings = read_leaderboard(connection)
        found = catalog.list_papers(connection, cursor=page.cursor, limit=page.limit)
    return render(
        request,
        "pages/papers.html",
        standings=standings,
        verdicts=Counter(one.verdict for one in standings),
        found=found,
        by_paper={one.paper_id: one for one in standings},
        shares=paper_charts.shares,
        Verdict=Verdict,
        may_write=principal.may("papers:write"),
    )


@router.get("/{id}")
def show_paper(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    settings: SettingsDep,
    paper_id: PaperPath,
    at: Annotated[UUID | None, Query(alias="claim")] = None,
) -> Response:
    """One paper: what it claims and where, the plan, the runs, and what came of them."""
    with database.snapshot() as connection:
        paper = catalog.get_paper(connection, paper_id)
        claims = catalog.list_claims(connection, paper_id)
        plan = catalog.latest_plan(connection, paper_id)
        history = runs.list_runs(connection, paper_id, limit=_RUNS).data
        report = find_report(connection, paper_id)
        receipt = _receipt(connection, paper_id) if principal.may("ledger:read") else None
        told = keeping.find_storyboard(connection, paper_id)
    chosen = next((claim for claim in claims if claim.id == at), claims[0] if claims else None)
    findings = report.report.findings if report else ()
    return render(
        request,
        "pages/paper.html",
        paper=paper,
        claims=claims,
        chosen=chosen,
        sheet=_sheet(settings, paper.pages_key, chosen.page) if chosen else None,
        beside=[claim for claim in claims if chosen and claim.page == chosen.page],
        plan=plan,
        planned=parse_plan(plan.document) if plan else None,
        history=history,
        kept=report,
        findings=findings,
        scale=paper_charts.widest(findings),
        scale_tried=paper_charts.widest(_tried(report.report if report else None)),
        draw=paper_charts.gap,
        links=_links(settings, report.report) if report else (),
        receipt=receipt,
        told=told,
        once=new_token(),
        may_write=principal.may("papers:write"),
        may_ask=principal.may("jobs:write"),
        may_review=principal.may("papers:review"),
        may_run=principal.may("papers:run"),
    )


@router.get("/{id}/story")
def show_story(request: Request, principal: ReaderDep, database: DatabaseDep, paper_id: PaperPath) -> Response:
    """The paper as it is told to children."""
    with database.snapshot() as connection:
        paper = catalog.get_paper(connection, paper_id)
        told = keeping.find_storyboard(connection, paper_id)
    return render(
        request,
        "pages/paper_story.html",
        paper=paper,
        told=told,
        scores=paper_charts.scores,
        easy=GRADE,
        once=new_token(),
        may_write=principal.may("papers:write"),
    )


@router.post("/{id}/story")
async def tell_story(
    principal: WriterDep, once: FormOnceDep, database: DatabaseDep, ledger: LedgerDep, paper_id: PaperPath
) -> Response:
    """Tells the paper to children, anew where that was done before."""
    change = await run_in_threadpool(database.read, lambda connection: keeping.explain(connection, principal, paper_id))

    def told(_: KeptStoryboard) -> Response:
        return redirect(f"{PATH}/{paper_id}/story", said="The paper is told.")

    return told(await once.write(ledger, change, kept=lambda result: kept(told(result))))


def _tried(report: Report | None) -> list[Any]:
    return [finding for attempt in report.attempts for finding in attempt.findings] if report else []


def _sheet(settings: Settings, pages_key: str | None, number: int) -> sheets.Page | None:
    """The page that a claim stands on, whose size the boxes are drawn in; None where it was not read yet."""
    if pages_key is None:
        return None
    read = sheets.from_json(FileStore.open_default(settings).read(pages_key))
    return next((page for page in read if page.number == number), None)


def _links(settings: Settings, report: Report) -> list[tuple[str, int, bool, str]]:
    files = report.artifacts
    return [(one.name, one.size, one.truncated, signed_urls.sign(settings, one.key, LINK_LASTS).url) for one in files]


def _receipt(connection: Connection, paper_id: UUID) -> Any:
    found = receipt_catalog.list_receipts(connection, asset=_REPORT, partition=str(paper_id), limit=1).data
    return found[0] if found else None
