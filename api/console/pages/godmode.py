"""GodMode: the switches over calls to models, what can be overridden, and what is kept of founders' calls."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Form, Request, Response
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.console.forms import new_token, redirect
from api.console.rendering import render
from api.deps import DatabaseDep, LedgerDep, SettingsDep
from api.limits import limited
from api.routers.agents import RelayDep
from stemma.access.catalog import list_keys
from stemma.access.principal import Principal
from stemma.agents import roster
from stemma.agents.model import Call
from stemma.agents.vault import confidences
from stemma.approvals import catalog as approvals
from stemma.approvals.model import State
from stemma.errors import Conflict, StemmaError
from stemma.governance.decisions import flags
from stemma.ledger.change import Change
from stemma.llm import founder_totals, switches
from stemma.store.database import Connection, Database
from stemma.store.settings import Settings

router = APIRouter(prefix="/godmode", route_class=limited("console"), include_in_schema=False)

_DAYS: Final = 30
_MOST: Final = 20
_PROVIDERS: Final = ("openai", "local")
_OVERRIDDEN: Final = "Overridden in GodMode."

FounderDep = Annotated[Principal, allow("admin:founder")]
OperatorDep = Annotated[Principal, allow("decide:operate")]


@router.get("")
def show(request: Request, principal: FounderDep, database: DatabaseDep, settings: SettingsDep) -> Response:
    """How everything stands, and the forms that change it."""
    return _page(request, principal, database, settings)


@router.post("/switches")
async def throw(
    request: Request,
    principal: FounderDep,
    database: DatabaseDep,
    settings: SettingsDep,
    ledger: LedgerDep,
    name: Annotated[str, Form(max_length=200)] = "",
    on: Annotated[bool, Form()] = False,
) -> Response:
    """Throws a switch over calls to models; shows the page again with what is wrong."""
    try:
        change = await run_in_threadpool(database.read, lambda c: switches.throw(c, principal, name, on=on))
        await ledger.commit_async(change)
    except StemmaError as error:
        return await run_in_threadpool(_page, request, principal, database, settings, error)
    return redirect("/godmode", said="Done. Every process knows within a second.")


@router.post("/stop")
async def stop(
    principal: OperatorDep, database: DatabaseDep, ledger: LedgerDep, on: Annotated[bool, Form()] = False
) -> Response:
    """Throws the kill switch of every node, or releases it."""

    def prepare(connection: Connection) -> Change[Any]:
        every, stopped = flags.EVERY_NODE, flags.STOPPED
        if on:
            return flags.set_flag(connection, principal, every, stopped, True, _OVERRIDDEN)
        return flags.clear_flag(connection, principal, every, stopped, _OVERRIDDEN)

    await ledger.commit_async(await run_in_threadpool(database.read, prepare))
    return redirect("/godmode", said="Every node is stopped." if on else "The nodes may act again.")


@router.post("/ask")
async def ask(
    request: Request,
    principal: FounderDep,
    database: DatabaseDep,
    settings: SettingsDep,
    relay: RelayDep,
    agent: Annotated[str, Form(max_length=64)] = "",
    asked: Annotated[str, Form(alias="input")] = "",
) -> Response:
    """Asks an agent without scripts: the answer is on this page, this once."""
    if not principal.founder:
        hint = "Sign in with a key of the role GODMODE."
        raise Conflict("call_is_kept", "Only a founder's calls leave no trace.", hint=hint)
    call = Call(roster.load().find(agent), principal, request.state.request_id, "/godmode/ask", asked, memory=False)
    running = await relay.begin(call)
    given = {"asked": asked, "text": (await running.answer()).text}
    return await run_in_threadpool(_page, request, principal, database, settings, given=given)


def _page(
    request: Request,
    principal: Principal,
    database: Database,
    settings: Settings,
    error: StemmaError | None = None,
    given: dict[str, str] | None = None,
) -> Response:
    with database.snapshot() as connection:
        thrown = {switch.name: switch for switch in switches.list_switches(connection)}
        days = founder_totals.list_days(connection, limit=_DAYS)
        pending = approvals.list_approvals(connection, state=State.PENDING, limit=_MOST)
        found = flags.list_flags(connection, flags.EVERY_NODE)
        keys = list_keys(connection, limit=_MOST)
    stopped = next((flag for flag in found if flag.flag == flags.STOPPED and flag.value is True), None)
    return render(
        request,
        "pages/godmode.html",
        status=error.status if error else 200,
        store=False,
        error=error,
        given=given,
        once=new_token(),
        thrown=thrown,
        providers=_PROVIDERS,
        agents=tuple(roster.load()),
        days=days,
        pending=pending,
        stopped=stopped,
        keys=keys,
        confided=_confided(settings),
        may_operate=principal.may("decide:operate"),
    )


def _confided(settings: Settings) -> str:
    """How it stands with the founder's secrets, in words."""
    try:
        return "The file is there." if confidences.read(settings) is not None else "There is no such file."
    except StemmaError as error:
        return str(error)
