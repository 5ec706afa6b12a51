"""`stemma webhooks`: who may send signed webhooks, and which kind of job they ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import Json, moment, plain, print_json, print_table, say
from cli.session import commit, open_studio
from stemma.access.principal import local_principal

if TYPE_CHECKING:
    from stemma.notify.sources import IssuedSource

app = typer.Typer(help="Who may send signed webhooks, and which jobs they ask for.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The source's name, the last part of its address.")]


@app.command()
def add(
    name: Name,
    kind: Annotated[str, typer.Option(help="The kind of job that a webhook asks for.")],
    pointer: Annotated[
        str, typer.Option("--input", help="JSON Pointer of the job's input in the body; default: the whole body.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Add a source and show its secret, this one time."""
    from stemma.notify import sources

    settings, database = open_studio()
    with database:
        issued = commit(
            settings,
            database,
            lambda connection: sources.add(
                connection, local_principal(), settings, name=name, job_kind=kind, input_pointer=pointer
            ),
        )
    _show(issued, as_json=as_json)


@app.command("list")
def list_all(as_json: Json = False) -> None:
    """List the sources; their secrets are not shown."""
    from stemma.notify.sources import list_sources

    _, database = open_studio()
    with database:
        found = database.read(list_sources)
    if as_json:
        print_json(found)
        return
    rows = [(s.name, s.job_kind, s.input_pointer, s.created_by, moment(s.rotated_at)) for s in found]
    columns = ("name", "job", "input at", "added by", "rotated")
    print_table("Webhook sources", columns, rows, empty="No webhook sources.")


@app.command()
def rotate(
    name: Name,
    at_once: Annotated[bool, typer.Option("--at-once", help="Refuse the old secret now, as when it leaked.")] = False,
    as_json: Json = False,
) -> None:
    """Give a source a new secret and show it, this one time; the old one is taken for 24 hours more."""
    from stemma.notify import sources

    settings, database = open_studio()
    with database:
        issued = commit(
            settings, database, lambda c: sources.rotate(c, local_principal(), settings, name, at_once=at_once)
        )
    _show(issued, as_json=as_json)


@app.command()
def remove(name: Name, as_json: Json = False) -> None:
    """Take nothing from a source any more."""
    from stemma.notify import sources

    settings, database = open_studio()
    with database:
        removed = commit(settings, database, lambda c: sources.remove(c, local_principal(), name))
    if as_json:
        print_json(removed)
    else:
        say(f"Removed {removed.name}.")


def _show(issued: IssuedSource, *, as_json: bool) -> None:
    if as_json:
        print_json({**plain(issued.source), "secret": issued.secret})
        return
    say(f"Secret   {issued.secret}")
    say(f"Address  /api/v1/webhooks/{issued.source.name}")
    say("Store the secret now: it is shown this once.")
