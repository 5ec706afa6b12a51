"""Jobs: what was asked for and what became of it, one job's events as they come, asking for work, and cancelling it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID
from zoneinfo import available_timezones

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.console import inputs
from api.console.forms import FormOnceDep, kept, new_token, redirect
from api.console.rendering import duration, number, render, utc
from api.deps import DatabaseDep, LedgerDep, PageDep, SettingsDep
from api.launches import LaunchesDep
from api.limits import limited
from stemma.access.principal import Principal
from stemma.errors import InvalidInput, StemmaError
from stemma.jobs import catalog, kinds, launching, lifecycle, submission
from stemma.jobs.model import Job, JobEvent, JobState
from stemma.knowledge.catalog import list_sources
from stemma.store.database import Connection, Database
from stemma.store.settings import Settings

router = APIRouter(prefix="/jobs", route_class=limited("console"), include_in_schema=False)

_EVENTS: Final = 500

ReaderDep = Annotated[Principal, allow("jobs:read")]
BuilderDep = Annotated[Principal, allow("jobs:write")]
IdPath = Annotated[UUID, Path(alias="id")]


@router.get("")
def show(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    settings: SettingsDep,
    page: PageDep,
    kind: Annotated[str, Query(max_length=63)] = "",
    state: Annotated[str, Query(max_length=20)] = "",
    actor: Annotated[str, Query(max_length=500)] = "",
) -> Response:
    """The newest first, all or those that match; scripts load the rows again every few seconds."""
    wanted, who = inputs.chosen(JobState, state, "state"), actor.strip() or None
    found = database.read(
        lambda connection: catalog.list_jobs(
            connection,
            kind=kind or None,
            state=wanted,
            actor=who,
            cursor=page.cursor,
            limit=page.limit,
        )
    )
    return render(
        request,
        "pages/jobs.html",
        found=found,
        kinds=kinds.KINDS,
        states=JobState,
        kind=kind,
        state=wanted,
        actor=actor,
        filtered=bool(kind or wanted or who),
        may_submit=principal.may("jobs:write"),
        worker_on=launching.is_on(settings),
    )


@router.get("/new")
def ask_for_one(
    request: Request,
    principal: BuilderDep,
    database: DatabaseDep,
    settings: SettingsDep,
    kind: Annotated[str | None, Query(max_length=63)] = None,
) -> Response:
    """The kinds that this principal may ask for; the form of one of them."""
    return _form(request, principal, database, settings, kinds.find(kind) if kind else None, {}, None)


@router.post("")
async def submit(
    request: Request,
    principal: BuilderDep,
    once: FormOnceDep,
    database: DatabaseDep,
    settings: SettingsDep,
    ledger: LedgerDep,
    launches: LaunchesDep,
) -> Response:
    """Queues the job and shows it, or the form again with what is wrong in it."""
    form = await request.form()
    given = {name: value for name, value in form.items() if isinstance(value, str)}
    kind = kinds.find(given.get("kind", ""))
    try:
        wanted = _wanted(kind, given)
        change = await run_in_threadpool(database.read, lambda c: submission.submit(c, principal, wanted))
    except StemmaError as error:
        return await run_in_threadpool(_form, request, principal, database, settings, kind, given, error)

    def queued(job: Job) -> Response:
        return redirect(f"/jobs/{job.id}", said="The job is queued.")

    job = await once.write(ledger, change, kept=lambda job: kept(queued(job)))
    launches.launch(job)
    return queued(job)


def _wanted(kind: kinds.Kind, given: Mapping[str, str]) -> submission.JobRequest:
    try:
        priority = int(given.get("priority", "").strip() or 0)
    except ValueError as error:
        raise InvalidInput("priority_invalid", "This is no whole number.", field="priority") from error
    at = inputs.moment(given.get("scheduled_at", "").strip(), given.get("zone", "").strip() or "UTC")
    return submission.JobRequest(kind.name, inputs.given(kind, given), priority, at)


def _form(
    request: Request,
    principal: Principal,
    database: Database,
    settings: Settings,
    kind: kinds.Kind | None,
    given: Mapping[str, str],
    error: StemmaError | None,
) -> Response:
    submitted = [one for one in kinds.KINDS.values() if one.executed_in == "dagster"]
    may = [one for one in submitted if one.permission is None or principal.may(one.permission)]
    fields = inputs.fields(kind) if kind else ()
    named = any(field.name == f"{inputs.PREFIX}source" for field in fields) and principal.may("ingest:read")
    return render(
        request,
        "pages/job_new.html",
        status=error.status if error else 200,
        store=error is None,
        kinds=may,
        kind=kind,
        fields=fields,
        sources=[source.name for source in database.read(list_sources)] if named else [],
        zones=_zones() if kind else [],
        given=given,
        once=new_token(),
        error=error,
        most=submission.MOST_URGENT,
        worker_on=launching.is_on(settings),
    )


def _zones() -> list[str]:
    """The time zones of places; others can be written as well."""
    return sorted(zone for zone in available_timezones() if "/" in zone and not zone.startswith("Etc/"))


@router.get("/{id}")
def show_one(
    request: Request, principal: ReaderDep, database: DatabaseDep, settings: SettingsDep, job_id: IdPath
) -> Response:
    """Where it stands and everything that happened to it; scripts follow its stream of events."""

    def look(connection: Connection) -> Any:
        return catalog.get_job(connection, job_id), catalog.list_events(connection, job_id, limit=_EVENTS + 1)

    job, events = database.read(look)
    return render(
        request,
        "pages/job.html",
        job=job,
        kind=kinds.KINDS.get(job.kind),
        events=events[:_EVENTS],
        cut=len(events) > _EVENTS,
        told=told,
        is_run=launching.is_run(job),
        may_cancel=principal.may("jobs:write") and not job.state.is_final and job.cancel_requested_at is None,
        worker_on=launching.is_on(settings),
    )


@router.get("/{id}/cancel")
def ask_to_cancel(request: Request, principal: BuilderDep, database: DatabaseDep, job_id: IdPath) -> Response:
    """Says what cancelling does, and asks."""
    job = database.read(lambda connection: catalog.get_job(connection, job_id))
    return render(request, "pages/job_cancel.html", job=job)


@router.post("/{id}/cancel")
async def cancel(
    principal: BuilderDep, database: DatabaseDep, ledger: LedgerDep, launches: LaunchesDep, job_id: IdPath
) -> Response:
    """At once while it is queued; else its run is asked to stop."""
    change = await run_in_threadpool(database.read, lambda c: lifecycle.cancel(c, principal, job_id))
    job = await ledger.commit_async(change)
    launches.terminate(job)
    said = "The job is cancelled." if job.state.is_final else "The run was asked to stop; the job ends with it."
    return redirect(f"/jobs/{job.id}", said=said)


def told(event: JobEvent) -> tuple[str, str]:
    """An event in words: what happened, and more about it."""
    data = event.data
    match event.kind:
        case "submitted":
            urgent = f" · priority {data['priority']}" if data.get("priority") else ""
            later = (
                f" · not before {utc(datetime.fromisoformat(data['scheduled_at']))}" if data.get("scheduled_at") else ""
            )
            return "Submitted", f"by {data.get('actor', 'somebody')}{urgent}{later}"
        case "started":
            return f"Attempt {data['attempt']} started", f"after {_took(data, 'queued_ms')} in the queue"
        case "postponed":
            again = f"tries again in {_took(data, 'pause_ms')}"
            return f"Attempt {data['attempt']} of {data['of']} failed", f"{data['reason']} · {again}"
        case "cancel_requested":
            return "Asked to stop", f"by {data.get('actor', 'somebody')}"
        case "cancelled":
            return "Cancelled", f"by {data['actor']}" if data.get("actor") else "its run has ended"
        case "done":
            return "Done", f"in {_took(data, 'run_ms')}"
        case "error":
            return "Failed", str(data["reason"])
        case "log":
            return "Said", str(data["line"])
        case "progress":
            total = f" of {number(data['total'])}" if data.get("total") else ""
            return str(data["stage"]).capitalize(), f"{number(data['done'])}{total} {data['unit']}"
        case "asset":
            return f"Materialized {data['asset']}", str(data.get("summary") or "")
    return event.kind.replace("_", " ").capitalize(), ""


def _took(data: Mapping[str, Any], name: str) -> str:
    milliseconds = data.get(name)
    return "no time" if milliseconds is None else duration(milliseconds / 1000)
