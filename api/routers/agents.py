"""Agents over HTTP: who they are, asking them, and following, resuming and cancelling what was asked.

How a call is carried out is `stemma.agents`' business; what is told of it here is the same in a stream and in one
piece.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.bodies import RequestBody
from api.deps import DatabaseDep, LedgerDep, PageDep
from api.idempotency import OnceDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from api.streams import LastEventIdDep, LiveResponse, no_event_id
from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.agents import records, roster
from stemma.agents.asking import LONGEST_INPUT, narrowed
from stemma.agents.history import CallRecord, find_call, list_calls
from stemma.agents.logs import AgentLogs
from stemma.agents.model import Agent, Answer, Call
from stemma.agents.relay import Relay
from stemma.agents.replaying import Replay
from stemma.agents.running import Running, said_of
from stemma.errors import InvalidInput
from stemma.jobs.model import JobState
from stemma.ledger.change import Change
from stemma.ledger.idempotency import Answer as KeptAnswer

router = APIRouter(prefix=API, tags=["agents"], route_class=limited("agents"))
aliases = APIRouter(tags=["agents"], route_class=limited("agents"), include_in_schema=False)

PATH: Final = "/agents"
_MOST_LINES: Final = 500

NamePath = Annotated[str, Path(max_length=64, description="The agent", examples=["nova"])]
JobPath = Annotated[UUID, Path(description="The call's job", examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"])]
CallerDep = Annotated[Principal, allow("agents:call")]


class AgentCallBody(RequestBody):
    """What an agent is asked."""

    input: str = Field(max_length=LONGEST_INPUT, description="The question", examples=["What is an HNSW index for?"])
    context: dict[str, Any] | None = Field(
        default=None, description="Facts that belong to the question; told to the model as data", examples=[{"page": 3}]
    )
    role: Role | None = Field(default=None, description="Answer as if the key had this lesser role")
    memory_state: Literal["on", "off"] = Field(default="on", description="`off`: nothing is recalled or remembered")
    stream: bool = Field(default=False, description="Answer with server-sent events")


class IdentityBody(BaseModel):
    """Who answers."""

    model_config = ConfigDict(from_attributes=True)

    name: str = Field(examples=["nova"])
    title: str = Field(examples=["Nova"])


class AgentBody(IdentityBody):
    """An agent."""

    purpose: str
    tools: list[str] = Field(description="What it may use, within what its file allows", examples=[["search_index"]])
    roles: list[Role] = Field(description="Whom it answers")
    may_call: bool = Field(description="Whether it answers this key")


class AgentsBody(BaseModel):
    """The roster."""

    data: list[AgentBody]


class UsageBody(BaseModel):
    """Tokens, of all rounds together."""

    tokens_in: int
    tokens_out: int
    tokens_cached: int = Field(description="Those of `tokens_in` that the provider had cached")
    counted: str = Field(description="`provider`, or `estimated` here", examples=["provider"])


class CitedBody(BaseModel):
    """Where something stands that the answer rests on."""

    chunk_id: int
    document_id: int = Field(description="For GET /api/v1/documents/{id}")
    source: str
    uri: str
    title: str
    heading_path: list[str]
    page_first: int | None
    page_last: int | None
    start: int
    end: int
    document_sha256: str
    text: str = Field(description="How the passage begins")


class AnswerBody(BaseModel):
    """An answer as a whole; its headers `X-Agent` and `X-Job-ID` say the same of a stream."""

    agent: IdentityBody
    job_id: UUID | None = Field(description="The call's job; null in a founder's call, which is not kept")
    request_id: str
    role: Role = Field(description="In which role it was asked")
    text: str
    prompt: str = Field(description="What the agent was told, as name@version", examples=["agents.nova@1.0.0"])
    provider: str = Field(examples=["offline"])
    model: str
    rounds: int = Field(description="How often the model was asked")
    usage: UsageBody
    cost: str | None = Field(
        description="US dollars; null where the price of a model is not known", examples=["0.0021"]
    )
    latency_ms: float
    ttft_ms: float | None = Field(description="Until the first token came")
    citations: list[CitedBody]


class StartedBody(BaseModel):
    """What a repeated request is answered with: the call that the first one began."""

    job_id: UUID
    events: str = Field(description="Where its events are")


class ErrorBody(BaseModel):
    """Why a call failed."""

    code: str | None
    message: str | None = Field(description="Redacted")


class CallBody(BaseModel):
    """A call as it is kept."""

    model_config = ConfigDict(from_attributes=True)

    job_id: UUID
    agent: str
    actor: str
    role: Role
    request_id: str
    state: JobState
    submitted_at: datetime
    finished_at: datetime | None
    prompt: str
    memory: bool = Field(description="Whether anything was recalled and remembered")
    asked: str
    context: dict[str, Any] | None
    answered: str | None = Field(description="All that was answered by its end; null while it runs")
    provider: str | None
    model: str | None
    tokens_in: int | None
    tokens_out: int | None
    cost: str | None = Field(description="US dollars")
    citations: list[CitedBody]
    error: ErrorBody | None


class CallsBody(BaseModel):
    """One page of calls, the newest first."""

    data: list[CallBody]
    next_cursor: str | None


class LogBody(BaseModel):
    """The newest lines of an agent's log."""

    data: list[dict[str, Any]]


def get_relay(request: Request) -> Relay:
    """The process's relay."""
    return cast(Relay, request.app.state.relay)


def get_logs(request: Request) -> AgentLogs:
    """The agents' logs."""
    return cast(AgentLogs, request.app.state.agent_logs)


RelayDep = Annotated[Relay, Depends(get_relay)]


@router.get(PATH, response_model=AgentsBody, responses=problems(401, 403, 429), summary="List the agents")
def list_agents(principal: Annotated[Principal, allow("agents:read")]) -> AgentsBody:
    """Who there is, what each may use, and whether it answers this key."""
    return AgentsBody(data=[_agent(agent, principal) for agent in roster.load()])


@router.get(
    "/agents/{name}", response_model=AgentBody, responses=problems(401, 403, 404, 429), summary="Look at an agent"
)
def show_agent(principal: Annotated[Principal, allow("agents:read")], name: NamePath) -> AgentBody:
    """Who it is and what it may use."""
    return _agent(roster.load().find(name), principal)


@aliases.post("/agents/{name}", response_model=None)
@router.post(
    "/agents/{name}",
    response_model=AnswerBody,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        202: {"model": StartedBody, "description": "The request was made before, and this is the call that it began"},
        **problems(401, 402, 403, 404, 409, 413, 429, 502, 503, 504),
    },
    summary="Ask an agent",
)
async def ask(
    principal: CallerDep,
    request: Request,
    once: OnceDep,
    relay: RelayDep,
    ledger: LedgerDep,
    name: NamePath,
    wanted: AgentCallBody,
) -> Response:
    """The answer, in one piece or as events: `start`, `token`, `restarted` (tokens from `void_from` on are void),
    `tool_called`, `tool_answered`, and at last `done`, `error` or `cancelled`. A call goes on when the client leaves.

    A call in the role GODMODE is kept nowhere: it takes no Idempotency-Key, and ends with its connection.
    """
    call = Call(
        agent=roster.load().find(name),
        principal=narrowed(principal, wanted.role),
        request_id=request.state.request_id,
        route=f"{API}/agents/{{name}}",
        asked=wanted.input,
        context=wanted.context,
        memory=wanted.memory_state == "on",
    )
    if call.founder:
        if "idempotency-key" in request.headers:
            what = "A founder's call is not kept, so that a repeat could not be told."
            raise InvalidInput("idempotency_not_kept", what, field="Idempotency-Key", hint="Leave the header out.")
        running = await relay.begin(call)
    else:

        async def commit(change: Change[Any]) -> None:
            await once.write(ledger, change, kept=lambda job: _started(name, job.id))

        running = await relay.begin(call, commit)
    if wanted.stream:
        leave = running.stop if call.founder else None
        return LiveResponse(running.stream, 0, headers=_headers(running), on_left=leave)
    answer = await running.answer()
    return JSONResponse(_answered(running, answer), headers=_headers(running))


@router.get(
    "/agents/{name}/calls",
    response_model=CallsBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="List the calls of an agent",
)
def list_calls_of(principal: CallerDep, database: DatabaseDep, page: PageDep, name: NamePath) -> CallsBody:
    """Those that this key made, the newest first; everybody's for whoever has `agents:operate`."""
    agent = roster.load().find(name)
    found = database.read(
        lambda connection: list_calls(connection, principal, agent.name, cursor=page.cursor, limit=page.limit)
    )
    return CallsBody(data=[_call(record) for record in found.data], next_cursor=found.next_cursor)


@router.get(
    "/agents/{name}/calls/{job_id}",
    response_model=CallBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="Look at a call",
)
def show_call(principal: CallerDep, database: DatabaseDep, name: NamePath, job_id: JobPath) -> CallBody:
    """What was asked and answered, by which model and at what cost."""
    return _call(database.read(lambda connection: find_call(connection, principal, job_id, agent=name)))


@router.get(
    "/agents/{name}/calls/{job_id}/events",
    response_class=Response,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **problems(401, 403, 404, 429, 503),
    },
    summary="Follow a call",
)
async def follow(
    principal: CallerDep,
    database: DatabaseDep,
    relay: RelayDep,
    name: NamePath,
    job_id: JobPath,
    last_event_id: LastEventIdDep,
) -> Response:
    """Server-sent events from the call's first on, or after `Last-Event-ID`, whether it runs or has ended."""
    record = await run_in_threadpool(database.read, lambda c: find_call(c, principal, job_id, agent=name))
    headers = {"X-Agent": record.agent, "X-Job-ID": str(job_id)}
    if (running := relay.find(job_id)) is not None:
        return LiveResponse(running.stream, _position(running.stream.after, last_event_id), headers=headers)
    replay = Replay(database, job_id)
    await replay.begin()
    return LiveResponse(
        replay.stream, _position(replay.stream.after, last_event_id), headers=headers, on_left=replay.leave
    )


@router.post(
    "/agents/{name}/calls/{job_id}/cancel",
    response_model=CallBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Cancel a call",
)
async def cancel(
    principal: CallerDep,
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    relay: RelayDep,
    name: NamePath,
    job_id: JobPath,
) -> Response:
    """Asks it to stop; its stream ends with `cancelled` as soon as the model's answer is broken off.

    409 `job_finished` for what is done or failed, `job_cancelled` for what is being cancelled already.
    """

    def prepare(connection: Any) -> tuple[CallRecord, Change[Any]]:
        found = find_call(connection, principal, job_id, agent=name)
        return found, records.cancel(connection, principal, job_id)

    record, change = await run_in_threadpool(database.read, prepare)
    response = await once.commit(ledger, change, status=200, body=lambda _: _call(record))
    relay.cancel(job_id)
    return response


@router.get(
    "/agents/{name}/log",
    response_model=LogBody,
    responses=problems(401, 403, 404, 429),
    summary="Read an agent's log",
)
def read_log(
    principal: Annotated[Principal, allow("agents:operate")],
    logs: Annotated[AgentLogs, Depends(get_logs)],
    name: NamePath,
    limit: Annotated[int, Query(ge=1, le=_MOST_LINES, description="How many lines")] = 100,
) -> LogBody:
    """The newest lines, the oldest of them first; founders' calls leave none."""
    return LogBody(data=logs.tail(roster.load().find(name).name, limit))


def _position(after: Any, last_event_id: int | None) -> int:
    try:
        return int(after(last_event_id or 0))
    except IndexError as error:
        raise no_event_id() from error


def _started(name: str, job_id: UUID) -> KeptAnswer:
    body = StartedBody(job_id=job_id, events=f"{API}/agents/{name}/calls/{job_id}/events")
    return KeptAnswer(202, {}, body.model_dump_json().encode())


def _headers(running: Running) -> dict[str, str]:
    named = {"X-Agent": running.call.agent.name}
    return named if running.job_id is None else {**named, "X-Job-ID": str(running.job_id)}


def _answered(running: Running, answer: Answer) -> dict[str, Any]:
    identity: Mapping[str, Any] = running.identity()
    job_id = None if running.job_id is None else str(running.job_id)
    return {**identity, "job_id": job_id, "text": answer.text, **said_of(answer)}


def _agent(agent: Agent, principal: Principal) -> AgentBody:
    return AgentBody(
        name=agent.name,
        title=agent.title,
        purpose=agent.purpose,
        tools=sorted(agent.tools),
        roles=list(agent.roles),
        may_call=principal.may("agents:call") and principal.role in agent.roles,
    )


def _call(record: CallRecord) -> CallBody:
    known = {name: getattr(record, name, None) for name in CallBody.model_fields}
    failed = record.error_code is not None
    cost = None if record.cost_est is None else f"{record.cost_est:f}"
    error = ErrorBody(code=record.error_code, message=record.error_message) if failed else None
    return CallBody(**{**known, "cost": cost, "error": error})
