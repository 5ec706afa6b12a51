"""`stemma keys`: API keys, and the key that signs the ledger's heads."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from cli.durations import duration
from cli.output import Json, plain, print_json, print_table, say
from cli.session import commit, commit_all, open_studio
from stemma.errors import InvalidInput, NotFound
from stemma.store.settings import load_settings

if TYPE_CHECKING:
    from stemma.access.catalog import ApiKey
    from stemma.access.keys import IssuedKey
    from stemma.ledger.change import Change
    from stemma.store.database import Connection

app = typer.Typer(help="API keys, and the key that signs the ledger's heads.", no_args_is_help=True)

_ID_HELP = "The key's id, as `stemma keys list` shows it."


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    role: Annotated[str, typer.Option(help="Such as Owner, Builder or Viewer; docs/SECURITY.md has the table.")],
    scope: Annotated[list[str], typer.Option(help="Such as 'search:*' or ingest:write; may be given more than once.")],
    expires_in: Annotated[str | None, typer.Option(help="Such as 30m, 12h, 90d or 52w; default: never.")] = None,
    signed_only: Annotated[
        bool, typer.Option("--signed-only", help="Refuse it as a bearer token: its requests are signed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Create an API key and show its secrets, this one time."""
    from stemma.access import keys
    from stemma.access.principal import local_principal

    wanted = keys.NewKey(name, role, scope, _expiry(expires_in), signed_only)
    settings, database = open_studio()
    with database:
        issued = commit(settings, database, lambda c: keys.create_key(c, local_principal(), wanted, settings))
    _show(issued, as_json=as_json)


@app.command("list")
def list_all(as_json: Json = False) -> None:
    """List the API keys; nothing of their secrets is known."""
    from stemma.access.catalog import every_key

    now = datetime.now(UTC)
    _, database = open_studio()
    with database:
        found = database.read(every_key)
    if as_json:
        print_json([{**plain(key), "state": key.state(now)} for key in found])
        return
    rows = [(str(k.id), k.name, "\n".join((k.role, *k.scopes)), _state(k, now)) for k in found]
    columns = ("id", "name", "role and scopes", "state")
    print_table("API keys", columns, rows, empty="No API keys. `stemma keys create --help` says how to make one.")


@app.command()
def rotate(key_id: Annotated[UUID, typer.Argument(metavar="ID", help=_ID_HELP)], as_json: Json = False) -> None:
    """Give an API key a new secret and show it, this one time; the old one is refused at once."""
    from stemma.access import keys
    from stemma.access.principal import local_principal

    settings, database = open_studio()
    with database:
        issued = commit(settings, database, lambda c: keys.rotate_key(c, local_principal(), key_id, settings))
    _show(issued, as_json=as_json)


@app.command()
def revoke(
    key_id: Annotated[UUID | None, typer.Argument(metavar="[ID]", help=_ID_HELP)] = None,
    every: Annotated[bool, typer.Option("--all", help="Every key, as after the loss of STEMMA_HOME/keys.")] = False,
    as_json: Json = False,
) -> None:
    """End an API key for ever; it is refused at once."""
    from stemma.access import keys
    from stemma.access.catalog import every_key
    from stemma.access.principal import local_principal

    if (key_id is None) != every:
        raise InvalidInput("usage_invalid", "Name a key or say --all.", hint="`stemma keys list` lists the keys.")

    def changes(connection: Connection) -> list[Change[ApiKey]]:
        ids = [key_id] if key_id else [key.id for key in every_key(connection) if key.revoked_at is None]
        return [keys.revoke_key(connection, local_principal(), one) for one in ids]

    settings, database = open_studio()
    with database:
        revoked = commit_all(settings, database, changes)
    if as_json:
        print_json(revoked)
    elif not revoked:
        say("There was no key to revoke.")
    else:
        for key in revoked:
            say(f"Revoked {key.name} ({key.id}).")


@app.command()
def public(as_json: Json = False) -> None:
    """Print the public keys that signed heads and receipts, oldest first, as PEM to give away."""
    from stemma.ledger.keys import public_keys

    keys = public_keys(load_settings())
    if not keys:
        raise NotFound("no_public_key", "There is no key yet.", hint="One is made when the ledger is first signed.")
    if as_json:
        print_json([{"key_id": key.key_id, "created_at": key.created_at, "pem": key.pem} for key in keys.values()])
    else:
        sys.stdout.write("".join(key.pem for key in keys.values()))


@app.command("rotate-signing")
def rotate_signing(
    lost: Annotated[
        bool, typer.Option("--lost", help="The old key is gone: begin without its signature, which verify then says.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Sign the ledger's heads with a new key; the old one vouches for it and its heads stay verifiable."""
    from stemma.ledger.keys import rotate_signing_key

    key = rotate_signing_key(load_settings(), lost=lost)
    if as_json:
        print_json(key)
    else:
        vouched = f"vouched for by {key.previous}" if key.previous else "with no key before it"
        say(f"Heads are signed with {key.key_id} from now on, {vouched}.")


def _expiry(expires_in: str | None) -> datetime | None:
    if expires_in is None:
        return None
    lasting = duration(expires_in, "--expires-in")
    try:
        return datetime.now(UTC) + lasting
    except OverflowError as error:
        what = f"{expires_in!r} is longer than the calendar."
        raise InvalidInput("duration_invalid", what, field="--expires-in", hint="Leave it out: never.") from error


def _state(key: ApiKey, now: datetime) -> str:
    end = key.expires_at.astimezone(UTC).date().isoformat() if key.expires_at else ""
    return f"{key.state(now)}\nto {end}" if end else key.state(now)


def _show(issued: IssuedKey, *, as_json: bool) -> None:
    if as_json:
        print_json({**plain(issued.api_key), "key": issued.key, "signing_secret": issued.signing_secret})
        return
    say(f"Key             {issued.key}")
    say(f"Signing secret  {issued.signing_secret}")
    say(f"Id              {issued.api_key.id}")
    say("Store them now: they are shown this once and kept nowhere.")
