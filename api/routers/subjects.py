"""Subjects of personal data over HTTP: erasing one. Their names come in bodies alone, which nothing keeps."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from api.access import allow
from api.bodies import RequestBody
from api.deps import DatabaseDep, LedgerDep, SettingsDep
from api.idempotency import OnceDep
from api.limits import limited
from api.openapi import problems
from api.routers import API
from stemma.access.principal import Principal
from stemma.personal import erasure

router = APIRouter(prefix=API, tags=["subjects"], route_class=limited("subjects"))


class EraseBody(RequestBody):
    """Whom to erase."""

    subject: str = Field(
        min_length=1,
        max_length=500,
        description="The name under which their data were sealed; capitals and spaces do not matter",
        examples=["ada@example.org"],
    )


class SealedOnBody(BaseModel):
    """Sealed fields in the entries of one chain."""

    chain: str = Field(examples=["decisions:finance"])
    fields: int = Field(examples=[12])


class ErasureBody(BaseModel):
    """A subject whose sealed fields nobody can open any more."""

    subject: str = Field(description="Their pseudonym on the ledger", examples=["5f1d0a2be3c94d58a2c7e0d1b6f48e93"])
    erased_at: datetime
    sealed: list[SealedOnBody] = Field(description="What was erased now")
    again: bool = Field(description="They had been erased before; `erased_at` says when")


@router.post(
    "/subjects/erase",
    response_model=ErasureBody,
    responses=problems(404, 409, 429, 503),
    summary="Erase a subject",
    description=(
        "Destroys the key of everything that was sealed for this person. **Nobody can undo it.** The entries stay and "
        "verify; their sealed fields cannot be opened any more. Erasing again changes nothing. Backups that were made "
        "before still hold the key: `stemma erase` lists those in the default folder."
    ),
)
async def erase(
    body: EraseBody,
    principal: Annotated[Principal, allow("admin:erase")],
    once: OnceDep,
    database: DatabaseDep,
    settings: SettingsDep,
    ledger: LedgerDep,
) -> Response:
    def prepare() -> erasure.Plan:
        with database.transaction() as connection:
            planned = erasure.plan(connection, settings, body.subject)
            erasure.destroy_key(connection, settings, planned)
        return planned

    planned = await run_in_threadpool(prepare)
    return await once.commit(ledger, erasure.erase(principal, planned), status=200, body=_body)


def _body(done: erasure.Erasure) -> ErasureBody:
    sealed = [SealedOnBody(chain=on.chain, fields=on.fields) for on in done.sealed]
    return ErasureBody(subject=done.subject, erased_at=done.erased_at, sealed=sealed, again=done.again)
