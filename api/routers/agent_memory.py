"""What agents remember: one's own and what is shared, giving, pinning, taking it elsewhere, and forgetting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.bodies import RequestBody
from api.deps import DatabaseDep, LedgerDep, PageDep
from api.idempotency import OnceDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.access.principal import Principal
from stemma.agents import roster
from stemma.agents.memory import catalog, storing
from stemma.agents.memory.keeper import Keeper
from stemma.agents.memory.model import MAX_TEXT, GivenTier, Remembered
from stemma.agents.model import Tier
from stemma.ledger.change import Change
from stemma.store.cursors import Page
from stemma.store.database import Connection, Database

router = APIRouter(prefix=f"{API}/agents/{{name}}/memory", tags=["agents"], route_class=limited("agent_memory"))

NamePath = Annotated[str, Path(max_length=32, description="An agent", examples=["nova"])]
IdPath = Annotated[UUID, Path(alias="id", examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"])]
OwnerQuery = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=500,
        description="Whose, as an actor; another's takes `agents:operate`",
        examples=["key:5b0f8c1e-8d8c-4d1c-9a5b-0f2a6f2a7c11"],
    ),
]
TierQuery = Annotated[Tier | None, Query(description="Only this tier")]


class GivenBody(RequestBody):
    """Something for an agent to remember."""

    text: str = Field(min_length=1, max_length=MAX_TEXT, examples=["Invoices are sent on the first of a month."])
    tier: GivenTier = Field(default="semantic", description="A fact, or a passage that is found by nearness alone")
    shared: bool = Field(default=False, description="With everybody who calls the agent; takes `agents:operate`")
    pinned: bool = Field(default=False, description="It stays, and is recalled before all else")
    days: int | None = Field(default=None, ge=1, le=3650, description="How long; without it, until it is forgotten")

    def given(self) -> storing.Given:
        """The same for the domain."""
        return storing.Given(self.text, self.tier, self.shared, self.pinned, self.days)


class MemoryBody(BaseModel):
    """A memory, redacted."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    agent: str = Field(examples=["nova"])
    owner: str | None = Field(description="Whose calls recall it; null: everybody's")
    tier: Tier
    text: str
    source: dict[str, Any] = Field(description="Where it comes from: a call, a person, or a day that was distilled")
    origins: list[UUID] = Field(description="The memories that it was distilled from")
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    pinned_by: str | None
    pinned_at: datetime | None


class MemoriesBody(BaseModel):
    """One page of memories."""

    data: list[MemoryBody]
    next_cursor: str | None


class ForgottenBody(BaseModel):
    """What was forgotten."""

    model_config = ConfigDict(from_attributes=True)

    agent: str = Field(examples=["nova"])
    owner: str | None = Field(description="Whose it was; null: what was shared")
    tier: Tier | None = Field(description="Only this tier; null: all")
    memories: int = Field(description="How many there were", examples=[12])


def _keeper(request: Request) -> Keeper:
    keeper: Keeper = request.app.state.keeper
    return keeper


@router.get(
    "",
    response_model=MemoriesBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="List what an agent remembers",
)
def list_memories(
    principal: Annotated[Principal, allow("agents:read")],
    database: DatabaseDep,
    page: PageDep,
    name: NamePath,
    owner: OwnerQuery = None,
    tier: TierQuery = None,
    pinned: Annotated[bool, Query(description="Only what is pinned")] = False,
) -> Page[Remembered]:
    """The newest first: one's own and what is shared, or another's."""
    agent = roster.load().find(name)
    return database.read(
        lambda connection: catalog.list_memories(
            connection,
            principal,
            agent.name,
            owner=owner,
            tier=tier,
            pinned=pinned,
            cursor=page.cursor,
            limit=page.limit,
        )
    )


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={
        200: {"description": "A memory in each line, the newest first", "content": {"application/x-ndjson": {}}},
        **problems(401, 403, 404, 429, 503),
    },
    summary="Take elsewhere what an agent remembers",
)
def export(
    principal: Annotated[Principal, allow("agents:read")],
    database: DatabaseDep,
    name: NamePath,
    owner: OwnerQuery = None,
) -> Response:
    """All of one's own, or another's, as JSON Lines."""
    agent = roster.load().find(name)
    whose = owner or principal.actor
    first = database.read(lambda connection: catalog.list_memories(connection, principal, agent.name, owner=whose))

    def lines() -> Iterator[bytes]:
        page: Page[Remembered] | None = first
        while page is not None:
            for memory in page.data:
                yield MemoryBody.model_validate(memory).model_dump_json().encode() + b"\n"
            page = _after(database, principal, agent.name, whose, page.next_cursor)

    headers = {"Content-Disposition": f'attachment; filename="{agent.name}-memory.jsonl"'}
    return StreamingResponse(lines(), media_type="application/x-ndjson", headers=headers)


def _after(
    database: Database, principal: Principal, agent: str, owner: str, cursor: str | None
) -> Page[Remembered] | None:
    if cursor is None:
        return None
    return database.read(
        lambda connection: catalog.list_memories(
            connection, principal, agent, owner=owner, cursor=cursor, limit=catalog.AT_ONCE
        )
    )


@router.post(
    "",
    status_code=201,
    response_model=MemoryBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Have an agent remember something",
)
async def give(
    request: Request,
    principal: Annotated[Principal, allow("agents:remember")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    name: NamePath,
    given: GivenBody,
) -> Response:
    """A fact or a passage, redacted before it is stored."""
    agent, encoder = roster.load().find(name), _keeper(request).encoder
    change = await _prepared(database, lambda c: storing.give(c, principal, agent.name, given.given(), encoder))
    return await once.commit(ledger, change, status=201, body=MemoryBody.model_validate)


@router.put(
    "/{id}/pin",
    response_model=MemoryBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Pin a memory",
)
async def pin(
    principal: Annotated[Principal, allow("agents:remember")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    name: NamePath,
    memory_id: IdPath,
) -> Response:
    """It does not expire, and is recalled before all else."""
    return await _pinned(principal, once, database, ledger, name, memory_id, pinned=True)


@router.delete(
    "/{id}/pin",
    response_model=MemoryBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Unpin a memory",
)
async def unpin(
    principal: Annotated[Principal, allow("agents:remember")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    name: NamePath,
    memory_id: IdPath,
) -> Response:
    """It is recalled and expires as the others."""
    return await _pinned(principal, once, database, ledger, name, memory_id, pinned=False)


@router.delete(
    "/{id}",
    response_model=ForgottenBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Have an agent forget a memory",
)
async def forget(
    principal: Annotated[Principal, allow("agents:call")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    name: NamePath,
    memory_id: IdPath,
) -> Response:
    """With all that was distilled from it."""
    agent = roster.load().find(name)
    change = await _prepared(database, lambda c: storing.forget(c, principal, agent.name, memory_id))
    return await once.commit(ledger, change, status=200, body=ForgottenBody.model_validate)


@router.delete(
    "",
    response_model=ForgottenBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Have an agent forget everything",
)
async def forget_all(
    principal: Annotated[Principal, allow("agents:call")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    name: NamePath,
    owner: OwnerQuery = None,
    tier: TierQuery = None,
    shared: Annotated[bool, Query(description="What is shared; takes `agents:operate`")] = False,
) -> Response:
    """All of one's own, of another's, or what is shared; or one tier of it."""
    agent = roster.load().find(name)
    whose = None if shared else owner or principal.actor
    change = await _prepared(database, lambda c: storing.forget_all(c, principal, agent.name, owner=whose, tier=tier))
    return await once.commit(ledger, change, status=200, body=ForgottenBody.model_validate)


async def _pinned(
    principal: Principal,
    once: OnceDep,
    database: Database,
    ledger: LedgerDep,
    name: str,
    memory_id: UUID,
    *,
    pinned: bool,
) -> Response:
    agent = roster.load().find(name)
    change = await _prepared(database, lambda c: storing.pin(c, principal, agent.name, memory_id, pinned=pinned))
    return await once.commit(ledger, change, status=200, body=MemoryBody.model_validate)


async def _prepared(database: Database, prepare: Callable[[Connection], Change[Any]]) -> Change[Any]:
    return await run_in_threadpool(database.read, prepare)
