"""`stemma historian`: the studio's journal of state transitions, as a list or as it is written."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import Json, moment, plain, print_json, print_table, say
from cli.session import open_studio
from stemma.errors import InvalidInput

if TYPE_CHECKING:
    from stemma.ledger.entries import Entry


def add_commands(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command()(historian)


def historian(
    kind: Annotated[str | None, typer.Option(help="A kind, or the first word of several with its dot: key.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only what changed this.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only what this one did.")] = None,
    since: Annotated[
        str | None, typer.Option(help="From this time on, such as 2026-01-31 or 2026-01-31T06:00; UTC without offset.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many, the newest first.")] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print what comes from now on, or since that time, until Ctrl-C.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what changed in the studio and who changed it; with --follow and --json, one JSON document a line."""
    from stemma.ledger import feed
    from stemma.ledger.journal import HISTORIAN

    wanted = feed.Filter(kind, subject, actor, _time(since))
    _, database = open_studio()
    with database:
        if follow:
            with database.snapshot() as connection:
                start = 0 if since else feed.tail(connection, HISTORIAN)
            for entry in feed.follow(database.urls, HISTORIAN, wanted, start):
                _print_line(entry, as_json=as_json)
            return
        with database.snapshot() as connection:
            page = feed.list_entries(connection, HISTORIAN, wanted, limit=limit)
    if as_json:
        print_json([_document(entry) for entry in page.data])
        return
    rows = [(moment(e.created_at), e.kind, e.subject, e.actor, _data(e)) for e in page.data]
    print_table("Historian", ("at", "kind", "subject", "actor", "data"), rows, empty="Nothing of this is recorded.")


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        hint = "Write 2026-01-31 or 2026-01-31T06:00:00+01:00."
        raise InvalidInput("time_invalid", f"{text!r} is no time.", field="--since", hint=hint) from error


def _document(entry: Entry) -> dict[str, Any]:
    return {
        "seq": entry.seq,
        "id": str(entry.id),
        "kind": entry.kind,
        "subject": entry.subject,
        "actor": entry.actor,
        "at": plain(entry.created_at.astimezone(UTC)),
        "data": entry.data,
    }


def _data(entry: Entry) -> str:
    return json.dumps(entry.data, ensure_ascii=False)


def _print_line(entry: Entry, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(_document(entry), ensure_ascii=False) + "\n")
    else:
        say(f"{moment(entry.created_at)}  {entry.kind}  {entry.subject}  {entry.actor}  {_data(entry)}")
    # Whoever reads a pipe sees it now.
    sys.stdout.flush()
