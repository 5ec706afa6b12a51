"""Flags: stopping a node, or all of them, and steering what they do, at once."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.bodies import RequestBody
from api.deps import DatabaseDep, LedgerDep
from api.idempotency import OnceDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.access.principal import Principal
from stemma.governance.decisions import flags

router = APIRouter(prefix=f"{API}/flags", tags=["flags"], route_class=limited("flags"))

NodePath = Annotated[str, Path(max_length=63, description="A node, or `*` for all of them", examples=["*"])]
FlagPath = Annotated[
    str, Path(max_length=63, description="`stopped`, `learning`, `policy` or `shadow`", examples=["stopped"])
]


class ValueBody(RequestBody):
    """What a flag is to say."""

    value: bool | str = Field(
        description="`stopped` and `learning`: true or false; `policy` and `shadow`: a reference", examples=[True]
    )
    reason: str = Field(max_length=1_000, description="Why", examples=["Prices are wrong since noon."])


class FlagBody(BaseModel):
    """A flag that is set."""

    model_config = ConfigDict(from_attributes=True)

    node: str = Field(examples=["*"])
    flag: str = Field(examples=["stopped"])
    value: Any
    reason: str
    set_by: str
    set_at: datetime


class FlagsBody(BaseModel):
    """Every flag that is set."""

    data: list[FlagBody]


@router.get("", response_model=FlagsBody, responses=problems(401, 403, 429, 503), summary="List the flags")
def list_flags(
    principal: Annotated[Principal, allow("decide:read")],
    database: DatabaseDep,
    node: Annotated[str | None, Query(max_length=63, description="Only those that hold for this node")] = None,
) -> dict[str, tuple[flags.Flag, ...]]:
    """Those that are set, by node."""
    return {"data": database.read(lambda connection: flags.list_flags(connection, node))}


@router.put(
    "/{node}/{flag}",
    response_model=FlagBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Set a flag",
)
async def set_flag(
    principal: Annotated[Principal, allow("decide:operate")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    node: NodePath,
    flag: FlagPath,
    given: ValueBody,
) -> Response:
    """Holds for every decision that is committed after it. `stopped` on `*` is the kill switch."""
    change = await run_in_threadpool(
        database.read, lambda c: flags.set_flag(c, principal, node, flag, given.value, given.reason)
    )
    return await once.commit(ledger, change, status=200, body=FlagBody.model_validate)


@router.delete(
    "/{node}/{flag}",
    response_model=FlagBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Take a flag away",
)
async def clear_flag(
    principal: Annotated[Principal, allow("decide:operate")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    node: NodePath,
    flag: FlagPath,
    reason: Annotated[str, Query(max_length=1_000, description="Why", examples=["Prices are right again."])],
) -> Response:
    """Answers with what it was."""
    change = await run_in_threadpool(database.read, lambda c: flags.clear_flag(c, principal, node, flag, reason))
    return await once.commit(ledger, change, status=200, body=FlagBody.model_validate)
