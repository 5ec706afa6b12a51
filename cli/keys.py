"""`stemma keys`: the studio's keys."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli.output import Json, print_json, say
from stemma.errors import NotFound
from stemma.store.settings import load_settings

app = typer.Typer(help="The studio's keys.", no_args_is_help=True)


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
