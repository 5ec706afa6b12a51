"""`stemma sign-in` and `stemma sessions`: a link that signs a browser in, and the sessions there are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from cli.output import Json, moment, plain, print_json, print_table, say
from cli.session import commit, commit_all, open_studio
from stemma.errors import InvalidInput

if TYPE_CHECKING:
    from stemma.access.sessions import KnownSession
    from stemma.ledger.change import Change
    from stemma.store.database import Connection

app = typer.Typer(help="Browsers that are signed in.", no_args_is_help=True)


def add_commands(root: typer.Typer) -> None:
    """Register the commands of this module."""
    root.command("sign-in")(sign_in)
    root.add_typer(app, name="sessions")


def sign_in(as_json: Json = False) -> None:
    """Print a link that signs one browser on this machine in, once, within 15 minutes."""
    from stemma.access import links
    from stemma.access.principal import local_principal

    settings, database = open_studio()
    with database:
        link = commit(settings, database, lambda c: links.make_link(c, local_principal(), settings))
    if as_json:
        print_json(link)
    else:
        say(link.url)
        say(f"It signs in once, until {moment(link.expires_at)}, while `stemma up` runs.")


@app.command("list")
def list_all(
    key_id: Annotated[UUID | None, typer.Option("--key", metavar="ID", help="Only those of this key.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many.")] = 50,
    as_json: Json = False,
) -> None:
    """List the sessions, the newest first, those that are over too."""
    from stemma.access.sessions import list_sessions

    now = datetime.now(UTC)
    settings, database = open_studio()
    idle = timedelta(seconds=settings.session_idle_seconds)
    with database:
        found = database.read(lambda connection: list_sessions(connection, key_id=key_id, limit=limit)).data
    if as_json:
        print_json([_shown(session, session.state(now, idle)) for session in found])
        return
    rows = [
        (str(s.id), f"{s.key_name}\n{s.role}", moment(s.created_at), moment(s.last_used_at), s.state(now, idle))
        for s in found
    ]
    print_table("Sessions", ("id", "key", "since", "last used", "state"), rows, empty="Nobody has signed in.")


@app.command()
def end(
    session_id: Annotated[
        UUID | None, typer.Argument(metavar="[ID]", help="As `stemma sessions list` shows it.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every session that is not ended.")] = False,
    as_json: Json = False,
) -> None:
    """End a session at once; to keep its holder out, revoke the key."""
    from stemma.access import sessions
    from stemma.access.principal import local_principal

    if (session_id is None) != every:
        raise InvalidInput("usage_invalid", "Name a session or say --all.", hint="`stemma sessions list` lists them.")

    def changes(connection: Connection) -> list[Change[KnownSession]]:
        ids = [session_id] if session_id else sessions.not_ended(connection)
        return [sessions.end(connection, local_principal(), one) for one in ids]

    settings, database = open_studio()
    with database:
        ended = commit_all(settings, database, changes)
    if as_json:
        print_json([_shown(session, "ended") for session in ended])
    elif not ended:
        say("There was no session to end.")
    else:
        for session in ended:
            say(f"Ended {session.id} of the key {session.key_name}.")


def _shown(session: KnownSession, state: str) -> dict[str, Any]:
    hidden = ("token_hmac", "key_rotated_at", "key_rotated_now")
    return {name: value for name, value in plain(session).items() if name not in hidden} | {"state": state}
