"""Runs: which there were, and one of them with its timeline, log, what it changed, where that comes from, and who has a
say in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.console import graphs, timelines
from api.console.forms import redirect
from api.console.rendering import render
from api.deps import DatabaseDep, LedgerDep, PageDep, SettingsDep
from api.limits import limited
from stemma.access.principal import Principal
from stemma.errors import InvalidInput
from stemma.jobs import launching
from stemma.ledger.receipt_catalog import list_receipts
from stemma.ledger.receipts import Receipt
from stemma.ledger.receipts import subject as subject_of
from stemma.runs.artifacts import sign_artifact
from stemma.runs.cancelling import cancel
from stemma.runs.dagster import read_log, read_run
from stemma.runs.model import LEVELS, Event, Level, RunState
from stemma.runs.story import MOST_RECEIPTS, list_stories, read_story

router = APIRouter(prefix="/runs", route_class=limited("console"), include_in_schema=False)

_LINES: Final = 100
_LINES_OF_A_PAGE: Final = 200
_DRAWN: Final = 30
_FARTHEST: Final = 2**53

ReaderDep = Annotated[Principal, allow("jobs:read")]
BuilderDep = Annotated[Principal, allow("jobs:write")]
RunId = Annotated[str, Path(alias="id", max_length=100)]
LevelQuery = Annotated[Level, Query()]


@router.get("")
def show(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    settings: SettingsDep,
    page: PageDep,
    state: Annotated[str, Query(max_length=20)] = "",
) -> Response:
    """The newest first, whoever started them; scripts load the rows again every few seconds."""
    if state and state not in set(RunState):
        hint = f"The states are {', '.join(RunState)}."
        raise InvalidInput("state_unknown", "There is no such state.", field="state", hint=hint)
    wanted = RunState(state) if state else None
    may = principal.may("ledger:read")
    found = list_stories(database, settings, state=wanted, receipts=may, cursor=page.cursor, limit=page.limit)
    return render(request, "pages/runs.html", found=found, states=RunState, state=wanted)


@router.get("/{id}")
def show_one(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    settings: SettingsDep,
    run_id: RunId,
    level: LevelQuery = "DEBUG",
) -> Response:
    """Everything there is about a run; scripts follow its log until it has ended."""
    receipts, approvals = principal.may("ledger:read"), principal.may("approvals:read")
    story = read_story(database, settings, run_id, receipts=receipts, approvals=approvals)
    detail = story.detail
    lines = [event for event in detail.log.events if event.is_at_least(level)][-_LINES:] if detail else []
    graph = _graph(story.receipts)
    ended = detail is None or detail.run.state.is_final
    return render(
        request,
        "pages/run.html",
        story=story,
        run=detail.run if detail else None,
        timeline=timelines.of_run(detail, datetime.now(UTC)) if detail else None,
        log=detail.log if detail else None,
        lines=lines,
        levels=LEVELS,
        level=level,
        failure=_failure(detail.log.events) if detail and detail.run.state is RunState.FAILED else None,
        graph=graph,
        drawing=graphs.draw(graph, title="What the run made, above what it was made from") if graph.nodes else None,
        shows_receipts=receipts,
        shows_approvals=approvals,
        may_download=receipts and principal.may("publish:sign"),
        may_cancel=principal.may("jobs:write") and not ended,
        most=MOST_RECEIPTS,
    )


@router.get("/{id}/log")
def show_log(
    request: Request,
    principal: ReaderDep,
    settings: SettingsDep,
    run_id: RunId,
    level: LevelQuery = "DEBUG",
    after: Annotated[int, Query(ge=0, le=_FARTHEST)] = 0,
) -> Response:
    """The whole log, in pages."""
    log = read_log(settings, run_id, after, limit=_LINES_OF_A_PAGE)
    lines = [event for event in log.events if event.is_at_least(level)]
    return render(
        request, "pages/run_log.html", run_id=run_id, log=log, lines=lines, levels=LEVELS, level=level, after=after
    )


@router.get("/{id}/artifacts/{sha256}", dependencies=[allow("publish:sign")])
def download(
    principal: Annotated[Principal, allow("ledger:read")],
    database: DatabaseDep,
    settings: SettingsDep,
    run_id: RunId,
    sha256: Annotated[str, Path(max_length=64)],
) -> Response:
    """Leads to a signed URL of a file that the run wrote; whoever has that can read it for five minutes."""
    left = database.read(lambda connection: list_receipts(connection, run_id=run_id, limit=MOST_RECEIPTS)).data
    return RedirectResponse(sign_artifact(settings, left, sha256).url, status_code=303)


@router.get("/{id}/cancel")
def ask_to_cancel(request: Request, principal: BuilderDep, settings: SettingsDep, run_id: RunId) -> Response:
    """Says what cancelling does, and asks; a run that is for a job is cancelled with the job."""
    run = read_run(settings, run_id).run
    if run.job_id is not None:
        return RedirectResponse(f"/jobs/{run.job_id}/cancel", status_code=303)
    return render(request, "pages/run_cancel.html", run=run)


@router.post("/{id}/cancel")
async def stop(principal: BuilderDep, settings: SettingsDep, ledger: LedgerDep, run_id: RunId) -> Response:
    """Writes down who asked, then asks Dagster to end the run."""
    run = (await run_in_threadpool(read_run, settings, run_id)).run
    await ledger.commit_async(cancel(principal, run))
    await run_in_threadpool(launching.terminate, settings, run.id)
    return redirect(f"/runs/{run.id}", said="The run was asked to stop.")


def _failure(events: Sequence[Event]) -> str | None:
    """Why a run failed: what its last step said of it, else the run itself."""
    for kind in ("STEP_FAILURE", "PIPELINE_FAILURE", "RUN_FAILURE"):
        told = [event for event in events if event.kind == kind]
        if told:
            return told[-1].message
    return None


def _graph(receipts: Sequence[Receipt]) -> graphs.Graph:
    """What the run made, what that was made from, and what was read from outside; partitions of an asset together."""
    made: dict[str, set[str]] = {}
    from_elsewhere: dict[str, set[str]] = {}
    outside: dict[str, set[str]] = {}
    edges: dict[tuple[str, str], None] = {}
    for receipt in receipts:
        made.setdefault(receipt.asset, set()).add(receipt.partition or "")
        for source in receipt.sources:
            outside.setdefault(receipt.asset, set()).add(source.name)
    for receipt in receipts:
        for one in receipt.inputs:
            if one.asset not in made:
                from_elsewhere.setdefault(one.asset, set()).add(subject_of(one.asset, one.partition))
            if one.asset != receipt.asset:
                edges[one.asset, receipt.asset] = None
    nodes = [graphs.Node(asset, asset, "made before", f"/receipts/{asset}") for asset in from_elsewhere]
    nodes += [
        graphs.Node(asset, asset, _note(names), f"/receipts/{asset}", strong=True) for asset, names in made.items()
    ]
    for asset, names in outside.items():
        label = next(iter(names)) if len(names) == 1 else f"{len(names)} files"
        nodes.append(graphs.Node(f"outside {asset}", label, "from outside the studio", outside=True))
        edges[f"outside {asset}", asset] = None
    if len(nodes) > _DRAWN:
        return graphs.Graph((), tuple(edges))
    return graphs.Graph(tuple(nodes), tuple(edges))


def _note(partitions: set[str]) -> str:
    if len(partitions) > 1:
        return f"made here · {len(partitions)} partitions"
    (name,) = partitions
    return f"made here · {name}" if name else "made here"
