"""`stemma events`: recording events, importing them from files, and looking at them and their types."""

from __future__ import annotations

import json
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import typer
from rich.text import Text

from cli.output import Json, err, moment, out, print_json, print_table, printable, say
from cli.session import commit, open_studio
from stemma.access.principal import local_principal
from stemma.errors import CheckFailed, InvalidInput
from stemma.progress import Progress

app = typer.Typer(help="Events: facts from outside.", no_args_is_help=True)
types_app = typer.Typer(help="Event types: what the data of events look like.", no_args_is_help=True)
app.add_typer(types_app, name="types")

Limit = Annotated[int, typer.Option(min=1, max=200, help="How many.")]
Cursor = Annotated[str | None, typer.Option(help="`next_cursor` of the page before.")]
TypeName = Annotated[str, typer.Option("--type", help="A published event type.")]
Entity = Annotated[str | None, typer.Option(help="What or whom it is about.")]
_REJECTED = ".rejected.csv"


class Service(StrEnum):
    """Where adapters read."""

    GITHUB = "github"
    STRIPE = "stripe"


@app.command()
def record(
    type_name: TypeName,
    data: Annotated[str, typer.Option(help="What its type asks for, as a JSON object.")],
    entity: Entity = None,
    correlation: Annotated[str | None, typer.Option(help="What it belongs together with.")] = None,
    at: Annotated[str | None, typer.Option(help="When it occurred, such as 2026-01-31T12:00:00Z.")] = None,
    event_id: Annotated[UUID | None, typer.Option("--id", help="Its id: sent again, it is recorded once.")] = None,
    as_json: Json = False,
) -> None:
    """Record an event."""
    from stemma.governance.events import recording
    from stemma.governance.events.model import NewEvent

    event = NewEvent(
        type_name, parsed_object(data, "--data"), parsed_time(at, "--at"), entity, correlation, event_id or uuid4()
    )
    settings, database = open_studio()
    with database:
        (recorded,) = commit(settings, database, lambda c: recording.record(c, local_principal(), [event]))
    if as_json:
        print_json(recorded)
    else:
        say(f"{recorded.type} {recorded.id} is recorded.")
        say(f"sha256 {recorded.sha256}")


@app.command("list")
def list_events(
    type_name: Annotated[str | None, typer.Option("--type", help="Only of this type.")] = None,
    entity: Annotated[str | None, typer.Option(help="Only about this.")] = None,
    correlation: Annotated[str | None, typer.Option(help="Only what belongs to this.")] = None,
    since: Annotated[str | None, typer.Option(help="Only what occurred then or later.")] = None,
    until: Annotated[str | None, typer.Option(help="Only what occurred before.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
) -> None:
    """List events, the last received first."""
    from stemma.governance.events import catalog

    begin, end = parsed_time(since, "--since"), parsed_time(until, "--until")
    _, database = open_studio()
    with database:
        page = database.read(
            lambda connection: catalog.list_events(
                connection,
                type=type_name,
                entity=entity,
                correlation_id=correlation,
                since=begin,
                until=end,
                cursor=cursor,
                limit=limit,
            )
        )
    if as_json:
        print_json(page)
        return
    rows = [(str(e.id), e.type, moment(e.occurred_at), e.entity, e.correlation_id) for e in page.data]
    print_table("Events", ("id", "type", "occurred", "entity", "correlation"), rows, empty="No events.")
    _say_more(page.next_cursor)


@app.command()
def show(event_id: Annotated[UUID, typer.Argument(metavar="ID", help="The event.")], as_json: Json = False) -> None:
    """Show an event."""
    from stemma.governance.events import catalog

    _, database = open_studio()
    with database:
        event = database.read(lambda connection: catalog.get_event(connection, event_id))
    if as_json:
        print_json(event)
        return
    out.print(Text(f"{event.type} {event.id}", style="bold"))
    facts = {
        "occurred": moment(event.occurred_at),
        "received": f"{moment(event.received_at)} from {event.actor}",
        "version": event.type_version,
        "entity": event.entity or "",
        "belongs": event.correlation_id or "",
        "sha256": event.sha256,
    }
    for name, value in facts.items():
        out.print(Text(f"  {name:<9} ", style="dim") + Text(printable(value)), soft_wrap=True)
    say(json.dumps(event.data, ensure_ascii=False, indent=2))


@app.command("import")
def import_events(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV (UTF-8, with a header) or Parquet.")],
    type_name: TypeName,
    time: Annotated[str, typer.Option(help="The column with the time; one without a zone is UTC.")] = "occurred_at",
    entity: Annotated[str | None, typer.Option(help="The column with the entity; `entity` where there is one.")] = None,
    correlation: Annotated[
        str | None, typer.Option(help="The column with the correlation id; `correlation_id` where there is one.")
    ] = None,
    event_id: Annotated[
        str | None, typer.Option("--id", help="The column that tells rows apart; else what they say does.")
    ] = None,
    mapping: Annotated[
        list[str] | None, typer.Option("--map", help="MEMBER=COLUMN, for members of the data with another name.")
    ] = None,
    rejected: Annotated[
        Path | None, typer.Option(help="Where rejected rows go; default: FILE.rejected.csv, beside FILE.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Import a file's rows as events; done again, it records what is missing. Ends with 6 when rows are rejected."""
    from stemma.governance.events.importing import Columns, import_file
    from stemma.ledger.service import Ledger

    columns = Columns(time, entity, correlation, event_id, _mapping(mapping or []))
    settings, database = open_studio()
    with database, Ledger(database.urls, settings) as ledger:
        imported = import_file(
            database,
            ledger,
            local_principal(),
            file,
            type=type_name,
            columns=columns,
            rejected_to=rejected or file.with_name(f"{file.name}{_REJECTED}"),
            report=_report,
        )
    if as_json:
        print_json(imported)
    else:
        to = f" to {imported.rejected_to}" if imported.rejected_to else ""
        kept = f"{imported.recorded:,} recorded, {imported.known:,} there already"
        say(f"{imported.rows:,} rows: {kept}, {imported.rejected:,} rejected{to}.")
        if imported.ignored:
            say(f"Columns not looked at: {', '.join(imported.ignored)}.")
    if imported.rejected:
        raise typer.Exit(CheckFailed.exit_code)


@app.command()
def sync(
    service: Annotated[Service, typer.Argument(help="Where to read.")],
    repository: Annotated[str | None, typer.Option(help="Of GitHub: owner/name.")] = None,
    as_json: Json = False,
) -> None:
    """Record what happened in another service since it was read last: Stripe's invoices, GitHub's issues."""
    from stemma.governance.adapters.github import GitHubIssues, open_github
    from stemma.governance.adapters.stripe import StripeInvoices, open_stripe
    from stemma.governance.adapters.syncing import sync as synced
    from stemma.ledger.service import Ledger

    if (service is Service.GITHUB) != (repository is not None):
        raise InvalidInput(
            "repository_invalid", "A repository is named for GitHub, and only there.", field="repository"
        )
    settings, database = open_studio()
    service_of = open_github if repository else open_stripe
    with service_of(settings) as web, database, Ledger(database.urls, settings) as ledger:
        adapter = GitHubIssues(web, repository) if repository else StripeInvoices(web)
        done = synced(database, ledger, local_principal(), adapter)
    if as_json:
        print_json(done)
    else:
        say(f"{done.source}: {done.read:,} read, {done.recorded:,} recorded.")


@types_app.command()
def publish(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An event type, as YAML.")], as_json: Json = False
) -> None:
    """Publish a version for good. The same content again changes nothing."""
    from stemma.governance.events import types
    from stemma.store.files import read_local

    text = _decoded(read_local(file))
    types.read(text)
    settings, database = open_studio()
    with database:
        published = commit(settings, database, lambda c: types.publish(c, local_principal(), text))
    if as_json:
        print_json(published)
    else:
        say(f"{published.reference} is published.")
        say(f"sha256 {published.sha256}")


@types_app.command("list")
def list_types(limit: Limit = 50, cursor: Cursor = None, as_json: Json = False) -> None:
    """List the published event types."""
    from stemma.governance.events.types import KIND
    from stemma.registry import catalog

    _, database = open_studio()
    with database:
        page = database.read(lambda connection: catalog.list_newest(connection, KIND, cursor=cursor, limit=limit))
    if as_json:
        print_json(page)
        return
    rows = [(v.name, v.version, moment(v.published_at), v.published_by, v.changelog) for v in page.data]
    print_table("Event types", ("name", "version", "published", "by", "changelog"), rows, empty="No event types.")
    _say_more(page.next_cursor)


@types_app.command("show")
def show_type(
    reference: Annotated[str, typer.Argument(help="Name, Name@1, Name@1.2 or Name@1.2.3.")], as_json: Json = False
) -> None:
    """Show what a reference resolves to."""
    from stemma.governance.events import types

    _, database = open_studio()
    with database:
        published = database.read(lambda connection: types.find(connection, reference))
    if as_json:
        print_json(published)
        return
    out.print(Text(published.reference, style="bold"))
    facts = {
        "sha256": published.sha256,
        "published": f"{moment(published.published_at)} by {published.published_by}",
        "changelog": published.changelog,
    }
    for name, value in facts.items():
        out.print(Text(f"  {name:<9} ", style="dim") + Text(printable(value)), soft_wrap=True)
    say(json.dumps(published.content, ensure_ascii=False, indent=2))


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput("file_not_utf8", f"It is not UTF-8 at byte {error.start}.", field="FILE") from error


def _report(progress: Progress) -> None:
    say(str(progress), console=err)


def _mapping(given: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for member, _, column in pairs:
        if not member or not column:
            raise InvalidInput("mapping_invalid", "It names no member and column.", field="--map", hint="Write a=b.")
    return {member: column for member, _, column in pairs}


def parsed_object(text: str, option: str) -> dict[str, Any]:
    """The JSON object that a text is; raises InvalidInput that names the option."""
    hint = f"""Write it as in {option} '{{"amount": 3}}'."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("json_invalid", f"It is not JSON: {error}.", field=option, hint=hint) from error
    if not isinstance(given, dict):
        raise InvalidInput("json_invalid", "It is not a JSON object.", field=option, hint=hint)
    return given


def parsed_time(text: str | None, option: str) -> datetime | None:
    """The time that a text is, where there is one; raises InvalidInput that names the option."""
    try:
        at = datetime.fromisoformat(text) if text is not None else None
        if at is not None and at.tzinfo is None:
            raise ValueError("without a zone")
    except ValueError as error:
        hint = "Write it with its offset, such as 2026-01-31T12:00:00Z."
        raise InvalidInput("time_invalid", f"{text!r} is no time that can be used.", field=option, hint=hint) from error
    return at


def _say_more(cursor: str | None) -> None:
    if cursor:
        out.print(Text(f"more: --cursor {cursor}", style="dim"), soft_wrap=True)
