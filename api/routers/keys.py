"""API keys over HTTP; a key's secrets are shown when it is created or rotated, and never again."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.bodies import RequestBody
from api.deps import DatabaseDep, LedgerDep, PageDep, SettingsDep
from api.idempotency import OnceDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.access import keys
from stemma.access.catalog import ApiKey, list_keys, read_key
from stemma.access.permissions import PERMISSIONS
from stemma.access.principal import Principal
from stemma.store.cursors import Page

router = APIRouter(prefix=f"{API}/keys", tags=["keys"], route_class=limited("keys"))

IdPath = Annotated[UUID, Path(alias="id", examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"])]
AdminDep = Annotated[Principal, allow("admin:keys")]
OwnDep = Annotated[Principal, allow("admin:keys", own="id")]


class NewKeyBody(RequestBody):
    """A key to create, within the role and scopes of the one that asks."""

    name: str = Field(description="What it is for", examples=["ci"], max_length=keys.LONGEST_NAME)
    role: str = Field(examples=["Builder"], max_length=32)
    scopes: list[Annotated[str, Field(max_length=64)]] = Field(
        description="`capability:*` or `capability:action`", examples=[["search:*", "ingest:write"]]
    )
    expires_at: AwareDatetime | None = Field(default=None, description="With its offset from UTC")
    signed_only: bool = Field(default=False, description="Refuse it as a bearer token: its requests are signed")


class KeyBody(BaseModel):
    """A key as listed."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str = Field(examples=["ci"])
    role: str = Field(examples=["Builder"])
    scopes: list[str] = Field(examples=[["search:*", "ingest:write"]])
    signed_only: bool
    created_by: str = Field(examples=["local:ada"])
    created_at: datetime
    expires_at: datetime | None
    rotated_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="Right to the minute")


class IssuedKeyBody(KeyBody):
    """A key with its secrets, which are shown once: the answer to a repeat has null in their place."""

    key: str | None = Field(description="What `Authorization: Bearer` takes", examples=["stm_…"])
    signing_secret: str | None = Field(description="What signs requests by hmac-sha256, base64", examples=["kZ0…="])


class OwnKeyBody(KeyBody):
    """The key that asks, with what it may do."""

    permissions: list[str] = Field(examples=[["ingest:read", "search:read"]])


class KeysBody(BaseModel):
    """One page of keys."""

    data: list[KeyBody]
    next_cursor: str | None


@router.get("", response_model=KeysBody, responses=problems(503), summary="List the API keys")
def list_all(_: AdminDep, database: DatabaseDep, page: PageDep) -> Page[ApiKey]:
    """All keys, revoked ones too, in the order in which they were created."""
    return database.read(lambda connection: list_keys(connection, cursor=page.cursor, limit=page.limit))


@router.post("", status_code=201, response_model=IssuedKeyBody, responses=problems(503), summary="Create an API key")
async def create(
    principal: AdminDep,
    once: OnceDep,
    wanted: NewKeyBody,
    database: DatabaseDep,
    settings: SettingsDep,
    ledger: LedgerDep,
) -> Response:
    """The key and its signing secret are shown here and never again: store them before you close the connection."""
    asked = keys.NewKey(**wanted.model_dump())
    change = await run_in_threadpool(
        database.read, lambda connection: keys.create_key(connection, principal, asked, settings)
    )
    return await once.commit(ledger, change, status=201, body=_shown, kept=_hidden)


@router.get("/me", response_model=OwnKeyBody, responses=problems(404, 503), summary="Which key is this?")
def read_own(principal: Annotated[Principal, allow(None)], database: DatabaseDep) -> OwnKeyBody:
    """The key that asks, with every permission that its role and scopes give it together."""
    key_id = principal.key_id
    assert key_id is not None
    key = database.read(lambda connection: read_key(connection, key_id))
    permissions = sorted(permission for permission in PERMISSIONS if principal.may(permission))
    return OwnKeyBody(**KeyBody.model_validate(key).model_dump(), permissions=permissions)


@router.post(
    "/{id}/rotate", response_model=IssuedKeyBody, responses=problems(404, 409, 503), summary="Rotate an API key"
)
async def rotate(
    principal: OwnDep, once: OnceDep, key_id: IdPath, database: DatabaseDep, settings: SettingsDep, ledger: LedgerDep
) -> Response:
    """A new secret, shown here and never again; the old one is refused at once.

    A key may rotate itself. Another's takes admin:keys, and a role and scopes that cover those of that key.
    """
    change = await run_in_threadpool(
        database.read, lambda connection: keys.rotate_key(connection, principal, key_id, settings)
    )
    return await once.commit(ledger, change, status=200, body=_shown, kept=_hidden)


@router.delete("/{id}", response_model=KeyBody, responses=problems(404, 409, 503), summary="Revoke an API key")
async def revoke(
    principal: OwnDep, once: OnceDep, key_id: IdPath, database: DatabaseDep, ledger: LedgerDep
) -> Response:
    """It is refused from now on, for ever; the row stays. A key may revoke itself, another's takes admin:keys."""
    change = await run_in_threadpool(database.read, lambda connection: keys.revoke_key(connection, principal, key_id))
    return await once.commit(ledger, change, status=200, body=KeyBody.model_validate)


def _shown(issued: keys.IssuedKey) -> IssuedKeyBody:
    listed = KeyBody.model_validate(issued.api_key).model_dump()
    return IssuedKeyBody(**listed, key=issued.key, signing_secret=issued.signing_secret)


def _hidden(issued: keys.IssuedKey) -> IssuedKeyBody:
    return _shown(issued).model_copy(update={"key": None, "signing_secret": None})
