"""`stemma vault`: the secrets of agents. A value is read from a prompt or standard input, and never shown."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from pydantic import SecretStr

from cli.output import Json, moment, print_json, print_table, say
from cli.session import commit, open_studio
from stemma.access.principal import local_principal
from stemma.errors import InvalidInput

app = typer.Typer(help="The secrets of agents, sealed.", no_args_is_help=True)

Agent = Annotated[str, typer.Argument(help="The agent whose secret it is.")]
Name = Annotated[str, typer.Argument(help="Such as GITHUB_TOKEN.")]


@app.command("set")
def set_secret(agent: Agent, name: Name, as_json: Json = False) -> None:
    """Give an agent a secret, typed in or from standard input; one of the same name is replaced."""
    from stemma.agents.vault import secrets

    value = _value()
    settings, database = open_studio()
    with database:
        made = commit(
            settings, database, lambda c: secrets.set_secret(c, local_principal(), settings, agent, name, value)
        )
    if as_json:
        print_json(made)
    else:
        say(f"{made.agent} has {made.name}.")


@app.command("list")
def list_all(
    agent: Annotated[str | None, typer.Option(help="Only the secrets of this agent.")] = None, as_json: Json = False
) -> None:
    """List the secrets by name; their values are shown nowhere."""
    from stemma.agents.vault import secrets

    _, database = open_studio()
    with database:
        found = database.read(lambda connection: secrets.list_secrets(connection, agent))
    if as_json:
        print_json({"data": found})
        return
    rows = [(one.agent, one.name, one.set_by, moment(one.set_at)) for one in found]
    print_table("Secrets of agents", ("agent", "name", "set by", "at"), rows, empty="No agent has a secret.")


@app.command()
def rotate(as_json: Json = False) -> None:
    """Seal every secret under a new key: the first of STEMMA_VAULT_KEY, or one in STEMMA_HOME/keys."""
    from stemma.agents.vault import master_keys, secrets

    settings, database = open_studio()
    with database:
        done = commit(settings, database, lambda c: secrets.rotate(c, local_principal(), settings))
    master_keys.drop_other_keys(settings, done.key_id)
    if as_json:
        print_json(done)
    else:
        say(f"Sealed {done.sealed} secrets under the key {done.key_id}. Backups hold the key before it.")


@app.command()
def remove(agent: Agent, name: Name, as_json: Json = False) -> None:
    """Take a secret from an agent."""
    from stemma.agents.vault import secrets

    settings, database = open_studio()
    with database:
        removed = commit(settings, database, lambda c: secrets.remove_secret(c, local_principal(), agent, name))
    if as_json:
        print_json(removed)
    else:
        say(f"{removed.agent} has {removed.name} no more.")


def _value() -> SecretStr:
    """What was typed, or standard input without the line's end: an argument would stand in the shell's history."""
    if sys.stdin.isatty():
        return SecretStr(typer.prompt("Value", hide_input=True, err=True))
    try:
        return SecretStr(sys.stdin.read().removesuffix("\n"))
    except UnicodeDecodeError:
        raise InvalidInput("secret_invalid", "A secret is text in UTF-8.", field="value") from None
