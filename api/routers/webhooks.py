"""Incoming webhooks: whoever signs by Standard Webhooks with the secret of a source has its kind of job done.

No key is asked for; the signature is verified on the body's very bytes, before anything of them is interpreted.
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from api.access import SIGNED, rated
from api.bodies import check_json
from api.deps import DatabaseDep, LedgerDep, SettingsDep
from api.idempotency import once_for
from api.launches import LaunchesDep
from api.limits import Rates, limited
from api.openapi import problems
from stemma.errors import InvalidInput, StemmaError
from stemma.jobs.model import Job, JobState
from stemma.ledger.change import Change
from stemma.notify import reception
from stemma.notify.standard_webhooks import ID, SIGNATURE, TIMESTAMP
from stemma.store.database import Connection

router = APIRouter(tags=["webhooks"], route_class=limited("webhooks"))

_HEADERS: Final = {
    ID: "The message's id: a repeat with the same one, and the same body, is answered as the first was",
    TIMESTAMP: "When it was signed, in seconds since 1970",
    SIGNATURE: "One or more `v1,<base64>`, parted by spaces",
}
_CONTENT: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
    "parameters": [
        {"name": name, "in": "header", "required": True, "description": what, "schema": {"type": "string"}}
        for name, what in _HEADERS.items()
    ],
}


class AcceptedBody(BaseModel):
    """The job that the webhook asked for."""

    job: UUID
    kind: str = Field(examples=["convert"])
    state: JobState


@router.post(
    SIGNED + "{source}",
    status_code=202,
    response_model=AcceptedBody,
    responses=problems(401, 403, 404, 409, 429, 503),
    openapi_extra=_CONTENT,
    summary="Take a signed webhook",
)
async def receive(
    request: Request,
    source: Annotated[str, Path(max_length=63, examples=["n8n"])],
    database: DatabaseDep,
    settings: SettingsDep,
    ledger: LedgerDep,
    launches: LaunchesDep,
) -> Response:
    """The body, or the part of it that the source names, becomes the input of a job of the source's kind."""
    body = await request.body()
    headers = dict(request.headers)

    def authenticate(connection: Connection) -> reception.Received:
        return reception.authenticate(connection, settings, source, headers, body)

    try:
        received = await run_in_threadpool(database.read, authenticate)
    except StemmaError as error:
        raise rated(request.scope, error) from None
    rates: Rates = request.app.state.rates
    rates.take(settings.api_requests_per_minute, "webhooks of one source", received.principal.actor)

    def submit(connection: Connection) -> Change[Job]:
        check_json(body)
        return reception.submitted(connection, received, body)

    try:
        async with once_for(request.app, database, received.keyed) as once:
            change = await run_in_threadpool(database.read, submit)
            response = await once.commit(ledger, change, status=202, body=_accepted)
    except InvalidInput as error:
        raise (_id_reused() if error.code == "idempotency_key_reused" else error) from None
    launches.launch(change.result(()))
    return response


def _accepted(job: Job) -> AcceptedBody:
    return AcceptedBody(job=job.id, kind=job.kind, state=job.state)


def _id_reused() -> InvalidInput:
    what = "This webhook-id was used for another body."
    return InvalidInput("webhook_id_reused", what, field=ID, hint="Give each message an id of its own.")
