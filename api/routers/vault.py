"""The vault over HTTP: setting and removing secrets of agents. No route gives a value back."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.bodies import RequestBody
from api.deps import DatabaseDep, LedgerDep, SettingsDep
from api.idempotency import OnceDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.access.principal import Principal
from stemma.agents.vault import master_keys, secrets

router = APIRouter(prefix=f"{API}/vault", tags=["vault"], route_class=limited("vault"))

AgentPath = Annotated[str, Path(max_length=32, description="The agent whose secret it is", examples=["riven"])]
NamePath = Annotated[str, Path(max_length=63, description="The secret's name", examples=["GITHUB_TOKEN"])]


class ValueBody(RequestBody):
    """What a secret is to be."""

    value: SecretStr = Field(
        description=f"Text of 8 to {secrets.MAX_VALUE_BYTES:,} bytes; it is sealed and shown to nobody",
        examples=["ghp_written-only"],
    )


class SecretBody(BaseModel):
    """What is told of a secret."""

    model_config = ConfigDict(from_attributes=True)

    agent: str = Field(examples=["riven"])
    name: str = Field(examples=["GITHUB_TOKEN"])
    set_by: str = Field(examples=["local:ada"])
    created_at: datetime
    set_at: datetime


class SecretsBody(BaseModel):
    """The secrets by name."""

    data: list[SecretBody]


class RotationBody(BaseModel):
    """A new key that seals everything."""

    model_config = ConfigDict(from_attributes=True)

    key_id: str = Field(description="It says nothing of the key", examples=["5f1d0a2be3c94d58"])
    sealed: int = Field(description="Secrets that it seals", examples=[3])


@router.get(
    "/secrets", response_model=SecretsBody, responses=problems(401, 403, 429, 503), summary="List the secrets of agents"
)
def list_secrets(
    principal: Annotated[Principal, allow("admin:vault")],
    database: DatabaseDep,
    agent: Annotated[str | None, Query(max_length=32, description="Only the secrets of this agent")] = None,
) -> dict[str, tuple[secrets.Secret, ...]]:
    """By agent and name; their values are shown nowhere."""
    return {"data": database.read(lambda connection: secrets.list_secrets(connection, agent))}


@router.put(
    "/secrets/{agent}/{name}",
    response_model=SecretBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Set a secret of an agent",
)
async def set_secret(
    principal: Annotated[Principal, allow("admin:vault")],
    once: OnceDep,
    database: DatabaseDep,
    settings: SettingsDep,
    ledger: LedgerDep,
    agent: AgentPath,
    name: NamePath,
    given: ValueBody,
) -> Response:
    """One of the same name is replaced."""
    change = await run_in_threadpool(
        database.read, lambda c: secrets.set_secret(c, principal, settings, agent, name, given.value)
    )
    return await once.commit(ledger, change, status=200, body=SecretBody.model_validate)


@router.delete(
    "/secrets/{agent}/{name}",
    response_model=SecretBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    summary="Remove a secret of an agent",
)
async def remove_secret(
    principal: Annotated[Principal, allow("admin:vault")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    agent: AgentPath,
    name: NamePath,
) -> Response:
    """Answers with what was told of it."""
    change = await run_in_threadpool(database.read, lambda c: secrets.remove_secret(c, principal, agent, name))
    return await once.commit(ledger, change, status=200, body=SecretBody.model_validate)


@router.post(
    "/rotations",
    response_model=RotationBody,
    responses=problems(401, 403, 409, 429, 503),
    summary="Seal every secret anew",
)
async def rotate(
    principal: Annotated[Principal, allow("admin:vault")],
    once: OnceDep,
    database: DatabaseDep,
    settings: SettingsDep,
    ledger: LedgerDep,
) -> Response:
    """Under the first key of `STEMMA_VAULT_KEY`, or under a new one in `STEMMA_HOME/keys`. Backups hold the old one."""
    change = await run_in_threadpool(database.read, lambda c: secrets.rotate(c, principal, settings))
    answer = await once.commit(ledger, change, status=200, body=RotationBody.model_validate)
    await run_in_threadpool(master_keys.drop_other_keys, settings, change.result(()).key_id)
    return answer
