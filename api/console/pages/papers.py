"""Papers: the leaderboard, one paper from its claims to its verdict, and the paper as it is told to children."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, File, Form, Path, Query, Request, Response, UploadFile
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.console import paper_charts
from api.console.forms import FormOnceDep, kept, new_token, redirect
from api.console.rendering import render
from api.deps import DatabaseDep, LedgerDep, PageDep, PageRequest, SettingsDep
from api.limits import limited
from api.routers.llm import RouterDep
from api.routers.paper_reports import LINK_LASTS, telling_of
from api.sessions import require_form_token
from stemma.access.principal import Principal
from stemma.errors import InvalidInput, StemmaError
from stemma.jobs import launching
from stemma.ledger import feed, receipt_catalog
from stemma.ledger.change import Change
from stemma.ledger.journal import HISTORIAN
from stemma.papers import catalog, intake, planning
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
from stemma.store.database import Connection, Database
from stemma.store.files import FileStore
from stemma.store.settings import Settings

PATH: Final = "/papers"

router = APIRouter(prefix=PATH, route_class=limited("console"), include_in_schema=False)

ReaderDep = Annotated[Principal, allow("papers:read")]
WriterDep = Annotated[Principal, allow("papers:write")]
PaperPath = Annotated[UUID, Path(alias="id")]

_PAPERS: Final = 50
_RUNS: Final = 10
_REPORT: Final = "papers/gap_report"


@router.get("")
def show(
    request: Request, principal: ReaderDep, database: DatabaseDep, settings: SettingsDep, page: PageDep
) -> Response:
    """How the papers with a report stand, all papers, and a form that takes in another one."""
    return _listed(request, principal, database, settings, page)


@router.post("", dependencies=[Depends(require_form_token)])
async def take_in(
    request: Request,
    principal: WriterDep,
    once: FormOnceDep,
    database: DatabaseDep,
    settings: SettingsDep,
    ledger: LedgerDep,
    file: Annotated[UploadFile | None, File()] = None,
    url: Annotated[str, Form(max_length=4096)] = "",
    licence: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    """Takes in the PDF that was sent, or that lies at a public address, and shows it; or says what is wrong with it.

    A script of the page sends it by `POST /api/v1/papers` instead, to show how far it is.
    """

    def prepare() -> Change[intake.Ingested]:
        received = _received(file, url.strip(), licence.strip() or None, settings)
        key = intake.store(received, settings)
        return database.read(lambda connection: intake.record(connection, principal, received, key))

    def taken(ingested: intake.Ingested) -> Response:
        known = ingested.status == "unchanged"
        said = "This PDF was there already." if known else "The paper is taken in and is being read."
        return redirect(f"{PATH}/{ingested.paper.id}", said=said, tone="info" if known else "good")

    try:
        prepared = await run_in_threadpool(prepare)
    except StemmaError as error:
        first, given = PageRequest(None, _PAPERS), {"url": url, "licence": licence}
        return await run_in_threadpool(_listed, request, principal, database, settings, first, error, given)
    return taken(await once.write(ledger, prepared, kept=lambda ingested: kept(taken(ingested))))


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
        seen = feed.tail(connection, HISTORIAN)
    under_way = plan is None and paper.error_code is None
    open_runs = any(not run.status.is_final for run in history)
    planned = parse_plan(plan.document) if plan else None
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
        planned=planned,
        lacking=planning.lacking(planned) if planned else None,
        under_way=under_way,
        # The stream is that of the Historian.
        follows=(under_way or open_runs) and principal.may("ledger:read"),
        seen=seen,
        worker_on=launching.is_on(settings),
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
    request: Request,
    principal: WriterDep,
    once: FormOnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    models: RouterDep,
    paper_id: PaperPath,
) -> Response:
    """Tells the paper to children, anew where that was done before, by a model where there is one."""
    telling = await telling_of(request, principal, database, models, paper_id)
    change = await run_in_threadpool(
        database.read, lambda connection: keeping.explain(connection, principal, paper_id, telling)
    )
    said = f"The paper is told by templates. What the model wrote was not used: {telling.refused}"

    def told(_: KeptStoryboard) -> Response:
        to = f"{PATH}/{paper_id}/story"
        return redirect(to, said=said, tone="info") if telling.refused else redirect(to, said="The paper is told.")

    return told(await once.write(ledger, change, kept=lambda result: kept(told(result))))


def _listed(
    request: Request,
    principal: Principal,
    database: Database,
    settings: Settings,
    page: PageRequest,
    error: StemmaError | None = None,
    given: dict[str, str] | None = None,
) -> Response:
    with database.snapshot() as connection:
        standings = read_leaderboard(connection)
        found = catalog.list_papers(connection, cursor=page.cursor, limit=page.limit)
    return render(
        request,
        "pages/papers.html",
        status=error.status if error else 200,
        store=error is None,
        standings=standings,
        found=found,
        by_paper={one.paper_id: one for one in standings},
        shares=paper_charts.shares,
        Verdict=Verdict,
        may_write=principal.may("papers:write"),
        error=error,
        given=given or {"url": "", "licence": ""},
        largest=settings.max_document_bytes,
        most_pages=settings.papers_max_pages,
        once=new_token(),
    )


def _received(file: UploadFile | None, url: str, licence: str | None, settings: Settings) -> intake.Received:
    sent = file if file is not None and file.filename else None
    if sent is None and not url:
        what = "Neither a file was chosen nor an address given."
        raise InvalidInput("file_missing", what, field="file", hint="Choose a PDF, or say where one is.")
    if sent is not None and url:
        what = "Both a file was chosen and an address given."
        raise InvalidInput("file_ambiguous", what, field="url", hint="Send one of them at a time.")
    if sent is None:
        return intake.receive_url(url, settings, licence=licence)
    name = sent.filename or "paper.pdf"
    return intake.receive(sent.file, settings, source="upload", source_ref=name, licence=licence)


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
