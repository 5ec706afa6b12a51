"""`stemma memory`: what agents remember of whoever runs the command, of others, and of everybody."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer
from rich.text import Text

from cli.output import Json, moment, out, plain, print_json, print_table, say
from cli.session import commit, open_studio
from stemma.access.principal import local_principal

if TYPE_CHECKING:
    from stemma.agents.memory.storing import Forgotten
    from stemma.agents.model import Tier

app = typer.Typer(help="What agents remember.", no_args_is_help=True)

Agent = Annotated[str, typer.Argument(metavar="AGENT", help="Such as nova.")]
Id = Annotated[UUID, typer.Argument(metavar="ID", help="The memory, as `stemma memory list` shows it.")]
Owner = Annotated[str | None, typer.Option(help="Whose, as an actor such as key:…; by default your own.")]
TierOption = Annotated[str | None, typer.Option(help="short_term, episodic, semantic or vector; by default all.")]

_SHOWN = 100


@app.command("list")
def list_all(
    agent: Agent,
    owner: Owner = None,
    tier: TierOption = None,
    pinned: Annotated[bool, typer.Option("--pinned", help="Only what is pinned.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="`next_cursor` of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """List what an agent remembers, the newest first: your own and what is shared."""
    from stemma.agents import roster
    from stemma.agents.memory import catalog

    name, of = roster.load().find(agent).name, _tier(tier)
    _, database = open_studio()
    with database:
        page = database.read(
            lambda connection: catalog.list_memories(
                connection,
                local_principal(),
                name,
                owner=owner,
                tier=of,
                pinned=pinned,
                cursor=cursor,
                limit=limit,
            )
        )
    if as_json:
        print_json(page)
        return
    rows = [
        (
            str(memory.id),
            memory.tier,
            memory.owner or "everybody",
            moment(memory.created_at),
            "pinned" if memory.pinned else "",
            " ".join(memory.text.split())[:_SHOWN],
        )
        for memory in page.data
    ]
    print_table(f"What {name} remembers", ("id", "tier", "of", "since", "", "text"), rows, empty="Nothing.")
    if page.next_cursor:
        out.print(Text(f"more: --cursor {page.next_cursor}", style="dim"), soft_wrap=True)


@app.command()
def add(
    agent: Agent,
    text: Annotated[str, typer.Argument(help="What to remember; redacted before it is stored.")],
    passage: Annotated[bool, typer.Option("--passage", help="A passage that is found by nearness, no fact.")] = False,
    shared: Annotated[bool, typer.Option("--shared", help="With everybody who calls the agent.")] = False,
    pinned: Annotated[bool, typer.Option("--pin", help="It stays, and is recalled before all else.")] = False,
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="How long; by default until forgotten.")] = None,
    as_json: Json = False,
) -> None:
    """Have an agent remember something."""
    from stemma.agents import roster
    from stemma.agents.memory import storing
    from stemma.agents.memory.vectors import Encoder

    name = roster.load().find(agent).name
    given = storing.Given(text, "vector" if passage else "semantic", shared, pinned, days)
    settings, database = open_studio()
    encoder = Encoder(settings)
    with database:
        memory = commit(settings, database, lambda c: storing.give(c, local_principal(), name, given, encoder))
    if as_json:
        print_json(memory)
    else:
        say(f"{name} remembers {memory.id}: {memory.text}")


@app.command()
def pin(agent: Agent, memory_id: Id, as_json: Json = False) -> None:
    """Have a memory stay, and be recalled before all else."""
    _pin(agent, memory_id, pinned=True, as_json=as_json)


@app.command()
def unpin(agent: Agent, memory_id: Id, as_json: Json = False) -> None:
    """Have a memory be recalled and expire as the others."""
    _pin(agent, memory_id, pinned=False, as_json=as_json)


@app.command()
def forget(
    agent: Agent,
    memory_id: Annotated[UUID | None, typer.Argument(metavar="ID", help="One memory; else --all.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of the owner.")] = False,
    owner: Owner = None,
    shared: Annotated[bool, typer.Option("--shared", help="With --all: what everybody shares.")] = False,
    tier: TierOption = None,
    as_json: Json = False,
) -> None:
    """Have an agent forget a memory, with what was distilled from it, or all of an owner's."""
    from stemma.agents import roster
    from stemma.agents.memory import storing
    from stemma.errors import InvalidInput

    if (memory_id is None) != everything:
        raise InvalidInput("usage_invalid", "Name one memory, or --all.", hint="`stemma memory list` shows them.")
    name, of, me = roster.load().find(agent).name, _tier(tier), local_principal()
    whose = None if shared else owner or me.actor
    settings, database = open_studio()
    with database:
        forgotten: Forgotten = commit(
            settings,
            database,
            lambda c: (
                storing.forget_all(c, me, name, owner=whose, tier=of)
                if memory_id is None
                else storing.forget(c, me, name, memory_id)
            ),
        )
    if as_json:
        print_json(forgotten)
    else:
        say(f"{name} forgot {forgotten.memories:,} of {forgotten.owner or 'everybody'}.")


@app.command()
def export(
    agent: Agent,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write, as JSON Lines.")],
    owner: Owner = None,
    as_json: Json = False,
) -> None:
    """Write all that an agent remembers of an owner into a file."""
    import json

    from stemma.agents import roster
    from stemma.agents.memory import catalog
    from stemma.store.files import storage_error

    name, me = roster.load().find(agent).name, local_principal()
    _, database = open_studio()
    with database, database.snapshot() as connection:
        lines = [
            json.dumps(plain(memory), ensure_ascii=False)
            for memory in catalog.each_memory(connection, me, name, owner or me.actor)
        ]
    try:
        output.expanduser().write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise storage_error(error) from error
    if as_json:
        print_json({"file": output, "memories": len(lines)})
    else:
        say(f"{output}: {len(lines):,} memories.")


def _pin(agent: str, memory_id: UUID, *, pinned: bool, as_json: bool) -> None:
    from stemma.agents import roster
    from stemma.agents.memory import storing

    name = roster.load().find(agent).name
    settings, database = open_studio()
    with database:
        memory = commit(settings, database, lambda c: storing.pin(c, local_principal(), name, memory_id, pinned=pinned))
    if as_json:
        print_json(memory)
    else:
        say(f"{memory.id} is {'pinned' if memory.pinned else 'not pinned any more'}.")


def _tier(name: str | None) -> Tier | None:
    from typing import get_args

    from stemma.agents import model
    from stemma.errors import InvalidInput

    known: dict[str | None, Tier] = {tier: tier for tier in get_args(model.Tier)}
    if name is not None and name not in known:
        hint = f"There are {', '.join(map(str, known))}."
        raise InvalidInput("tier_unknown", f"There is no tier {name!r}.", field="--tier", hint=hint)
    return known.get(name)
