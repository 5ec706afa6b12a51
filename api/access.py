"""Who may use a route: `Authentication` finds out who sent a request, `allow` asks for the permission it takes.

Every path but those in `PUBLIC` takes a known key before anything else is looked at; what a key may do is the
business of `stemma.access`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import structlog
from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import error_response
from stemma.access.authentication import authenticate
from stemma.access.permissions import PERMISSIONS
from stemma.access.principal import Principal
from stemma.errors import Forbidden, StemmaError, Unauthenticated

PUBLIC: Final = frozenset({"/healthz", "/readyz", "/openapi.json"})

_log = structlog.get_logger("api")


class Authentication:
    """Finds the principal of each request and refuses those of nobody known (401), before their body is read."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PUBLIC:
            try:
                scope["state"]["principal"] = await _principal(scope)
            except StemmaError as error:
                await error_response(scope, error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


async def _principal(scope: Scope) -> Principal:
    state = scope["app"].state
    given = Headers(scope=scope).getlist("authorization")
    if not given:
        what = "This takes an API key, and the request has none."
        hint = "Send `Authorization: Bearer stm_…`; `stemma keys create` makes a key."
        raise Unauthenticated("key_missing", what, hint=hint)
    scheme, _, key = given[0].partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer":
        what = "The Authorization header has to be one, and of the scheme Bearer."
        raise Unauthenticated("authorization_invalid", what, hint="Send `Authorization: Bearer stm_…`.")
    return await run_in_threadpool(authenticate, state.database, state.settings, key.strip(" "))


@dataclass(frozen=True, slots=True)
class Rule:
    """The permission that a route takes; a dependency that gives the principal."""

    permission: str

    async def __call__(self, request: Request) -> Principal:
        principal: Principal = request.state.principal
        try:
            principal.require(self.permission)
        except Forbidden as error:
            _log.warning("denied", actor=principal.actor, permission=self.permission, code=error.code)
            raise
        return principal


def allow(permission: str) -> Any:
    """What a route declares to take a permission of `stemma.access.permissions`; gives the principal.

    Raises Forbidden, when called, for whoever has not.
    """
    if permission not in PERMISSIONS:
        raise ValueError(f"{permission} is not in the table of permissions")
    return Depends(Rule(permission))
