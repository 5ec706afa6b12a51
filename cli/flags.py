"""`stemma flags`: stopping a node, or all of them, and steering what they do."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.output import Json, moment, print_json, print_table, say
from cli.session import commit, open_studio
from stemma.access.principal import local_principal

app = typer.Typer(help="What stops and steers nodes at once.", no_args_is_help=True)

Node = Annotated[str, typer.Argument(help="A node, or `*` for all of them.")]
Flag = Annotated[str, typer.Argument(help="stopped, learning, policy or shadow.")]
Reason = Annotated[str, typer.Option(help="Why.")]


@app.command("list")
def list_flags(as_json: Json = False) -> None:
    """List the flags that are set."""
    from stemma.governance.decisions import flags

    _, database = open_studio()
    with database:
        found = database.read(flags.list_flags)
    if as_json:
        print_json({"data": found})
        return
    rows = [(one.node, one.flag, str(one.value), one.reason, one.set_by, moment(one.set_at)) for one in found]
    print_table("Flags", ("node", "flag", "value", "reason", "by", "since"), rows, empty="No flag is set.")


@app.command("set")
def set_flag(
    node: Node,
    flag: Flag,
    value: Annotated[str, typer.Argument(help="true or false, or the reference of a policy.")],
    reason: Reason,
    as_json: Json = False,
) -> None:
    """Set a flag; it holds for every decision that is committed after it."""
    _set(node, flag, {"true": True, "false": False}.get(value, value), reason, as_json=as_json)


@app.command()
def stop(
    reason: Reason,
    node: Annotated[str, typer.Argument(help="A node; default: all of them.")] = "*",
    as_json: Json = False,
) -> None:
    """Have a node, or all of them, approve nothing alone from now on: the kill switch."""
    _set(node, "stopped", True, reason, as_json=as_json)


@app.command()
def clear(node: Node, flag: Flag, reason: Reason, as_json: Json = False) -> None:
    """Take a flag away."""
    from stemma.governance.decisions import flags

    settings, database = open_studio()
    with database:
        was = commit(settings, database, lambda c: flags.clear_flag(c, local_principal(), node, flag, reason))
    if as_json:
        print_json(was)
    else:
        say(f"{was.flag} is no longer set on {was.node}.")


def _set(node: str, flag: str, value: object, reason: str, *, as_json: bool) -> None:
    from stemma.governance.decisions import flags

    settings, database = open_studio()
    with database:
        made = commit(settings, database, lambda c: flags.set_flag(c, local_principal(), node, flag, value, reason))
    if as_json:
        print_json(made)
    else:
        say(f"{made.flag} is {made.value} on {made.node}.")
