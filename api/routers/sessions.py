"""Signing in and out by a browser, and who a request comes from.

A link is opened by a GET, which programs that preview links send too; only its button's POST signs in.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Form, Path, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.access import allow, rated
from api.console.rendering import render
from api.deps import DatabaseDep, LedgerDep, SettingsDep
from api.limits import Rates, limited
from api.openapi import problems
from api.routers import API
from api.sessions import SIGN_IN, clear_cookie, local_path, set_cookie
from stemma.access import links, sessions
from stemma.access.authentication import recognise
from stemma.access.principal import Principal
from stemma.access.sessions import ENDINGS, OpenedSession, Session
from stemma.errors import Conflict, StemmaError

router = APIRouter(prefix=API, tags=["sessions"], route_class=limited("sessions"))
pages = APIRouter(route_class=limited("sessions"), include_in_schema=False)

_START: Final = "/"


class SessionBody(BaseModel):
    """A session, to the browser that has it."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    created_at: datetime
    expires_at: datetime = Field(description="It ends earlier where it is not used for long, and with its key")
    csrf_token: str = Field(description="What X-CSRF-Token takes where the session changes something")


class CallerBody(BaseModel):
    """Who a request comes from."""

    actor: str = Field(description="As the ledger names them", examples=["key:5b0f8c1e-8d8c-4d1c-9a5b-0f2a6f2a7c11"])
    role: str = Field(examples=["Builder"])
    scopes: list[str] = Field(examples=[["search:*", "ingest:write"]])
    session: SessionBody | None = Field(description="Null for a request that bears its key or is signed")


@router.get("/session", response_model=CallerBody, responses=problems(503), summary="Who am I?")
def read_session(request: Request, principal: Annotated[Principal, allow(None, counted="sessions")]) -> CallerBody:
    """Who asks, with what they may do, and the session that the request belongs to."""
    session: Session | None = request.state.session
    return CallerBody(
        actor=principal.actor,
        role=principal.role,
        scopes=sorted(principal.scopes),
        session=SessionBody.model_validate(session) if session is not None else None,
    )


@pages.get(SIGN_IN)
def show_sign_in(
    request: Request,
    wanted: Annotated[str | None, Query(alias="next", max_length=8192)] = None,
    reason: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """Asks for a key, and says why a session is over."""
    return _sign_in_page(request, local_path(wanted), ENDINGS.get(reason or "", ""))


@pages.post(SIGN_IN)
async def sign_in(
    request: Request,
    database: DatabaseDep,
    settings: SettingsDep,
    ledger: LedgerDep,
    key: Annotated[str, Form(max_length=200)] = "",
    wanted: Annotated[str | None, Form(alias="next", max_length=8192)] = None,
) -> Response:
    """Trades a key for a session."""
    try:
        known = await run_in_threadpool(recognise, database, settings, key.strip())
        rates: Rates = request.app.state.rates
        rates.take(settings.api_requests_per_minute, "sign-ins", known.principal.actor)
        opened = await ledger.commit_async(await run_in_threadpool(sessions.begin, known, settings))
    except StemmaError as error:
        refusal = rated(request.scope, error)
        return _sign_in_page(request, local_path(wanted), str(refusal), status=refusal.status)
    return _signed_in(request, opened, local_path(wanted))


@pages.get(f"{SIGN_IN}/{{token}}")
def show_link(request: Request, token: Annotated[str, Path(max_length=200)]) -> Response:
    """Asks whether to sign in: opening a link alone uses nothing up."""
    return render(request, "pages/sign_in_link.html", store=False, action=f"{SIGN_IN}/{token}")


@pages.post(f"{SIGN_IN}/{{token}}")
async def use_link(
    request: Request,
    database: DatabaseDep,
    settings: SettingsDep,
    ledger: LedgerDep,
    token: Annotated[str, Path(max_length=200)],
) -> Response:
    """Trades a link for a session, once."""
    try:
        change = await run_in_threadpool(database.read, lambda connection: links.redeem(connection, settings, token))
        opened = await ledger.commit_async(change)
    except StemmaError as error:
        refusal = rated(request.scope, error)
        return _sign_in_page(request, _START, str(refusal), status=refusal.status)
    return _signed_in(request, opened, _START)


@pages.post("/sign-out")
async def sign_out(
    request: Request,
    principal: Annotated[Principal, allow(None, counted="sessions")],
    database: DatabaseDep,
    ledger: LedgerDep,
) -> Response:
    """Ends the session of the request; its cookie opens nothing from then on, whoever has a copy."""
    session: Session | None = request.state.session
    if session is None:
        raise Conflict("no_session", "This request belongs to no session.", hint="Leave out the key.")
    change = await run_in_threadpool(database.read, lambda connection: sessions.end(connection, principal, session.id))
    await ledger.commit_async(change)
    response = RedirectResponse(SIGN_IN, 303)
    clear_cookie(request.scope, response)
    return response


def _signed_in(request: Request, opened: OpenedSession, address: str) -> Response:
    response = RedirectResponse(address, 303, {"Cache-Control": "no-store"})
    set_cookie(request.scope, response, opened)
    return response


def _sign_in_page(request: Request, wanted: str, told: str, *, status: int = 200) -> Response:
    return render(request, "pages/sign_in.html", status=status, store=False, wanted=wanted, told=told)
