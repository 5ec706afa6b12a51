"""Runs of papers: one as it goes, with its lines and curves, asking for one, and cancelling it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Form, Path, Query, Request, Response
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.console import paper_charts
from api.console.charts import Curve
from api.console.forms import FormOnceDep, kept, new_token, redirect
from api.console.rendering import number, render
from api.deps import DatabaseDep, LedgerDep
from api.launches import LaunchesDep
from api.limits import limited
from stemma.access.principal import Principal
from stemma.jobs.model import Job
from stemma.papers import catalog as papers
from stemma.papers.runs import catalog, lifecycle
from stemma.papers.runs.model import Run, RunEvent, SeriesPoint

PATH: Final = "/papers"

router = APIRouter(prefix=PATH, route_class=limited("console"), include_in_schema=False)

ReaderDep = Annotated[Principal, allow("papers:read")]
RunnerDep = Annotated[Principal, allow("papers:run")]
RunPath = Annotated[UUID, Path(alias="run")]

_EVENTS: Final = 500
_CURVES: Final = 12
_ROWS: Final = 20


@dataclass(frozen=True, slots=True)
class Line:
    """An event of a run as a line of its log."""

    at: datetime
    level: str
    step: str
    message: str


@dataclass(frozen=True, slots=True)
class Traced:
    """A metric's curves, one for each split, and its newest points."""

    metric: str
    drawing: Markup
    splits: tuple[str, ...]
    points: Sequence[SeriesPoint]


@router.get("/runs/{run}")
def show(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    run_id: RunPath,
    after: Annotated[int, Query(ge=0, lt=1 << 62)] = 0,
) -> Response:
    """A run; scripts follow it, and without them the page says how it stood when it was loaded."""
    with database.snapshot() as connection:
        run = catalog.get_run(connection, run_id)
        paper = papers.get_paper(connection, run.paper_id)
        events = catalog.list_events(connection, run_id, after, limit=_EVENTS + 1)
        series = catalog.list_series(connection, run_id)
    more, events = len(events) > _EVENTS, events[:_EVENTS]
    return render(
        request,
        "pages/paper_run.html",
        run=run,
        paper=paper,
        lines=[_line(event) for event in events],
        seen=events[-1].seq if events else after,
        after=after,
        more=more,
        progress=next((event.payload for event in reversed(events) if event.type == "progress"), None),
        traced=_traced(series),
        may_run=principal.may("papers:run"),
        once=new_token(),
    )


@router.post("/runs/{run}/cancel")
async def cancel(
    principal: RunnerDep, once: FormOnceDep, database: DatabaseDep, ledger: LedgerDep, run_id: RunPath
) -> Response:
    """Cancels a run; one that executes stops at the end of a cell."""
    change = await run_in_threadpool(database.read, lambda connection: lifecycle.cancel(connection, principal, run_id))

    def told(run: Run) -> Response:
        said = "The run is cancelled." if run.status.is_final else "The run is told to stop."
        return redirect(f"{PATH}/runs/{run_id}", said=said)

    return told(await once.write(ledger, change, kept=lambda run: kept(told(run))))


@router.post("/plans/{plan}/run")
async def ask(
    principal: RunnerDep,
    once: FormOnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    launches: LaunchesDep,
    plan_id: Annotated[UUID, Path(alias="plan")],
    alternative: Annotated[str, Form(max_length=100)] = "",
) -> Response:
    """Queues a run of a plan, or of one of its alternatives, and shows it."""
    change = await run_in_threadpool(
        database.read,
        lambda connection: lifecycle.request(connection, principal, plan_id, alternative=alternative or None),
    )

    def queued(asked: tuple[Run, Job]) -> Response:
        return redirect(f"{PATH}/runs/{asked[0].id}", said="The run is queued.")

    asked = await once.write(ledger, change, kept=lambda asked: kept(queued(asked)))
    launches.launch(asked[1])
    return queued(asked)


def _line(event: RunEvent) -> Line:
    said: Any = event.payload
    if event.type == "stage_update":
        # The page's head says how it stands; here is only when it came there.
        message = " ".join(filter(None, [str(said.get("stage", "")), said.get("reason") or ""]))
        return Line(event.ts, "stage", "", message)
    if event.type == "progress":
        return Line(event.ts, "done", "", f"{said.get('percent', '?')} % {said.get('msg', '')}".strip())
    if event.type == "metric_update":
        value = said.get("value")
        told = f"{value:g}" if isinstance(value, (int, float)) else str(value)
        return Line(event.ts, "metric", "", f"{said.get('metric')} ({said.get('split')}) = {told}")
    if event.type == "sample_pred":
        return Line(event.ts, "sample", "", str(said.get("text", "")))
    return Line(event.ts, "token" if event.type == "token" else "line", "", str(said))


def _traced(series: Sequence[SeriesPoint]) -> list[Traced]:
    by_metric: dict[str, dict[str, list[SeriesPoint]]] = defaultdict(lambda: defaultdict(list))
    for point in series:
        by_metric[point.metric][point.split].append(point)
    # A single point is no curve; it stands among what the run measured.
    curved = {name: splits for name, splits in by_metric.items() if any(len(points) > 1 for points in splits.values())}
    return [_trace(metric, splits) for metric, splits in list(curved.items())[:_CURVES]]


def _trace(metric: str, splits: dict[str, list[SeriesPoint]]) -> Traced:
    curves = [
        Curve(split, [(float(place), point.value) for place, point in enumerate(points)])
        for split, points in splits.items()
    ]
    points = sorted((point for found in splits.values() for point in found), key=lambda point: point.step)
    last = ", ".join(f"{split} {number(found[-1].value)}" for split, found in splits.items())
    title = f"{metric} over {len(points)} reports; at last: {last}"
    return Traced(metric, paper_charts.traces(curves, title=title), tuple(splits), points[-_ROWS:])
