"""What holds for every request before a route sees it: its id, its log line, where it comes from, what it
weighs.

Plain ASGI, so that bodies stream through and context variables reach the routes.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import error_response, problem_response, unexpected_response
from stemma.access.principal import Principal
from stemma.errors import InvalidInput

DEFAULT_BODY_BYTES: Final = 1 << 20

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,128}")
READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_PROBES = frozenset({"/healthz", "/readyz"})
_PAGE_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_log = structlog.get_logger("api")


class RequestLog:
    """Gives each request an id, answers unexpected errors, and logs one line with route, status and duration.

    Only the route's template is logged, never the path or the query, which may hold what must not be kept. Of what
    the founder sends nothing is logged or reported at all.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "websocket.accept":
                status = 101
            elif message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            except Exception as error:
                if not is_founders(scope):
                    _log.exception("unexpected error", method=_method(scope), route=_route(scope))
                    _report(scope, error, request_id)
                if status:
                    raise
                await unexpected_response(scope)(scope, receive, send_with_id)
            finally:
                log = _log.debug if scope["path"] in _PROBES and status == 200 else _log.info
                duration_ms = round((time.perf_counter() - started) * 1000, 1)
                if not is_founders(scope):
                    log(
                        "request",
                        method=_method(scope),
                        route=_route(scope),
                        status=status,
                        duration_ms=duration_ms,
                    )


def is_founders(scope: Scope) -> bool:
    """Whether the founder sent it, so that no line, span or report may tell of it."""
    principal: Principal | None = scope["state"].get("principal")
    return principal is not None and principal.founder


def _report(scope: Scope, error: Exception, request_id: str) -> None:
    if (reporter := scope["app"].state.reporter) is not None:
        tags = {"request_id": request_id, "method": _method(scope), "route": _route(scope) or "unmatched"}
        reporter.report(error, tags)


def _request_id(given: str | None) -> str:
    return given if given and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _method(scope: Scope) -> str:
    """A websocket has none in its scope; it is opened by GET."""
    return str(scope.get("method", "GET"))


def _route(scope: Scope) -> str | None:
    return getattr(scope.get("route"), "path", None)


class SecurityHeaders:
    """Gives every page what keeps it from running, loading or being framed by what is not ours.

    A response that brings a policy of its own keeps it, and so does everything below `apart`: paths at which another
    program's pages are served.
    """

    def __init__(self, app: ASGIApp, apart: Sequence[str] = ()) -> None:
        self.app = app
        self.apart = tuple(apart)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_below(scope["path"], self.apart):
            await self.app(scope, receive, send)
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("content-type", "").startswith("text/html"):
                    for name, value in _PAGE_HEADERS.items():
                        headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_policy)


def is_below(path: str, prefixes: Sequence[str]) -> bool:
    """Whether a path is one of these or stands below one."""
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in prefixes)


class LoopbackOnly:
    """Lets in only what addresses this machine by a loopback name and, where it writes, comes from our own
    pages.

    The socket is on loopback, but a page of any site can make the user's browser send requests there. A foreign
    name in Host is DNS rebinding; a foreign Origin on a write is request forgery. A WebSocket counts as a write.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not is_loopback(_host_name(headers.get("host", ""))):
            response = problem_response(
                scope,
                status=421,
                code="host_not_loopback",
                title="Misdirected request",
                detail="This API answers only to loopback names.",
                hint="Open it as http://127.0.0.1 or http://localhost.",
            )
        elif scope.get("method") not in READING and says_foreign(scope):
            response = problem_response(
                scope,
                status=403,
                code="origin_foreign",
                title="Forbidden",
                detail="Requests that change something are not taken from other sites.",
            )
        else:
            await self.app(scope, receive, send)
            return
        await response(scope, receive, send)


@lru_cache(256)
def is_loopback(host: str) -> bool:
    """Whether a host name or address, without port and brackets, can only mean this machine."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(256)
def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def says_foreign(scope: Scope) -> bool:
    """Whether a browser says that the request comes from a page of another origin; other clients say nothing."""
    headers = Headers(scope=scope)
    site = headers.get("sec-fetch-site", "same-origin")
    return headers.get("origin") not in (None, origin_of(scope)) or site not in ("same-origin", "none")


def origin_of(scope: Scope) -> str:
    """The origin that the request was sent to, as its own pages have it; also for a WebSocket."""
    scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
    return f"{scheme}://{Headers(scope=scope).get('host', '')}"


class TextGuard:
    """Refuses a path or query with U+0000, which PostgreSQL's text cannot hold and at which C libraries cut strings,
    or with bytes that are not UTF-8, which would reach the routes as other text than was sent.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            try:
                for part, raw in (("path", scope["raw_path"]), ("query", scope["query_string"])):
                    _check_text(part, unquote_to_bytes(raw))
            except InvalidInput as error:
                await error_response(scope, error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _check_text(part: str, sent: bytes) -> None:
    try:
        text = sent.decode()
    except UnicodeDecodeError as error:
        hint = "Percent-encode the UTF-8 form of the text."
        raise InvalidInput("text_not_utf8", f"The {part} is not UTF-8.", field=part, hint=hint) from error
    if "\0" in text:
        what = f"The {part} holds the character U+0000."
        raise InvalidInput("text_holds_nul", what, field=part, hint="Remove that character.")


class BodyLimit:
    """Refuses a body over the limit of its path (413), whether it announces its length or not."""

    def __init__(self, app: ASGIApp, larger: Mapping[str, int]) -> None:
        self.app = app
        self.larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.larger.get(scope["path"], DEFAULT_BODY_BYTES)
        detail = f"The request body is larger than {limit} bytes."
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > limit:
            response = problem_response(scope, status=413, code="body_too_large", title="Too large", detail=detail)
            await response(scope, receive, send)
            return
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, detail)
            return message

        await self.app(scope, receive_within_limit, send)
