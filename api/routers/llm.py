"""Models over HTTP: asking one, in one piece or as a stream, and how the providers stand."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, cast

import structlog
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.access import allow
from api.bodies import RequestBody
from api.limits import limited
from api.openapi import problems
from api.routers import API
from api.routers.search import CitationBody
from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.errors import StemmaError
from stemma.llm.model import (
    Caller,
    Counted,
    Delta,
    Finished,
    FinishReason,
    Message,
    Part,
    Prompt,
    Restarted,
    ToolCall,
    ToolsMode,
    ToolSpec,
)
from stemma.llm.providers.base import Standing, State
from stemma.llm.router import LONGEST_CALL, MOST_TOKENS, Router

router = APIRouter(prefix=API, tags=["llm"], route_class=limited("llm"))

_PATH: Final = f"{API}/llm/run"
_HEADERS: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_MOST_TURNS: Final = 1000
_MOST_TOOLS: Final = 64
_LONGEST_NAME: Final = 200
_log = structlog.get_logger("api.llm")

ProviderName = Literal["openai", "local", "offline"]
ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", examples=["look_up"])]


def get_router(request: Request) -> Router:
    """The process's router of prompts."""
    return cast(Router, request.app.state.router)


RouterDep = Annotated[Router, Depends(get_router)]


class ToolCallBody(RequestBody):
    """A tool that the model asks for."""

    model_config = ConfigDict(from_attributes=True, extra="forbid")

    id: str = Field(max_length=_LONGEST_NAME, examples=["call_0"])
    name: str = Field(max_length=_LONGEST_NAME, examples=["look_up"])
    arguments: str = Field(description="JSON as the model wrote it, which may be unsound", examples=['{"id": 7}'])


class MessageBody(RequestBody):
    """One turn."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = Field(examples=["What is an HNSW index for?"])
    tool_calls: list[ToolCallBody] = Field(default=[], max_length=_MOST_TOOLS, description="Those of an assistant")
    tool_call_id: str | None = Field(default=None, max_length=_LONGEST_NAME, description="Which call a tool answers")

    def message(self) -> Message:
        """The same for the domain."""
        calls = tuple(ToolCall(call.id, call.name, call.arguments) for call in self.tool_calls)
        return Message(self.role, self.content, calls, self.tool_call_id)


class ToolBody(RequestBody):
    """A tool that the model may ask for; carrying it out is up to the caller."""

    name: ToolName
    description: str = Field(max_length=4000)
    parameters: dict[str, Any] = Field(description="JSON Schema of an object", examples=[{"type": "object"}])


class AskedBody(RequestBody):
    """What is asked: `input`, or the turns of a conversation."""

    input: str | None = Field(default=None, examples=["What is an HNSW index for?"])
    messages: list[MessageBody] = Field(default=[], max_length=_MOST_TURNS)
    model: str | None = Field(
        default=None, max_length=_LONGEST_NAME, description="Of the first provider; default: its own"
    )
    providers: list[ProviderName] = Field(
        default=[], max_length=3, description="Tried in this order; default: STEMMA_LLM_PROVIDERS"
    )
    tools: list[ToolBody] = Field(default=[], max_length=_MOST_TOOLS)
    tools_mode: ToolsMode = Field(default="auto", description="In the model's own way, in words, or as it has them")
    answer_schema: dict[str, Any] | None = Field(
        default=None, description="JSON Schema that the answer has to satisfy", examples=[{"type": "object"}]
    )
    max_tokens: int = Field(default=2048, ge=1, le=MOST_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    timeout: float = Field(default=120.0, ge=1, le=LONGEST_CALL, description="Seconds in all")
    stream: bool = Field(default=False, description="Answer with server-sent events")

    @model_validator(mode="after")
    def _one(self) -> AskedBody:
        if (self.input is None) == (not self.messages):
            raise ValueError("Send either input or messages")
        return self

    def prompt(self) -> Prompt:
        """The same for the domain."""
        said = tuple(message.message() for message in self.messages)
        return Prompt(
            messages=said if self.input is None else (Message("user", self.input),),
            model=self.model,
            providers=tuple(self.providers),
            tools=tuple(ToolSpec(tool.name, tool.description, tool.parameters) for tool in self.tools),
            tools_mode=self.tools_mode,
            schema=self.answer_schema,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            timeout=self.timeout,
        )


class UsageBody(BaseModel):
    """Tokens of the call that answered."""

    model_config = ConfigDict(from_attributes=True)

    tokens_in: int
    tokens_out: int
    tokens_cached: int = Field(description="Those of tokens_in that the provider had cached")
    counted: Counted = Field(description="Whether the provider said so, or they are estimated")


class EndBody(BaseModel):
    """What an answer ends with."""

    model_config = ConfigDict(from_attributes=True)

    provider: str = Field(examples=["offline"])
    model: str = Field(examples=["extractive-1"])
    reason: FinishReason
    usage: UsageBody
    cost: Decimal | None = Field(description="US dollars; null where the price is not known", examples=["0.00042"])
    latency_ms: float
    ttft_ms: float | None = Field(description="Until the first text came")
    tool_calls: list[ToolCallBody]
    citations: list[CitationBody] = Field(description="What an extractive answer was taken from")
    request_id: str


class AnswerBody(EndBody):
    """An answer as a whole."""

    text: str


class ProviderBody(BaseModel):
    """A provider."""

    name: str = Field(examples=["local"])
    state: State
    detail: str = Field(examples=["It answers."])
    models: list[str] = Field(examples=[["llama3.2"]])
    checked_at: datetime | None


class ProvidersBody(BaseModel):
    """Every provider, in the order in which they are asked."""

    data: list[ProviderBody]


@router.post(
    "/llm/run",
    response_model=AnswerBody,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **problems(401, 402, 403, 429, 502, 503, 504),
    },
    summary="Ask a model",
)
async def run(
    request: Request, principal: Annotated[Principal, allow("llm:run")], models: RouterDep, asked: AskedBody
) -> Response:
    """Answers by the first provider that can, and says which one it was. Every call is metered.

    With `stream`, the events are `token` {"text"}, `restarted` {"provider", "reason"} (what came so far is void),
    and at the end `done`, which is the answer without its text, or `error` with code and message. Closing the
    connection ends the call.
    """
    caller = caller_of(request, principal, _PATH, "run")
    if not asked.stream:
        completion = await models.complete(asked.prompt(), caller)
        return Response(_end(completion.finished, caller, text=completion.text), media_type="application/json")
    parts = models.stream(asked.prompt(), caller)
    # What fails before anything was said is answered with its status.
    first = await anext(parts)
    return StreamingResponse(_events(first, parts, caller), media_type="text/event-stream", headers=_HEADERS)


@router.get(
    "/llm/providers",
    response_model=ProvidersBody,
    responses=problems(401, 403, 429, 503),
    summary="How the providers stand",
)
async def list_providers(principal: Annotated[Principal, allow("llm:read")], models: RouterDep) -> dict[str, Any]:
    """As far as is known: a local server is looked for while it is used."""
    return {"data": [_provider(name, standing) for name, standing in models.standings().items()]}


def caller_of(request: Request, principal: Principal, route: str, op: str) -> Caller:
    """On whose behalf a request calls a model."""
    return Caller(
        actor=principal.actor,
        route=route,
        op=op,
        request_id=request.state.request_id,
        key_id=principal.key_id,
        founder=principal.role is Role.GODMODE,
    )


async def _events(first: Part, parts: AsyncGenerator[Part, None], caller: Caller) -> AsyncIterator[bytes]:
    """The parts as server-sent events; ends the call when the client leaves."""
    async with aclosing(parts):
        try:
            yield _event(first, caller)
            async for part in parts:
                yield _event(part, caller)
        except StemmaError as error:
            yield _failed(error, caller)
        except Exception:
            # The status is sent already: only an event can say that nothing follows.
            _log.exception("a call to a model failed unexpectedly", request_id=caller.request_id)
            yield _failed(StemmaError("internal_error", "Something unexpected went wrong."), caller)


def _failed(error: StemmaError, caller: Caller) -> bytes:
    told = {"code": error.code, "message": error.message, "hint": error.hint, "request_id": caller.request_id}
    return _frame("error", json.dumps(told))


def _event(part: Part, caller: Caller) -> bytes:
    if isinstance(part, Delta):
        return _frame("token", json.dumps({"text": part.text}))
    if isinstance(part, Restarted):
        return _frame("restarted", json.dumps({"provider": part.provider, "reason": part.reason}))
    return _frame("done", _end(part, caller))


def _frame(kind: str, data: str) -> bytes:
    return f"event: {kind}\ndata: {data}\n\n".encode()


def _end(finished: Finished, caller: Caller, *, text: str | None = None) -> str:
    """The end of an answer as JSON, with its text where it is to be told at once."""
    said = {
        **{field: getattr(finished, field) for field in Finished.__slots__ if field != "citations"},
        "citations": [hit.citation for hit in finished.citations],
        "request_id": caller.request_id,
    }
    if text is None:
        return EndBody.model_validate(said, from_attributes=True).model_dump_json()
    return AnswerBody.model_validate({**said, "text": text}, from_attributes=True).model_dump_json()


def _provider(name: str, standing: Standing) -> ProviderBody:
    return ProviderBody(
        name=name,
        state=standing.state,
        detail=standing.detail,
        models=list(standing.models),
        checked_at=standing.checked_at,
    )
