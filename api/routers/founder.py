"""The founder's side of calls to models: the switches over them, and the totals that are all that is kept."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Final

from fastapi import APIRouter, Response
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
from stemma.llm import founder_totals, switches
from stemma.store.database import Connection

router = APIRouter(prefix=f"{API}/founder", tags=["founder"], route_class=limited("founder"))

DAYS: Final = 30


class SwitchBody(BaseModel):
    """A switch that is on."""

    model_config = ConfigDict(from_attributes=True)

    name: str = Field(examples=["stealth"])
    set_by: str = Field(examples=["local:ada"])
    set_at: datetime


class FounderDayBody(BaseModel):
    """The founder's calls of one UTC day."""

    model_config = ConfigDict(from_attributes=True)

    day: date
    calls: int = Field(examples=[12])
    unpriced: int = Field(description="Calls whose price is not known, which the cost lacks", examples=[0])
    tokens_in: int = Field(examples=[4_210])
    tokens_out: int = Field(examples=[1_804])
    cost_est: Decimal = Field(description="US dollars", examples=["0.0123"])


class FounderBody(BaseModel):
    """What is on, and what is kept of the founder's calls."""

    model_config = ConfigDict(from_attributes=True)

    switches: list[SwitchBody]
    days: list[FounderDayBody] = Field(description=f"The last {DAYS} days that had calls, the newest first")


class ThrowBody(RequestBody):
    """A switch, and how it is to stand."""

    name: str = Field(
        max_length=80,
        description="`offline`, `stealth`, `secrets-online`, `provider/<name>` or `agent/<name>`",
        examples=["stealth"],
    )
    on: bool = Field(examples=[True])


class SwitchesBody(BaseModel):
    """What is on now."""

    model_config = ConfigDict(from_attributes=True)

    offline: bool = Field(description="Only the offline provider is called")
    stealth: bool = Field(description="The founder's calls go to `local` and `offline` alone")
    secrets_online: bool = Field(description="The founder's secrets may be told to every provider, in their own calls")
    excluded: list[str] = Field(description="Providers and agents that are not called", examples=[["provider/openai"]])


@router.get("", response_model=FounderBody, responses=problems(401, 403, 429, 503), summary="How the founder's side is")
def show(principal: Annotated[Principal, allow("admin:founder")], database: DatabaseDep) -> FounderBody:
    """Nothing else is kept of calls with the role GODMODE."""

    def read(connection: Connection) -> FounderBody:
        on, days = switches.list_switches(connection), founder_totals.list_days(connection, limit=DAYS)
        return FounderBody.model_validate({"switches": list(on), "days": list(days)}, from_attributes=True)

    return database.read(read)


@router.put("/switches", response_model=SwitchesBody, responses=problems(401, 403, 429, 503), summary="Throw a switch")
async def throw(
    principal: Annotated[Principal, allow("admin:founder")],
    once: OnceDep,
    database: DatabaseDep,
    ledger: LedgerDep,
    given: ThrowBody,
) -> Response:
    """Every process knows within a second. The ledger's entry names the switch and who threw it, and nothing else."""
    change = await run_in_threadpool(database.read, lambda c: switches.throw(c, principal, given.name, on=given.on))
    return await once.commit(ledger, change, status=200, body=_switches)


def _switches(on: switches.Switches) -> SwitchesBody:
    return SwitchesBody(
        offline=on.offline, stealth=on.stealth, secrets_online=on.secrets_online, excluded=sorted(on.excluded)
    )
