"""Agents: who they are, asking one of them, and what was asked, answered, logged and remembered."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Form, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.console.forms import FormOnceDep, kept, new_token, redirect
from api.console.rendering import render
from api.deps import DatabaseDep, LedgerDep, PageDep
from api.limits import limited
from api.routers.agents import RelayDep, get_logs
from stemma.access.permissions import Role, permissions_of
from stemma.access.principal import Principal
from stemma.agents import prompts, records, roster
from stemma.agents.asking import narrowed
from stemma.agents.history import find_call, list_calls
from stemma.agents.logs import AgentLogs
from stemma.agents.memory import catalog as memories
from stemma.agents.memory import storing
from stemma.agents.model import Agent, Call
from stemma.errors import NotFound
from stemma.ledger.change import Change
from stemma.llm import switches
from stemma.registry import catalog as registry
from stemma.store.database import Connection

router = APIRouter(prefix="/agents", route_class=limited("console"), include_in_schema=False)

_RECENT: Final = 5
_LINES: Final = 200
_EVENTS: Final = 200

ReaderDep = Annotated[Principal, allow("agents:read")]
CallerDep = Annotated[Principal, allow("agents:call")]
OperatorDep = Annotated[Principal, allow("agents:operate")]
NamePath = Annotated[str, Path(max_length=64)]
JobPath = Annotated[UUID, Path()]
LogsDep = Annotated[AgentLogs, Depends(get_logs)]


@router.get("")
def show(request: Request, principal: ReaderDep, database: DatabaseDep) -> Response:
    """Who there is, whom each answers and what it may use."""
    on = database.read(switches.read)
    return render(
        request,
        "pages/agents.html",
        agents=[(agent, answers(agent, principal), on.excludes_agent(agent.name)) for agent in roster.load()],
    )


@router.get("/{name}")
def show_one(request: Request, principal: ReaderDep, database: DatabaseDep, name: NamePath) -> Response:
    """The conversation, and what was asked last."""
    agent = roster.load().find(name)
    with database.snapshot() as connection:
        recent = list_calls(connection, principal, agent.name, limit=_RECENT) if principal.may("agents:call") else None
        excluded = switches.read(connection).excludes_agent(agent.name)
    return _page(request, principal, agent, "", "pages/agent.html", recent=recent, excluded=excluded, given=None)


@router.post("/{name}/ask")
async def ask(
    request: Request,
    principal: CallerDep,
    once: FormOnceDep,
    relay: RelayDep,
    ledger: LedgerDep,
    name: NamePath,
    asked: Annotated[str, Form(alias="input")] = "",
    role: Annotated[Role | None, Form()] = None,
    memory: Annotated[bool, Form()] = False,
) -> Response:
    """Begins a call and shows it; a founder's is answered here, because it is kept nowhere."""
    agent = roster.load().find(name)
    call = Call(
        agent=agent,
        principal=narrowed(principal, role),
        request_id=request.state.request_id,
        route="/agents/{name}/ask",
        asked=asked,
        memory=memory,
    )
    if call.founder:
        running = await relay.begin(call)
        given = {"asked": asked, "text": (await running.answer()).text}
        return await run_in_threadpool(
            _page, request, principal, agent, "", "pages/agent.html", recent=None, excluded=False, given=given
        )

    async def commit(change: Change[Any]) -> None:
        await once.write(ledger, change, kept=lambda job: kept(redirect(_address(agent, job.id))))

    running = await relay.begin(call, commit)
    assert running.job_id is not None
    return redirect(_address(agent, running.job_id))


@router.get("/{name}/history")
def show_history(
    request: Request, principal: CallerDep, database: DatabaseDep, page: PageDep, name: NamePath
) -> Response:
    """What the agent was asked, the newest first."""
    agent = roster.load().find(name)
    found = database.read(lambda c: list_calls(c, principal, agent.name, cursor=page.cursor, limit=page.limit))
    return _page(request, principal, agent, "history", "pages/agent_history.html", page=found, first=not page.cursor)


@router.get("/{name}/calls/{job_id}")
def show_call(
    request: Request, principal: CallerDep, database: DatabaseDep, name: NamePath, job_id: JobPath
) -> Response:
    """One call: what was asked and answered, on what it rests, and what it used."""
    agent = roster.load().find(name)
    call = database.read(lambda connection: find_call(connection, principal, job_id))
    return _page(request, principal, agent, "history", "pages/agent_call.html", call=call)


@router.post("/{name}/calls/{job_id}/cancel")
async def cancel(
    principal: CallerDep, database: DatabaseDep, ledger: LedgerDep, relay: RelayDep, name: NamePath, job_id: JobPath
) -> Response:
    """Asks a call to stop."""
    agent = roster.load().find(name)
    await ledger.commit_async(
        await run_in_threadpool(database.read, lambda connection: records.cancel(connection, principal, job_id))
    )
    relay.cancel(job_id)
    return redirect(_address(agent, job_id), said="The call was asked to stop.")


@router.get("/{name}/prompt")
def show_prompt(request: Request, principal: ReaderDep, database: DatabaseDep, name: NamePath) -> Response:
    """What the agent is told first, and its versions, the newest first."""
    agent = roster.load().find(name)
    with database.snapshot() as connection:
        try:
            told = prompts.find(connection, agent)
            versions = registry.list_versions(connection, prompts.KIND, told.name, limit=_EVENTS).data
        except NotFound:
            told, versions = None, ()
    return _page(request, principal, agent, "prompt", "pages/agent_prompt.html", told=told, versions=versions)


@router.get("/{name}/log")
def show_log(request: Request, principal: OperatorDep, logs: LogsDep, name: NamePath) -> Response:
    """The newest lines of the agent's log, the newest first."""
    agent = roster.load().find(name)
    lines = list(reversed(logs.tail(agent.name, _LINES)))
    return _page(request, principal, agent, "log", "pages/agent_log.html", lines=lines)


@router.get("/{name}/memory")
def show_memory(
    request: Request, principal: ReaderDep, database: DatabaseDep, page: PageDep, name: NamePath
) -> Response:
    """What the agent remembers for this principal, and what is shared, the newest first."""
    agent = roster.load().find(name)
    found = database.read(
        lambda c: memories.list_memories(c, principal, agent.name, cursor=page.cursor, limit=page.limit)
    )
    return _page(request, principal, agent, "memory", "pages/agent_memory.html", page=found, first=not page.cursor)


@router.get("/{name}/memory/forget")
def ask_to_forget(request: Request, principal: CallerDep, database: DatabaseDep, name: NamePath) -> Response:
    """Says what forgetting everything does, and asks."""
    agent = roster.load().find(name)
    count = database.read(lambda connection: memories.count(connection, agent.name, principal.actor, None))
    return _page(request, principal, agent, "memory", "pages/agent_forget.html", count=count)


@router.post("/{name}/memory/forget")
async def forget(
    principal: CallerDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    name: NamePath,
    memory: Annotated[UUID | None, Form()] = None,
) -> Response:
    """Forgets one memory, or all of this principal's."""
    agent = roster.load().find(name)

    def prepare(connection: Connection) -> Change[Any]:
        if memory is not None:
            return storing.forget(connection, principal, agent.name, memory)
        return storing.forget_all(connection, principal, agent.name, owner=principal.actor)

    done = await ledger.commit_async(await run_in_threadpool(database.read, prepare))
    return redirect(f"/agents/{agent.name}/memory", said=f"Forgotten: {done.memories}.")


def answers(agent: Agent, principal: Principal) -> bool:
    """Whether the agent answers this principal in the role that it has."""
    return principal.may("agents:call") and principal.role in agent.roles


def roles_for(agent: Agent, principal: Principal) -> list[Role]:
    """The roles in which a principal may ask: its own first, then lesser ones, as far as the agent answers them."""
    own = permissions_of(principal.role)
    lesser = [r for r in Role if r not in (principal.role, Role.GODMODE) and permissions_of(r) <= own]
    return [role for role in (principal.role, *lesser) if role in agent.roles]


def _page(request: Request, principal: Principal, agent: Agent, here: str, template: str, **context: Any) -> Response:
    return render(
        request,
        template,
        store=False,
        agent=agent,
        place=here,
        roles=roles_for(agent, principal) if principal.may("agents:call") else [],
        may_operate=principal.may("agents:operate"),
        once=new_token(),
        **context,
    )


def _address(agent: Agent, job_id: UUID) -> str:
    return f"/agents/{agent.name}/calls/{job_id}"
