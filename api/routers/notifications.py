"""Notifications over HTTP: what was delivered where, what failed and why, and sending that again."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.deps import DatabaseDep, LedgerDep, PageDep, SettingsDep
from api.idempotency import OnceDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.access.principal import Principal
from stemma.notify import outbox
from stemma.notify.delivery import patience
from stemma.notify.outbox import Notification, State
from stemma.store.cursors import Page

router = APIRouter(prefix=f"{API}/notifications", tags=["notifications"], route_class=limited("notifications"))

AdminDep = Annotated[Principal, allow("admin:notify")]


class NotificationBody(BaseModel):
    """One message on its way to one channel."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    message_id: UUID = Field(description="The same for every channel that the message goes to")
    topic: str = Field(examples=["run.failed"])
    title: str = Field(examples=["Run failed: knowledge_refresh"])
    text: str
    channel: str = Field(examples=["team"])
    state: State
    attempts: int = Field(description="Attempts that began", examples=[2])
    created_at: datetime
    next_attempt_at: datetime | None = Field(description="Null once it is delivered or failed")
    settled_at: datetime | None
    error_code: str | None = Field(description="Of the last attempt", examples=["receiver_timeout"])
    error: str | None = Field(examples=["The receiver did not take it within 15 seconds."])


class NotificationsBody(BaseModel):
    """One page of notifications, the newest first."""

    data: list[NotificationBody]
    next_cursor: str | None


@router.get("", response_model=NotificationsBody, responses=problems(503), summary="What was notified")
def list_all(
    _: AdminDep,
    database: DatabaseDep,
    page: PageDep,
    state: Annotated[State | None, Query(description="Only those in this state")] = None,
    channel: Annotated[str | None, Query(max_length=63, description="Only those to this channel")] = None,
) -> Page[Notification]:
    """Messages by channel, the newest first; those that are done with are kept for 30 days."""
    return database.read(
        lambda connection: outbox.list_notifications(
            connection, state=state, channel=channel, cursor=page.cursor, limit=page.limit
        )
    )


@router.post(
    "/{id}/retry", response_model=NotificationBody, responses=problems(404, 409, 503), summary="Send it once more"
)
async def retry(
    principal: AdminDep,
    once: OnceDep,
    delivery_id: Annotated[UUID, Path(alias="id", examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"])],
    database: DatabaseDep,
    settings: SettingsDep,
    ledger: LedgerDep,
) -> Response:
    """A notification that failed is attempted again, at once and until a new deadline, under the same webhook-id."""
    change = await run_in_threadpool(
        database.read,
        lambda connection: outbox.retry(connection, principal, delivery_id, patience=patience(settings)),
    )
    return await once.commit(ledger, change, status=200, body=NotificationBody.model_validate)
