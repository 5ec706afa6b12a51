"""What calls to models used, call by call."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from api.access import allow
from api.deps import DatabaseDep, PageDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.access.principal import Principal
from stemma.llm.usage import Use, list_usage
from stemma.store.cursors import Page

router = APIRouter(prefix=f"{API}/usage", tags=["usage"], route_class=limited("usage"))

Name = Annotated[str | None, Query(max_length=100)]


class UseBody(BaseModel):
    """A call to a model."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    ts: datetime = Field(description="When it ended")
    request_id: str
    job_id: UUID | None
    actor: str = Field(examples=["key:8e03978e-40d5-43dd-bc93-6894a57f9324"])
    key_id: UUID | None
    agent: str | None = Field(examples=["nova"])
    route: str = Field(examples=["/api/v1/llm/run"])
    op: str = Field(description="What for", examples=["run"])
    provider: str = Field(examples=["openai"])
    model: str = Field(examples=["gpt-4.1-mini"])
    status: str = Field(description="`ok`, `error` or `cancelled`", examples=["ok"])
    error_code: str | None
    tokens_in: int
    tokens_cached: int = Field(description="Those of tokens_in that the provider had cached")
    tokens_out: int
    counted: str = Field(description="`provider`, or `estimated` where it did not say", examples=["provider"])
    cost_est: Decimal | None = Field(description="US dollars; null where the price is not known", examples=["0.00018"])
    latency_ms: float
    ttft_ms: float | None = Field(description="Until the first token")
    meta: dict[str, Any]


class UsesBody(BaseModel):
    """One page of calls, the newest first."""

    data: list[UseBody]
    next_cursor: str | None


@router.get("", response_model=UsesBody, responses=problems(401, 403, 429, 503), summary="List calls to models")
def list_uses(
    principal: Annotated[Principal, allow("llm:read")],
    database: DatabaseDep,
    page: PageDep,
    provider: Name = None,
    agent: Name = None,
    request_id: Name = None,
) -> Page[Use]:
    """Every call, those that failed or were cancelled too; a founder's are in the totals of `/costs` alone."""
    return database.read(
        lambda connection: list_usage(
            connection,
            provider=provider,
            agent=agent,
            request_id=request_id,
            cursor=page.cursor,
            limit=page.limit,
        )
    )
