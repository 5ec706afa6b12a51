"""Approvals: what waits for somebody's decision, and deciding exactly what was seen."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Body, Path, Query, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.bodies import RequestBody
from api.deps import DatabaseDep, LedgerDep, PageDep
from api.idempotency import OnceDep
from api.limits import limited
from api.openapi import problems
from api.preconditions import SeenDep, entity_tag
from api.routers import API
from stemma.access.permissions import Role
from stemma.access.principal import Principal
from stemma.approvals import catalog, decisions, requests
from stemma.approvals.expiry import settle_due
from stemma.approvals.model import Approval, ApprovalSummary, Risk, State, Verdict
from stemma.ledger.change import Change
from stemma.store.cursors import Page
from stemma.store.database import Connection, Database

PATH: Final = "/approvals"
# Room for the largest content in base64 and the largest diff in UTF-8.
MAX_BODY_BYTES: Final = 5 << 19

router = APIRouter(prefix=f"{API}{PATH}", tags=["approvals"], route_class=limited("approvals"))

IdPath = Annotated[UUID, Path(alias="id", examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"])]


def _decoded(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ValueError("It has to be base64 (RFC 4648, 4)") from error


Base64 = Annotated[bytes, BeforeValidator(_decoded), WithJsonSchema({"type": "string", "contentEncoding": "base64"})]


class ProposalBody(RequestBody):
    """What somebody is asked to approve."""

    kind: str = Field(description="What is to be done", examples=["publish"], max_length=63)
    subject: str = Field(description="What it is to be done with", examples=["policy/refunds"], max_length=300)
    content: Base64 = Field(description="The exact bytes to approve, base64, at most 1 MiB", examples=["YjogMwo="])
    media_type: str = Field(default="application/octet-stream", examples=["text/yaml"], max_length=300)
    diff: str = Field(
        default="",
        max_length=requests.MAX_DIFF,
        description="What differs from now, in the requester's words",
        examples=["-b: 2\n+b: 3"],
    )
    reason: str = Field(
        description="Why it should be approved",
        max_length=requests.MAX_REASON,
        examples=["Refunds of up to 100 need no call."],
    )
    risk: Risk = Risk.MEDIUM
    deciders: list[Role] = Field(
        default=[], max_length=len(Role), description="Roles that may decide; empty: all that have `approvals:decide`"
    )
    second_person: bool = Field(default=False, description="The requester may not decide")
    approvals_needed: int = Field(default=1, ge=1, le=2, description="How many different principals have to approve")
    lifetime: int = Field(
        default=int(requests.DEFAULT_LIFETIME.total_seconds()),
        ge=int(requests.SHORTEST.total_seconds()),
        le=int(requests.LONGEST.total_seconds()),
        description="Seconds in which to decide; then it counts as denied",
    )

    def proposal(self) -> requests.Proposal:
        """The same for the domain."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return requests.Proposal(
            **{**given, "deciders": tuple(dict.fromkeys(self.deciders)), "lifetime": timedelta(seconds=self.lifetime)}
        )


class ReasonBody(RequestBody):
    """Why somebody decides as they do."""

    reason: str = Field(
        default="",
        max_length=requests.MAX_REASON,
        description="A denial needs one",
        examples=["The limit is what we agreed on."],
    )


class SummaryBody(BaseModel):
    """An approval as listed."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    kind: str = Field(examples=["publish"])
    subject: str = Field(examples=["policy/refunds"])
    media_type: str = Field(description="Of the content", examples=["text/yaml"])
    content_sha256: str = Field(description="SHA-256 of the exact bytes, hexadecimal")
    size: int = Field(description="Bytes of the content", examples=[512])
    risk: Risk
    reason: str
    deciders: list[Role] = Field(description="Roles that may decide; empty: all that have `approvals:decide`")
    second_person: bool = Field(description="The requester may not decide")
    approvals_needed: int = Field(description="How many different principals have to approve")
    requested_by: str = Field(examples=["key:5b0f8c1e-8d8c-4d1c-9a5b-0f2a6f2a7c11"])
    requested_at: datetime
    expires_at: datetime = Field(description="The deadline; what is pending then counts as denied")
    state: State
    version: int = Field(description="One more with every step")
    settled_at: datetime | None = Field(description="When it left `pending`; the deadline where it expired")
    consumed_by: str | None = Field(description="Who used it, where it can be used once")
    consumed_at: datetime | None
    etag: str = Field(description="These bytes in this state; send it in quotes as If-Match")


class DecisionBody(BaseModel):
    """One decider's verdict."""

    model_config = ConfigDict(from_attributes=True)

    decided_by: str
    role: Role
    verdict: Verdict
    reason: str
    decided_at: datetime


class ApprovalBody(SummaryBody):
    """An approval with the requester's diff and the verdicts so far."""

    diff: str
    decisions: list[DecisionBody]


class ApprovalsBody(BaseModel):
    """One page of approvals."""

    data: list[SummaryBody]
    next_cursor: str | None


@router.post(
    "",
    status_code=201,
    response_model=ApprovalBody,
    responses=problems(401, 403, 409, 429, 503),
    summary="Ask for an approval",
)
async def request_approval(
    principal: Annotated[Principal, allow("approvals:request")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    proposal: ProposalBody,
) -> Response:
    """Puts exact bytes before whoever may decide; what nobody decides in time counts as denied."""
    change = await _prepared(database, lambda c: requests.request(c, principal, proposal.proposal()))
    return await once.commit(ledger, change, status=201, body=ApprovalBody.model_validate)


@router.get(
    "",
    response_model=ApprovalsBody,
    responses=problems(401, 403, 429, 503),
    summary="List approvals",
)
def list_approvals(
    principal: Annotated[Principal, allow("approvals:read")],
    database: DatabaseDep,
    ledger: LedgerDep,
    page: PageDep,
    state: Annotated[State | None, Query(description="Only those in this state")] = None,
    kind: Annotated[str | None, Query(max_length=63, description="Only this kind")] = None,
    subject: Annotated[str | None, Query(max_length=300, description="Only this subject")] = None,
    requested_by: Annotated[str | None, Query(max_length=500, description="Only what this actor asked for")] = None,
    risk: Annotated[Risk | None, Query(description="Only this risk")] = None,
) -> Page[ApprovalSummary]:
    """The newest first, without diffs."""
    settle_due(database, ledger)
    return database.read(
        lambda connection: catalog.list_approvals(
            connection,
            state=state,
            kind=kind,
            subject=subject,
            requested_by=requested_by,
            risk=risk,
            cursor=page.cursor,
            limit=page.limit,
        )
    )


@router.get(
    "/{id}",
    response_model=ApprovalBody,
    responses=problems(401, 403, 404, 429, 503),
    summary="Open an approval",
)
def show_approval(
    principal: Annotated[Principal, allow("approvals:read")],
    response: Response,
    database: DatabaseDep,
    ledger: LedgerDep,
    approval_id: IdPath,
) -> Approval:
    """What is asked, why, how risky, the diff, and who has decided; the ETag is what a decision has to name."""
    settle_due(database, ledger)
    approval = database.read(lambda connection: catalog.get_approval(connection, approval_id))
    response.headers["ETag"] = entity_tag(approval.etag)
    return approval


@router.get(
    "/{id}/content",
    response_class=Response,
    responses={
        200: {
            "description": "The exact bytes, with their own media type",
            "content": {"*/*": {"schema": {}}},
        },
        **problems(401, 403, 404, 429, 503),
    },
    summary="Download the bytes that are approved",
)
def download_content(
    principal: Annotated[Principal, allow("approvals:read")], database: DatabaseDep, approval_id: IdPath
) -> Response:
    """The exact bytes, for saving: a browser neither shows nor runs them."""
    content = database.read(lambda connection: catalog.get_content(connection, approval_id))
    digest = base64.b64encode(bytes.fromhex(content.sha256)).decode()
    headers = {
        "Content-Type": content.media_type,
        "Content-Disposition": f'attachment; filename="approval-{approval_id}"',
        "Content-Security-Policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Repr-Digest": f"sha-256=:{digest}:",
    }
    return Response(content.data, headers=headers)


@router.post(
    "/{id}/approve",
    response_model=ApprovalBody,
    responses=problems(401, 403, 404, 409, 412, 428, 429, 503),
    summary="Approve",
)
async def approve(
    principal: Annotated[Principal, allow("approvals:decide")],
    once: OnceDep,
    seen: SeenDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    approval_id: IdPath,
    given: Annotated[ReasonBody | None, Body()] = None,
) -> Response:
    """Approves exactly what If-Match names; where two people are needed, it stays pending after the first."""
    reason = given.reason if given else ""
    change = await _prepared(
        database, lambda c: decisions.decide(c, principal, approval_id, Verdict.APPROVE, reason=reason, seen=seen)
    )
    return await once.commit(ledger, change, status=200, body=ApprovalBody.model_validate)


@router.post(
    "/{id}/deny",
    response_model=ApprovalBody,
    responses=problems(401, 403, 404, 409, 412, 428, 429, 503),
    summary="Deny",
)
async def deny(
    principal: Annotated[Principal, allow("approvals:decide")],
    once: OnceDep,
    seen: SeenDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    approval_id: IdPath,
    given: ReasonBody,
) -> Response:
    """Denies it with a reason; one denial is enough."""
    change = await _prepared(
        database, lambda c: decisions.decide(c, principal, approval_id, Verdict.DENY, reason=given.reason, seen=seen)
    )
    return await once.commit(ledger, change, status=200, body=ApprovalBody.model_validate)


@router.delete(
    "/{id}",
    response_model=ApprovalBody,
    responses=problems(401, 403, 404, 409, 412, 428, 429, 503),
    summary="Withdraw a request",
)
async def withdraw(
    principal: Annotated[Principal, allow("approvals:request")],
    once: OnceDep,
    seen: SeenDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    approval_id: IdPath,
) -> Response:
    """Takes back what nobody has decided: one's own, or anybody's with `approvals:withdraw-any`."""
    change = await _prepared(database, lambda c: requests.withdraw(c, principal, approval_id, seen=seen))
    return await once.commit(ledger, change, status=200, body=ApprovalBody.model_validate)


async def _prepared(database: Database, prepare: Callable[[Connection], Change[Approval]]) -> Change[Approval]:
    return await run_in_threadpool(database.read, prepare)
