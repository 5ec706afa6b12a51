"""What a person does to a paper: reviewing one claim, and asking for the steps of the pipeline."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Form, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.console.forms import FormOnceDep, kept, new_token, redirect
from api.console.rendering import render
from api.deps import DatabaseDep, LedgerDep, SettingsDep
from api.launches import LaunchesDep
from api.limits import limited
from stemma.access.principal import Principal
from stemma.errors import NotFound, PreconditionFailed, StemmaError
from stemma.jobs.model import Job
from stemma.jobs.submission import JobRequest, submit
from stemma.ledger.change import Change
from stemma.papers import catalog, review, steps
from stemma.papers.model import Claim, ClaimStatus, Paper
from stemma.store.database import Connection, Database
from stemma.store.files import FileStore
from stemma.store.settings import Settings

PATH: Final = "/papers"

router = APIRouter(prefix=PATH, route_class=limited("console"), include_in_schema=False)

ReviewerDep = Annotated[Principal, allow("papers:review")]
BuilderDep = Annotated[Principal, allow("jobs:write")]
PaperPath = Annotated[UUID, Path(alias="id")]
ClaimPath = Annotated[UUID, Path(alias="claim")]
Text = Annotated[str, Form(max_length=500)]
Step = Literal["paper:materialize", "paper:extract", "paper:plan", "paper:report"]

_SAID: Final[dict[ClaimStatus, str]] = {
    "accepted": "The claim is accepted. The next plan measures it, where a template can.",
    "rejected": "The claim is rejected. The next plan leaves it out.",
    "proposed": "The claim is changed.",
}


@router.get("/{id}/claims/{claim}")
def show(
    request: Request,
    principal: ReviewerDep,
    database: DatabaseDep,
    settings: SettingsDep,
    paper_id: PaperPath,
    claim_id: ClaimPath,
) -> Response:
    """One claim beside the page that prints it, and the form in which it is edited, accepted or rejected."""
    return _form(request, database, settings, paper_id, claim_id)


@router.post("/{id}/claims/{claim}")
async def change(
    request: Request,
    principal: ReviewerDep,
    once: FormOnceDep,
    database: DatabaseDep,
    settings: SettingsDep,
    ledger: LedgerDep,
    paper_id: PaperPath,
    claim_id: ClaimPath,
    seen: Annotated[str, Form(max_length=100)],
    status: Annotated[ClaimStatus, Form()],
    metric: Text = "",
    printed: Text = "",
    unit: Text = "",
    dataset: Text = "",
    method: Text = "",
    split: Text = "",
    page: Annotated[int | None, Form(ge=1, le=100_000)] = None,
) -> Response:
    """Keeps the claim as it was edited; one that somebody changed meanwhile is shown anew."""
    given = {"metric": metric, "unit": unit, "dataset": dataset, "method": method, "split": split}

    def prepare(connection: Connection) -> Change[Claim]:
        paper, claim = _found(connection, paper_id, claim_id)
        moved = (printed.strip(), page) != (claim.printed, claim.page)
        edit = review.ClaimEdit(
            **{name: value for name, value in given.items() if value.strip() != (getattr(claim, name) or "")},
            printed=printed.strip() if moved else None,
            page=page if moved else None,
            status=status,
        )
        pages = steps.stored_pages(FileStore.open_default(settings), paper)
        return review.edit_claim(connection, principal, claim_id, edit, pages, seen=frozenset({seen}))

    def done(claim: Claim) -> Response:
        return redirect(f"{PATH}/{paper_id}?claim={claim.id}#claims", said=_SAID[claim.status])

    try:
        prepared = await run_in_threadpool(database.read, prepare)
        return done(await once.write(ledger, prepared, kept=lambda claim: kept(done(claim))))
    except NotFound as error:
        if error.code in ("paper_unknown", "claim_unknown"):
            raise
        refused: StemmaError = error
    except StemmaError as error:
        refused = error
    typed = {**given, "printed": printed, "page": page}
    # Over what somebody else wrote nobody shall write by sending the form once more.
    shown = {} if isinstance(refused, PreconditionFailed) else typed
    return await run_in_threadpool(_form, request, database, settings, paper_id, claim_id, refused, shown)


@router.post("/{id}/steps")
async def ask(
    principal: BuilderDep,
    once: FormOnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    launches: LaunchesDep,
    paper_id: PaperPath,
    step: Annotated[Step, Form()],
) -> Response:
    """Queues a step of the pipeline and shows its job."""
    wanted = JobRequest(step, {"paper": str(paper_id)})
    prepared = await run_in_threadpool(database.read, lambda connection: submit(connection, principal, wanted))

    def queued(job: Job) -> Response:
        return redirect(f"/jobs/{job.id}", said="The job is queued.")

    job = await once.write(ledger, prepared, kept=lambda job: kept(queued(job)))
    launches.launch(job)
    return queued(job)


def _form(
    request: Request,
    database: Database,
    settings: Settings,
    paper_id: UUID,
    claim_id: UUID,
    error: StemmaError | None = None,
    given: dict[str, Any] | None = None,
) -> Response:
    paper, claim = database.read(lambda connection: _found(connection, paper_id, claim_id))
    pages = steps.stored_pages(FileStore.open_default(settings), paper)
    values = {
        name: getattr(claim, name) for name in ("metric", "printed", "unit", "dataset", "method", "split", "page")
    }
    return render(
        request,
        "pages/paper_claim.html",
        status=error.status if error else 200,
        store=error is None,
        paper=paper,
        claim=claim,
        sheet=next((one for one in pages if one.number == claim.page), None),
        values={**values, **(given or {})},
        error=error,
        once=new_token(),
    )


def _found(connection: Connection, paper_id: UUID, claim_id: UUID) -> tuple[Paper, Claim]:
    paper, claim = catalog.get_paper(connection, paper_id), catalog.get_claim(connection, claim_id)
    if claim.paper_id != paper.id:
        raise NotFound("claim_unknown", f"The paper has no claim {claim_id}.", field="claim_id")
    return paper, claim
