"""Switches: what stops every node at once, and what steers one of them."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Form, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.console.forms import redirect
from api.console.rendering import render
from api.deps import DatabaseDep, LedgerDep
from api.limits import limited
from stemma.access.principal import Principal
from stemma.errors import InvalidInput, NotFound, StemmaError
from stemma.governance import nodes
from stemma.governance.decisions import flags
from stemma.ledger.change import Change
from stemma.registry import catalog as registry
from stemma.store.database import Connection, Database

router = APIRouter(prefix="/switches", route_class=limited("console"), include_in_schema=False)

_NODES: Final = 200
_SWITCHES: Final = {"true": True, "false": False}

ReaderDep = Annotated[Principal, allow("decide:read")]
OperatorDep = Annotated[Principal, allow("decide:operate")]
NodePath = Annotated[str, Path(max_length=100)]
ShortField = Annotated[str, Form(max_length=200)]


@router.get("")
def show(request: Request, principal: ReaderDep, database: DatabaseDep) -> Response:
    """The kill switch, and how each node stands."""
    return _all(request, principal, database)


@router.get("/{node}")
def show_node(request: Request, principal: ReaderDep, database: DatabaseDep, node: NodePath) -> Response:
    """What steers one node, and the forms that change it."""
    return _one(request, principal, database, node)


@router.post("")
async def change(
    request: Request,
    principal: OperatorDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    node: ShortField = "",
    flag: ShortField = "",
    value: ShortField = "",
    reason: Annotated[str, Form()] = "",
) -> Response:
    """Sets a flag, or takes it away where no value is given; shows the form again with what is wrong."""

    def prepare(connection: Connection) -> Change[Any]:
        if not value.strip():
            return flags.clear_flag(connection, principal, node, flag, reason)
        return flags.set_flag(connection, principal, node, flag, _SWITCHES.get(value.strip(), value.strip()), reason)

    try:
        await ledger.commit_async(await run_in_threadpool(database.read, prepare))
    except StemmaError as error:
        given = {"flag": flag, "value": value, "reason": reason}
        if node == flags.EVERY_NODE or not node:
            return await run_in_threadpool(_all, request, principal, database, given, error)
        return await run_in_threadpool(_one, request, principal, database, node, given, error)
    where = "/switches" if node == flags.EVERY_NODE else f"/switches/{node}"
    return redirect(where, said="Done. It holds for every decision that is committed from now on.")


def _all(
    request: Request,
    principal: Principal,
    database: Database,
    given: dict[str, str] | None = None,
    error: StemmaError | None = None,
) -> Response:
    with database.snapshot() as connection:
        known = registry.list_newest(connection, nodes.KIND, limit=_NODES).data
        found = flags.list_flags(connection)
    by_node: dict[str, dict[str, flags.Flag]] = {}
    for flag in found:
        by_node.setdefault(flag.node, {})[flag.flag] = flag
    return render(
        request,
        "pages/switches.html",
        status=error.status if error else 200,
        store=error is None,
        nodes=known,
        by_node=by_node,
        of_all=by_node.get(flags.EVERY_NODE, {}),
        found=found,
        given=given or {},
        error=error,
        may_operate=principal.may("decide:operate"),
    )


def _one(
    request: Request,
    principal: Principal,
    database: Database,
    name: str,
    given: dict[str, str] | None = None,
    error: StemmaError | None = None,
) -> Response:
    with database.snapshot() as connection:
        try:
            node = nodes.load(connection, name)
        except InvalidInput as invalid:
            raise NotFound("node_unknown", f"There is no node {name!r}.", field="node") from invalid
        found = {flag.flag: flag for flag in flags.list_flags(connection, name) if flag.node == name}
        of_all = {flag.flag: flag for flag in flags.list_flags(connection, name) if flag.node == flags.EVERY_NODE}
    return render(
        request,
        "pages/switches_node.html",
        status=error.status if error else 200,
        store=error is None,
        node=node,
        flags=found,
        of_all=of_all,
        given=given or {},
        error=error,
        may_operate=principal.may("decide:operate"),
    )
