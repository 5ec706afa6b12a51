"""`stemma jobs`: asking for work, watching it, and cancelling it."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from rich.text import Text

from cli.output import Json, err, moment, out, plain, print_json, print_table, printable, say
from cli.session import commit, open_studio
from stemma.access.principal import local_principal
from stemma.errors import CheckFailed, InvalidInput, Unavailable
from stemma.jobs.model import Job, JobEvent, JobState

if TYPE_CHECKING:
    from stemma.store.settings import Settings

app = typer.Typer(help="Requests for work, and how they go.", no_args_is_help=True)

Id = Annotated[UUID, typer.Argument(metavar="ID", help="The job.")]

_STYLES = {
    JobState.QUEUED: "yellow",
    JobState.RUNNING: "bold cyan",
    JobState.DONE: "green",
    JobState.ERROR: "bold red",
    JobState.CANCELLED: "dim",
}


@app.command()
def submit(
    kind: Annotated[str, typer.Argument(help="One of `stemma jobs kinds`.")],
    given: Annotated[str, typer.Option("--input", help="What the kind takes, as a JSON object.")] = "{}",
    priority: Annotated[int, typer.Option(help="The higher, the sooner.")] = 0,
    at: Annotated[str | None, typer.Option(help="Not before this time, such as 2026-01-31T06:00+01:00.")] = None,
    as_json: Json = False,
) -> None:
    """Queue a job."""
    from stemma.jobs import launching
    from stemma.jobs.submission import JobRequest
    from stemma.jobs.submission import submit as submitted

    request = JobRequest(kind, _object(given), priority, _time(at))
    settings, database = open_studio()
    with database:
        job = commit(settings, database, lambda connection: submitted(connection, local_principal(), request))
    if launching.is_on(settings) and job.scheduled_at is None:
        try:
            launching.launch(settings, job)
        except Unavailable:
            say("No run was launched yet; `stemma up` launches it within seconds.", console=err)
    if as_json:
        print_json(_document(job) | _worker(settings))
    else:
        say(f"{job.kind} is queued as {job.id}.")
        _say_when_off(settings)


@app.command("list")
def list_jobs(
    kind: Annotated[str | None, typer.Option(help="Only this kind.")] = None,
    state: Annotated[JobState | None, typer.Option(help="Only those in this state.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only what this actor asked for.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="`next_cursor` of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """List jobs, the newest first."""
    from stemma.jobs import catalog

    settings, database = open_studio()
    with database:
        page = database.read(
            lambda connection: catalog.list_jobs(
                connection, kind=kind, state=state, actor=actor, cursor=cursor, limit=limit
            )
        )
    if as_json:
        print_json({"data": [_document(job) for job in page.data], "next_cursor": page.next_cursor} | _worker(settings))
        return
    rows = [
        (str(j.id), Text(j.state, style=_STYLES[j.state]), j.kind, j.actor, moment(j.submitted_at), _took(j))
        for j in page.data
    ]
    print_table("Jobs", ("id", "state", "kind", "actor", "submitted", "took"), rows, empty="No jobs.")
    if page.next_cursor:
        out.print(Text(f"more: --cursor {page.next_cursor}", style="dim"), soft_wrap=True)
    _say_when_off(settings)


@app.command()
def show(job_id: Id, as_json: Json = False) -> None:
    """Show a job and what happened to it."""
    from stemma.jobs import catalog

    settings, database = open_studio()
    with database, database.snapshot() as connection:
        job = catalog.get_job(connection, job_id)
        events = catalog.list_events(connection, job_id)
    if as_json:
        print_json(_document(job) | {"events": plain(events)} | _worker(settings))
        return
    facts = {
        "state": job.state,
        "kind": job.kind,
        "input": json.dumps(job.input, ensure_ascii=False),
        "asked by": f"{job.actor}, {moment(job.submitted_at)}",
        "attempt": f"{job.attempt} of {job.max_attempts}",
        "not before": moment(job.due_at) if job.state is JobState.QUEUED else "",
        "run": job.run_id or "",
        "waited": _milliseconds(job.queued_ms),
        "took": _took(job),
        "reason": job.error_message or "",
    }
    out.print(Text(str(job.id), style="bold"))
    for name, value in facts.items():
        if value:
            out.print(Text(f"  {name:<11}", style="dim") + Text(printable(value)), soft_wrap=True)
    for event in events:
        _say_event(event)
    _say_when_off(settings)


@app.command()
def cancel(job_id: Id, as_json: Json = False) -> None:
    """Cancel a job: at once while it is queued, else its run is asked to stop."""
    from stemma.jobs import launching, lifecycle

    settings, database = open_studio()
    with database:
        job = commit(settings, database, lambda connection: lifecycle.cancel(connection, local_principal(), job_id))
    if job.state is JobState.RUNNING and job.run_id is not None and launching.is_run(job):
        try:
            launching.terminate(settings, job.run_id)
        except Unavailable:
            say("Its run finds out by itself within seconds.", console=err)
    if as_json:
        print_json(_document(job) | _worker(settings))
    else:
        say(f"{job.id} is {'cancelled' if job.state is JobState.CANCELLED else 'being cancelled'}.")


@app.command()
def watch(
    job_id: Id,
    after: Annotated[int, typer.Option(min=0, help="Begin after the event with this seq.")] = 0,
    as_json: Json = False,
) -> None:
    """Print a job's events until it ends; exits with 6 when it failed. With --json, one JSON document a line."""
    from stemma.jobs import catalog

    settings, database = open_studio()
    with database:
        if database.read(lambda connection: catalog.get_job(connection, job_id)).state is JobState.QUEUED:
            _say_when_off(settings)
        for event in catalog.follow(database.urls, job_id, after):
            if as_json:
                sys.stdout.write(json.dumps(plain(event), ensure_ascii=False) + "\n")
            else:
                _say_event(event)
            sys.stdout.flush()
        job = database.read(lambda connection: catalog.get_job(connection, job_id))
    if job.state is JobState.ERROR:
        if as_json:
            raise typer.Exit(CheckFailed.exit_code)
        raise CheckFailed("job_failed", f"{job.error_code}: {job.error_message}")


@app.command("kinds")
def list_kinds(as_json: Json = False) -> None:
    """List what can be asked for."""
    from stemma.jobs.kinds import KINDS

    if as_json:
        names = ("name", "description", "materializes", "permission", "max_attempts", "executed_in")
        print_json(
            [
                {name: getattr(kind, name) for name in names}
                | {
                    "input_schema": kind.input.model_json_schema(),
                    "max_runtime_seconds": int(kind.max_runtime.total_seconds()),
                }
                for kind in KINDS.values()
            ]
        )
        return
    rows = [
        (kind.name, ", ".join(kind.input.model_fields), kind.permission or "", kind.max_attempts, kind.description)
        for kind in KINDS.values()
    ]
    print_table("Kinds of jobs", ("kind", "input", "also takes", "attempts", "does"), rows, empty="None.")


def _object(text: str) -> dict[str, Any]:
    hint = """Write it as in --input '{"source": "inbox"}'."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("json_invalid", f"It is not JSON: {error}.", field="--input", hint=hint) from error
    if not isinstance(given, dict):
        raise InvalidInput("json_invalid", "It is not a JSON object.", field="--input", hint=hint)
    return given


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text is not None else None
    except ValueError as error:
        hint = "Write 2026-01-31T06:00:00+01:00."
        raise InvalidInput("time_invalid", f"{text!r} is no time.", field="--at", hint=hint) from error


def _document(job: Job) -> dict[str, Any]:
    known: dict[str, Any] = plain(job)
    return known | {"queued_ms": job.queued_ms, "run_ms": job.run_ms}


def _worker(settings: Settings) -> dict[str, Any]:
    from stemma.jobs import launching

    on = launching.is_on(settings)
    return {"worker": "on" if on else "off", "hint": None if on else launching.OFF_HINT}


def _say_when_off(settings: Settings) -> None:
    if hint := _worker(settings)["hint"]:
        say(f"worker off: {hint}", console=err)


def _took(job: Job) -> str:
    return _milliseconds(job.run_ms)


def _milliseconds(number: int | None) -> str:
    return "" if number is None else f"{number / 1000:,.2f} s"


def _say_event(event: JobEvent) -> None:
    facts = json.dumps(event.data, ensure_ascii=False)
    say(f"  {event.seq:>4}  {moment(event.at)}  {event.kind:<16}  {facts}")
