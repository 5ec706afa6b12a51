"""The Dagster UI at `/dagster`, behind the studio's own login: HTTP and the websocket of its GraphQL subscriptions.

Who may operate jobs is passed on to the full webserver, everybody else to one that Dagster runs read-only: the role
decides, never the words of a query, which can be written in too many ways. What is passed on is listed here; the
webservers' processes are `cli.webserver`, their addresses `stemma.store.webserver`.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import string
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final
from urllib.parse import quote

import httpx
import psycopg
import structlog
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from api.access import allow
from api.limits import IN_FLIGHT, InFlight, limited
from api.problems import accepts_html
from stemma.access.authentication import require_in_force
from stemma.access.principal import Principal
from stemma.errors import Forbidden, InvalidInput, NotFound, Unauthenticated, Unavailable, UnsupportedType
from stemma.store.database import Database
from stemma.store.settings import Settings
from stemma.store.webserver import BASE_URL, PATH, Webserver, socket_path

GRAPHQL: Final = "graphql"
SUBPROTOCOL: Final = Subprotocol("graphql-ws")
LARGEST_MESSAGE: Final = 1 << 20
"""Bytes of one websocket message from a browser; `api.server` refuses a larger one."""

# Lists of what passes, not of what does not: neither a credential of ours nor a header about the connection
# (RFC 9110, 7.6.1) has to be thought of by name.
_SENT_ON: Final = frozenset(
    {"accept", "accept-encoding", "accept-language", "host", "if-modified-since", "if-none-match", "if-range", "range"}
    | {"user-agent"}
)
_SENT_BACK: Final = frozenset(
    {"accept-ranges", "cache-control", "content-disposition", "content-encoding", "content-language", "content-length"}
    | {"content-range", "content-security-policy", "content-type", "etag", "last-modified", "location"}
    | {"referrer-policy", "vary"}
)

_NAMED_BY_CONTENT = "_next/static/"
_MADE_BY_RUNS = ("logs/", "notebook", "dagit/notebook", "download_debug/")
_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
_MOST_CONNECTIONS = httpx.Limits(max_connections=IN_FLIGHT["dagster"], max_keepalive_connections=16)
_LARGEST_ANSWER = 64 << 20
_SECONDS_BETWEEN_LOOKS = 5.0
_GOING_AWAY, _POLICY_VIOLATION, _RESTARTING = 1001, 1008, 1012

_log = structlog.get_logger("api.dagster")

router = APIRouter(prefix=PATH, include_in_schema=False, route_class=limited("dagster"))
ReaderDep = Annotated[Principal, allow("jobs:read", counted="dagster")]
# Counted apart: every open tab holds one.
FollowerDep = Annotated[Principal, allow("jobs:read", counted="dagster_websockets")]


class BadGateway(Unavailable):
    """The webserver is there and did not answer as it should."""

    status = 502
    title = "Bad gateway"


class Webservers:
    """Connections to both webservers, opened when they are first used. Belongs to the event loop's thread.

    They are transports and not clients of httpx: a client keeps the cookies that it is sent, for everybody.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._transports: dict[Webserver, httpx.AsyncHTTPTransport] = {}

    def transport(self, webserver: Webserver) -> httpx.AsyncHTTPTransport:
        """The connections to one webserver."""
        if webserver not in self._transports:
            path = str(socket_path(self.settings, webserver))
            self._transports[webserver] = httpx.AsyncHTTPTransport(uds=path, limits=_MOST_CONNECTIONS)
        return self._transports[webserver]

    async def aclose(self) -> None:
        """Close every connection."""
        for transport in self._transports.values():
            await transport.aclose()


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Webservers]:
    """The webservers for as long as the application lives."""
    webservers = Webservers(settings)
    try:
        yield webservers
    finally:
        await webservers.aclose()


@router.api_route("", methods=["GET", "HEAD"])
@router.api_route("/{path:path}", methods=["GET", "HEAD"])
async def read(request: Request, principal: ReaderDep, path: str = "") -> Response:
    """A page, a static file, a log. GraphQL is not read by GET: a link could then change something."""
    if path.strip("/") == GRAPHQL:
        raise HTTPException(405, headers={"Allow": "POST"})
    if {"", ".", ".."} & set(path.rstrip("/").split("/")) and path:
        raise NotFound("dagster_path_invalid", "There is no such page in the Dagster UI.", field="path")
    try:
        answer = await _ask(request, principal, path, query=request.scope["query_string"])
    except Unavailable as error:
        if accepts_html(request.scope):
            return _page(error)
        raise
    if path.startswith(_NAMED_BY_CONTENT) and answer.status_code < 400:
        answer.headers["Cache-Control"] = "private, max-age=31536000, immutable"
    if path.startswith(_MADE_BY_RUNS):
        answer.headers["Content-Security-Policy"] = "sandbox"
    return answer


@router.post(f"/{GRAPHQL}")
async def execute(request: Request, principal: ReaderDep) -> Response:
    """One GraphQL operation, which has to be a JSON object sent by a page of this origin."""
    _require_origin(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        hint = "Send it with `Content-Type: application/json`."
        raise UnsupportedType("graphql_not_json", "A GraphQL operation is sent as JSON.", hint=hint)
    body = await request.body()
    if not body.lstrip().startswith(b"{"):
        raise InvalidInput("graphql_not_object", "One request holds one GraphQL operation, an object.", field="body")
    return await _ask(request, principal, GRAPHQL, body=body)


@router.websocket(f"/{GRAPHQL}")
async def subscribe(websocket: WebSocket, principal: FollowerDep) -> None:
    """GraphQL subscriptions, until either side ends or the key or session does."""
    _require_origin(websocket)
    if SUBPROTOCOL not in websocket.scope["subprotocols"]:
        hint = f"Ask for {SUBPROTOCOL} in Sec-WebSocket-Protocol."
        raise InvalidInput("subprotocol_unknown", "Dagster speaks another subprotocol.", hint=hint)
    in_flight: InFlight = websocket.app.state.in_flight
    with in_flight.slot(IN_FLIGHT["dagster_websockets"], "dagster_websockets"):
        upstream = await _connect(websocket, _webserver_of(principal))
        async with upstream:
            await websocket.accept(subprotocol=SUBPROTOCOL)
            code = await _first(
                _pass_on(websocket, upstream), _pass_back(upstream, websocket), _until_ended(websocket, principal)
            )
            # The browser may be gone by now.
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await websocket.close(code)


def _webserver_of(principal: Principal) -> Webserver:
    return Webserver.FULL if principal.may("jobs:operate") else Webserver.READ_ONLY


def _require_origin(connection: HTTPConnection) -> None:
    """Stands in for the CSRF token, which Dagster's pages do not know: only a browser's own page of this origin says
    so. That a given one is ours, `LoopbackOnly` has looked at.
    """
    if "origin" not in connection.headers:
        hint = f"Open {PATH} in a browser; other clients send the `Origin` that they address."
        raise Forbidden("origin_missing", "Dagster is operated from its own pages alone.", field="Origin", hint=hint)


# HTTP


class _Relayed(StreamingResponse):
    """What a webserver answers, passed on as it comes in; the connection is given back however that ends."""

    def __init__(self, upstream: httpx.Response) -> None:
        super().__init__(upstream.aiter_raw(), upstream.status_code)
        self._upstream = upstream
        self.raw_headers = [(name.lower(), value) for name, value in upstream.headers.raw if _passes(name, _SENT_BACK)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._upstream.aclose()


def _passes(name: bytes, allowed: frozenset[str]) -> bool:
    return name.decode("latin-1").lower() in allowed


async def _ask(
    request: Request, principal: Principal, path: str, *, query: bytes = b"", body: bytes | None = None
) -> _Relayed:
    """The webserver's answer. Raises Unavailable with code `dagster_not_running`, BadGateway with `dagster_failed`."""
    webserver = _webserver_of(principal)
    webservers: Webservers = request.app.state.webservers
    # Encoded anew from what was looked at, so that the webserver reads no other path.
    target = quote(f"{PATH}/{path}") + ("?" + quote(query, safe=string.punctuation) if query else "")
    headers = [(name, value) for name, value in request.headers.raw if _passes(name, _SENT_ON)]
    if body is not None:
        headers.append((b"content-type", b"application/json"))
    sent = httpx.Request(
        request.method,
        httpx.URL(BASE_URL).copy_with(raw_path=target.encode("ascii")),
        headers=headers,
        content=body,
        extensions={"timeout": _TIMEOUT.as_dict()},
    )
    try:
        return _Relayed(await webservers.transport(webserver).handle_async_request(sent))
    except httpx.ConnectError as error:
        raise _not_running(webserver) from error
    except httpx.HTTPError as error:
        _log.warning("a webserver failed", webserver=webserver, error=repr(error))
        hint = f"Try again; the log of `stemma up` is {webserver}.log in STEMMA_HOME/logs."
        raise BadGateway("dagster_failed", "Dagster's webserver gave no answer.", hint=hint) from error


def _not_running(webserver: Webserver) -> Unavailable:
    return Unavailable(
        "dagster_not_running",
        "Dagster's webserver is not running.",
        hint="`stemma up` runs it and starts it again within seconds; where it stays away, "
        f"{webserver}.log in STEMMA_HOME/logs says why.",
    )


def _page(error: Unavailable) -> HTMLResponse:
    """The error for people; it asks again by itself."""
    title, what, hint = (html.escape(text) for text in ("The Dagster UI is away", error.message, error.hint or ""))
    content = (
        f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="5">'
        f'<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        f"<title>{title}</title><h1>{title}</h1><p>{what}</p><p>{hint}</p></html>\n"
    )
    headers = {"Content-Security-Policy": "default-src 'none'", "Retry-After": "5"}
    return HTMLResponse(content, error.status, headers)


# The websocket


async def _connect(websocket: WebSocket, webserver: Webserver) -> ClientConnection:
    """A connection to the webserver; raises Unavailable where it is not there."""
    webservers: Webservers = websocket.app.state.webservers
    try:
        return await unix_connect(
            str(socket_path(webservers.settings, webserver)),
            BASE_URL.replace("http:", "ws:") + f"/{GRAPHQL}",
            subprotocols=[SUBPROTOCOL],
            compression=None,
            max_size=_LARGEST_ANSWER,
            proxy=None,
        )
    except (OSError, WebSocketException) as error:
        raise _not_running(webserver) from error


async def _first(*ends: Any) -> int:
    """What the first of these coroutines returns; the others are ended."""
    tasks = [asyncio.create_task(end) for end in ends]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return int(done.pop().result())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pass_on(websocket: WebSocket, upstream: ClientConnection) -> int:
    try:
        while True:
            await upstream.send(await websocket.receive_text())
    except (WebSocketDisconnect, KeyError):
        # A binary frame has no text; the protocol knows none.
        return _GOING_AWAY
    except ConnectionClosed:
        return _RESTARTING


async def _pass_back(upstream: ClientConnection, websocket: WebSocket) -> int:
    try:
        async for message in upstream:
            await websocket.send_text(message if isinstance(message, str) else message.decode())
    except (ConnectionClosed, WebSocketDisconnect, RuntimeError):
        # Starlette's RuntimeError: the browser went while this was sent.
        return _RESTARTING
    return _GOING_AWAY


async def _until_ended(websocket: WebSocket, principal: Principal) -> int:
    """Return once the key or session is over; a database that is away is waited for."""
    database: Database = websocket.app.state.database
    while True:
        await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
        try:
            await run_sync(database.read, lambda connection: require_in_force(connection, principal))
        except Unauthenticated:
            return _POLICY_VIOLATION
        except (Unavailable, psycopg.OperationalError):
            continue
