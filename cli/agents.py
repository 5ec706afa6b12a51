"""`stemma agent`: who the agents are, asking them, and what they were asked."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID, uuid4

import typer
from rich.text import Text

from cli.output import Json, moment, out, print_json, print_table, printable, say
from cli.session import commit, open_studio
from stemma.access.permissions import Role
from stemma.access.principal import local_principal
from stemma.errors import CheckFailed, InvalidInput, StemmaError

if TYPE_CHECKING:
    from stemma.agents.model import Agent, Call
    from stemma.store.database import Database
    from stemma.store.settings import Settings

app = typer.Typer(help="Agents: asking them, and what they were asked.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="AGENT", help="The agent, such as nova.")]

_PING = "Who are you, and what do you do?"
_SHOWN = 60


@app.command("list")
def list_agents(as_json: Json = False) -> None:
    """List the agents."""
    from stemma.agents import roster

    agents = list(roster.load())
    if as_json:
        print_json(agents)
        return
    rows = [(a.name, a.purpose, ", ".join(sorted(a.tools)), ", ".join(a.roles)) for a in agents]
    print_table("Agents", ("name", "purpose", "tools", "answers"), rows, empty="There are none.")


@app.command()
def ask(
    name: Name,
    question: Annotated[str, typer.Argument(help="What to ask; - reads it from standard input.")],
    context: Annotated[str | None, typer.Option(help="Facts that belong to the question, as a JSON object.")] = None,
    role: Annotated[Role | None, typer.Option(help="Ask in this lesser role.")] = None,
    memory: Annotated[bool, typer.Option(help="Recall what is remembered, and remember this.")] = True,
    as_json: Json = False,
) -> None:
    """Ask an agent; its answer is printed as it comes."""
    from stemma.agents import roster
    from stemma.agents.asking import narrowed
    from stemma.agents.model import Call

    call = Call(
        agent=roster.load().find(name),
        principal=narrowed(local_principal(), role),
        request_id=uuid4().hex,
        route="cli agent ask",
        asked=sys.stdin.read() if question == "-" else question,
        context=_context(context),
        memory=memory,
    )
    settings, database = open_studio()
    with database:
        asyncio.run(_ask(settings, database, call, as_json=as_json))


async def _ask(settings: Settings, database: Database, call: Call, *, as_json: bool) -> None:
    from stemma.agents.opening import open_relay
    from stemma.agents.running import said_of

    async with open_relay(settings, database) as (relay, _):
        running = await relay.begin(call)
        try:
            if not as_json:
                async for kind, data in running.stream.follow():
                    _print_event(kind, data)
            answer = await running.answer()
        except asyncio.CancelledError:
            running.stop()
            raise
        if as_json:
            print_json({**running.identity(), "text": answer.text, **said_of(answer)})
            return
        for number, cited in enumerate(said_of(answer)["citations"], 1):
            out.print(Text(f"  [{number}] {printable(cited['title'])}  {printable(cited['uri'])}", style="dim"))
        usage, cost = answer.usage, "cost unknown" if answer.cost is None else f"{answer.cost.normalize():f} US dollars"
        how = f"{answer.provider} · {answer.model} · {usage.tokens_in:,} tokens in, {usage.tokens_out:,} out · {cost}"
        say(f"{how}\njob {running.job_id}")


def _print_event(kind: str, data: dict[str, Any]) -> None:
    if kind == "token":
        out.print(printable(data["text"]), end="", markup=False, soft_wrap=True)
    elif kind == "restarted":
        say(f"\n\n({data['provider']} broke off: {data['reason']}. Another one begins anew.)\n")
    elif kind == "tool_called":
        say(f"\n({data['tool']})")
    elif kind == "done":
        say("\n")


@app.command()
def history(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="`next_cursor` of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """List what an agent was asked, the newest first."""
    from stemma.agents import roster
    from stemma.agents.history import list_calls

    agent = roster.load().find(name)
    _, database = open_studio()
    with database:
        page = database.read(lambda c: list_calls(c, local_principal(), agent.name, cursor=cursor, limit=limit))
    if as_json:
        print_json(page)
        return
    rows = [
        (str(one.job_id), one.state, moment(one.submitted_at), one.actor, _short(one.asked), _short(one.answered or ""))
        for one in page.data
    ]
    print_table(agent.title, ("job", "state", "asked at", "by", "asked", "answered"), rows, empty="It was not asked.")
    if page.next_cursor:
        out.print(Text(f"more: --cursor {page.next_cursor}", style="dim"), soft_wrap=True)


@app.command()
def cancel(
    job_id: Annotated[UUID, typer.Argument(metavar="JOB", help="The call's job.")], as_json: Json = False
) -> None:
    """Cancel a call; whichever process it runs in stops it within seconds."""
    from stemma.agents import records

    settings, database = open_studio()
    with database:
        job = commit(settings, database, lambda connection: records.cancel(connection, local_principal(), job_id))
    if as_json:
        print_json({"job_id": job.id, "state": job.state})
    else:
        say(f"{job_id} is being cancelled.")


@app.command()
def log(
    name: Name, limit: Annotated[int, typer.Option(min=1, max=500, help="How many lines.")] = 50, as_json: Json = False
) -> None:
    """Print the newest lines of an agent's log."""
    from stemma.agents import roster
    from stemma.agents.logs import AgentLogs

    agent = roster.load().find(name)
    settings, database = open_studio()
    with database:
        lines = AgentLogs(settings).tail(agent.name, limit)
    if as_json:
        print_json(lines)
        return
    for line in lines:
        say(json.dumps(line, ensure_ascii=False))


@app.command()
def check(as_json: Json = False) -> None:
    """Publish what the agents are told, look at the providers of models, and ping every agent; 6 where one fails."""
    settings, database = open_studio()
    with database:
        found = asyncio.run(_check(settings, database))
    if as_json:
        print_json(found)
    else:
        providers = [(name, one["state"], one["detail"]) for name, one in found["providers"].items()]
        print_table("Providers of models", ("name", "state", "why"), providers, empty="None.")
        rows = [(a["name"], a["prompt"], a["state"], a["provider"], f"{a['ms']:,} ms") for a in found["agents"]]
        print_table("Agents", ("name", "prompt", "answers", "by", "took"), rows, empty="None.")
    failed = [one["name"] for one in found["agents"] if one["state"] != "yes"]
    if failed and as_json:
        raise typer.Exit(CheckFailed.exit_code)
    if failed:
        raise CheckFailed("agents_silent", f"{', '.join(failed)} did not answer.")


async def _check(settings: Settings, database: Database) -> dict[str, Any]:
    from stemma.agents import prompts, roster
    from stemma.agents.opening import open_relay
    from stemma.ledger.service import Ledger

    agents = roster.load()
    with Ledger(database.urls, settings) as ledger:
        prompts.publish_missing(database, ledger, local_principal(), agents)
    async with open_relay(settings, database) as (relay, router):
        standings = await router.look()
        providers = {name: {"state": one.state, "detail": one.detail} for name, one in standings.items()}
        return {"providers": providers, "agents": [await _ping(relay, agent) for agent in agents]}


async def _ping(relay: Any, agent: Agent) -> dict[str, Any]:
    from stemma.agents.model import Call

    started = time.perf_counter()
    call = Call(agent, local_principal(), uuid4().hex, "cli agent check", _PING, memory=False)
    said: dict[str, Any] = {"name": agent.name, "prompt": "", "state": "yes", "provider": ""}
    try:
        running = await relay.begin(call)
        said["prompt"] = running.prompt.reference
        said["provider"] = (await running.answer()).provider
    except StemmaError as error:
        said["state"] = f"no: {error.message}"
    return {**said, "ms": round((time.perf_counter() - started) * 1000)}


def _context(given: str | None) -> dict[str, Any] | None:
    if given is None:
        return None
    try:
        document = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("json_invalid", f"It is not JSON: {error}.", field="--context") from error
    if not isinstance(document, dict):
        raise InvalidInput("json_invalid", "It is not a JSON object.", field="--context")
    return document


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
