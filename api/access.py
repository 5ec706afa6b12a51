"""Who may use a route: `Authentication` finds out who sent a request, `allow` asks for the permission it takes.

Every path but those in `PUBLIC` and `PUBLIC_BELOW` takes a known key, or a session that one was traded for, before
anything else is looked at; what a key may do is the business of `stemma.access`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

import structlog
from fastapi import Depends, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.limits import InFlight, Rates, TooManyRequests
from api.middleware import is_founders
from api.problems import error_response
from api.sessions import require_own_page, session_cookie, to_sign_in, wants_page
from stemma.access.permissions import PERMISSIONS, Role, permissions_of
from stemma.access.principal import Principal
from stemma.access.scheduler import SCHEDULER_HEADER, authenticate_scheduler
from stemma.access.sessions import Session, authenticate_session
from stemma.access.signatures import BodyDigest, SignedRequest, authenticate_signed
from stemma.errors import Forbidden, InvalidInput, StemmaError, Unauthenticated
from stemma.store.logs import unlogged
from stemma.store.settings import Settings

PUBLIC: Final = frozenset({"/healthz", "/readyz", "/openapi.json", "/sign-in", "/api/v1/metrics.json"})
SIGNED: Final = "/api/v1/webhooks/"
"""What begins like this asks for no key: its routes verify the signature of a webhook source."""

PUBLIC_BELOW: Final = ("/sign-in/", "/static/", "/files/", SIGNED)

SCHEDULER_PATHS: Final = re.compile(r"(/api/v1)?/jobs/[^/]+/run")
"""Where outside schedulers start jobs, by the internal token; a key is not taken there."""

_log = structlog.get_logger("api")


def is_public(path: str) -> bool:
    """Whether a path is answered to everybody; what is in it has to be as public, or look for itself."""
    return path in PUBLIC or path.startswith(PUBLIC_BELOW)


class Authentication:
    """Finds the principal of each request and refuses those of nobody known (401), before their body is read.

    It is `scope["state"]["principal"]`; `scope["state"]["session"]` is the session that the request belongs to, or
    None. Who asks for a page without either is sent to the sign-in page.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or is_public(scope["path"]):
            await self.app(scope, receive, send)
            return
        try:
            caller = await _authenticated(scope)
            if caller.session is not None:
                receive = await require_own_page(scope, receive, caller.session)
            scope["state"]["principal"] = _simulated(caller.principal, scope)
            scope["state"]["session"] = caller.session
        except StemmaError as error:
            await _refusal(scope, rated(scope, error))(scope, receive, send)
            return
        if caller.digest is not None:
            receive = _compared(receive, caller.digest)
        with unlogged() if is_founders(scope) else contextlib.nullcontext():
            await self.app(scope, receive, send)


@dataclass(frozen=True, slots=True)
class _Caller:
    principal: Principal
    session: Session | None = None
    digest: BodyDigest | None = None


async def _authenticated(scope: Scope) -> _Caller:
    state = scope["app"].state
    headers = Headers(scope=scope)
    if SCHEDULER_PATHS.fullmatch(scope["path"]):
        return _Caller(authenticate_scheduler(state.settings, headers.get(SCHEDULER_HEADER)))
    given = headers.getlist("authorization")
    if "signature-input" in headers or "signature" in headers:
        if given:
            what = "A request is signed or bears its key, not both."
            raise Unauthenticated("authorization_invalid", what, hint="Leave out one of the two.")
        request = SignedRequest(scope.get("method", "GET"), _url(scope, headers), headers)
        principal, digest = await run_in_threadpool(authenticate_signed, state.database, state.settings, request)
        return _Caller(principal, digest=digest)
    cookie = session_cookie(scope)
    if not given and cookie is not None:
        return _Caller(*await run_in_threadpool(authenticate_session, state.database, state.settings, cookie))
    if not given:
        hint = "Send `Authorization: Bearer stm_…`; `stemma keys create` makes a key."
        raise Unauthenticated("key_missing", "This takes an API key, and the request has none.", hint=hint)
    scheme, _, key = given[0].partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer":
        what = "There has to be one Authorization header, and its scheme has to be Bearer."
        raise Unauthenticated("authorization_invalid", what, hint="Send `Authorization: Bearer stm_…`.")
    return _Caller(await state.known(key.strip(" ")))


def _refusal(scope: Scope, error: StemmaError) -> Response:
    if isinstance(error, Unauthenticated) and wants_page(scope) and "authorization" not in Headers(scope=scope):
        return to_sign_in(scope, error)
    return error_response(scope, error)


def _url(scope: Scope, headers: Headers) -> str:
    """The URL as it was sent; `scope["path"]` is decoded already."""
    path = scope.get("raw_path", scope["path"].encode()).partition(b"?")[0]
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    return f"{scope['scheme']}://{headers.get('host', '')}{(path + query).decode('latin-1')}"


def _compared(receive: Receive, digest: BodyDigest) -> Receive:
    """Receive a body that has to be the one that was signed; raises Unauthenticated at its end where it is not."""

    async def receive_and_compare() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            digest.update(message.get("body", b""))
            if not message.get("more_body", False):
                digest.check()
        return message

    return receive_and_compare


def _simulated(principal: Principal, scope: Scope) -> Principal:
    """The principal in the lesser role that X-ROLE names, under test settings; anywhere else the header is nothing."""
    settings: Settings = scope["app"].state.settings
    wanted = Headers(scope=scope).get("x-role")
    if settings.environment != "test" or wanted is None:
        return principal
    if wanted not in set(Role):
        hint = f"The roles are {', '.join(Role)}."
        raise InvalidInput("role_unknown", "X-ROLE names no role.", field="X-ROLE", hint=hint)
    if not permissions_of(Role(wanted)) <= permissions_of(principal.role):
        raise Forbidden("role_beyond_own", "X-ROLE may do what the role of this key may not.", field="X-ROLE")
    return replace(principal, role=Role(wanted))


def rated(scope: Scope, error: StemmaError) -> StemmaError:
    """What to answer a failure with: guessing gets no answers after a while, and nobody else is kept out by it."""
    state = scope["app"].state
    if isinstance(error, Unauthenticated):
        try:
            state.rates.take(
                state.settings.api_failures_per_minute, "failed authentications", (scope["client"] or ("",))[0]
            )
        except TooManyRequests as too_many:
            return too_many
    return error


@dataclass(frozen=True, slots=True)
class Rule:
    """What a route asks of whoever calls it: a permission, or only a known key where that is None.

    With `own`, the name of a path parameter that holds a key's id, a key needs no permission for itself; with
    `scheduler`, the outside scheduler calls, and no key does. As a dependency it gives the principal, counts the
    request and holds a place among those in flight; `counted` names what it counts as, where that is not the
    permission's capability.
    """

    permission: str | None
    own: str | None = None
    scheduler: bool = False
    counted: str | None = None

    async def __call__(self, request: HTTPConnection) -> AsyncIterator[Principal]:
        with self.held(request) as principal:
            yield principal

    @contextlib.contextmanager
    def held(self, request: HTTPConnection) -> Iterator[Principal]:
        """The same for who does without the dependency: the principal, and a place for the block."""
        settings: Settings = request.app.state.settings
        rates: Rates = request.app.state.rates
        in_flight: InFlight = request.app.state.in_flight
        principal: Principal = request.state.principal
        capability = self.counted or (self.permission.partition(":")[0] if self.permission else "keys")
        rates.take(settings.api_requests_per_minute, f"requests to {capability}", principal.actor)
        if self.permission is not None and not self._is_own(request, principal):
            try:
                principal.require(self.permission)
            except Forbidden as error:
                _log.warning("denied", actor=principal.actor, permission=self.permission, code=error.code)
                raise
        with in_flight.slot(settings.api_requests_in_flight, capability, principal.actor):
            yield principal

    def _is_own(self, request: HTTPConnection, principal: Principal) -> bool:
        try:
            return self.own is not None and UUID(request.path_params[self.own]) == principal.key_id
        except ValueError:
            return False


def allow(
    permission: str | None, *, own: str | None = None, scheduler: bool = False, counted: str | None = None
) -> Any:
    """What a route declares to take a permission of `stemma.access.permissions`; gives the principal.

    With None it takes any known key; for the others see `Rule`. The route answers Forbidden to whoever may
    not, and TooManyRequests over the limits of the key.
    """
    if permission is not None and permission not in PERMISSIONS:
        raise ValueError(f"{permission} is not in the table of permissions")
    return Depends(Rule(permission, own, scheduler, counted))


def rules(app: FastAPI) -> Iterator[tuple[str, frozenset[str], Rule | None]]:
    """Every route's path and methods, and its rule, where it has one."""
    for route in iter_route_contexts(app.routes):
        if route.path_format is not None:
            dependant = getattr(route, "dependant", None)
            found = None if dependant is None else next(_rules_of(dependant), None)
            yield route.path_format, frozenset(route.methods or ()), found


def _rules_of(dependant: Dependant) -> Iterator[Rule]:
    for dependency in dependant.dependencies:
        if isinstance(dependency.call, Rule):
            yield dependency.call
        yield from _rules_of(dependency)
