"""The audit chain over HTTP: who did what."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from api.access import allow
from api.deps import DatabaseDep, PageDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.access.audit import AuditRow, list_audit
from stemma.store.cursors import Page

router = APIRouter(
    prefix=f"{API}/audit", tags=["audit"], route_class=limited("audit"), dependencies=[allow("admin:audit")]
)

_LONGEST = 500


class AuditBody(BaseModel):
    """One action."""

    model_config = ConfigDict(from_attributes=True)

    seq: int = Field(description="Its place in the ledger's chain `audit`", examples=[17])
    ts: datetime
    actor: str = Field(examples=["key:8e03978e-40d5-43dd-bc93-6894a57f9324"])
    action: str = Field(examples=["key.created"])
    resource: str = Field(examples=["key/5b0f8c1e-8d8c-4d1c-9a5b-0f2a6f2a7c11"])
    meta: dict[str, Any] = Field(description="What the action says of itself", examples=[{"name": "ci"}])


class AuditsBody(BaseModel):
    """One page of actions."""

    data: list[AuditBody]
    next_cursor: str | None


@router.get("", response_model=AuditsBody, responses=problems(503), summary="Who did what")
def list_actions(
    database: DatabaseDep,
    page: PageDep,
    actor: Annotated[str | None, Query(max_length=_LONGEST, description="Only this actor")] = None,
    action: Annotated[str | None, Query(max_length=_LONGEST, description="Only this action")] = None,
    resource: Annotated[str | None, Query(max_length=_LONGEST, description="Only on this resource")] = None,
    since: Annotated[AwareDatetime | None, Query(description="From this time on, with its offset from UTC")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Before this time, with its offset from UTC")] = None,
) -> Page[AuditRow]:
    """Actions on the ledger's audit chain, newest first."""
    return database.read(
        lambda connection: list_audit(
            connection,
            actor=actor,
            action=action,
            resource=resource,
            since=since,
            until=until,
            cursor=page.cursor,
            limit=page.limit,
        )
    )
