"""What a browser's request has to show in a session: the cookie, and where it changes something, that a page of ours
sent it.

Which session a cookie belongs to is `stemma.access.sessions`' business; signing in and out are `api.routers.sessions`'.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs, quote, urlencode

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request, cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import Message, Receive, Scope

from api.middleware import READING, is_below, origin_of
from api.problems import accepts_html
from stemma.access.sessions import OpenedSession, Session
from stemma.errors import Forbidden, TooLarge, Unauthenticated
from stemma.store.webserver import PATH as DAGSTER

COOKIE: Final = "stemma_session"
CSRF_HEADER: Final = "X-CSRF-Token"
CSRF_FIELD: Final = "csrf_token"
SIGN_IN: Final = "/sign-in"

UPLOADS: Final = ("/search/upload", "/papers")
"""Where pages send files; the routes ask for `require_form_token`."""

_FORM: Final = "application/x-www-form-urlencoded"
_MULTIPART: Final = "multipart/form-data"
_MOST_FIELDS: Final = 1000


def session_cookie(scope: Scope) -> str | None:
    """The cookie that the request brings."""
    return cookie_parser(Headers(scope=scope).get("cookie", "")).get(COOKIE)


def set_cookie(scope: Scope, response: Response, opened: OpenedSession) -> None:
    """Give the browser the cookie of a session; it keeps it until it is closed, or the session ends."""
    response.set_cookie(COOKIE, opened.cookie, **_attributes(scope))


def clear_cookie(scope: Scope, response: Response) -> None:
    """Have the browser forget the cookie."""
    response.delete_cookie(COOKIE, **_attributes(scope))


def _attributes(scope: Scope) -> Mapping[str, object]:
    # Browsers differ in whether they keep a Secure cookie that came over plain HTTP from loopback.
    return {"path": "/", "httponly": True, "samesite": "strict", "secure": scope["scheme"] in ("https", "wss")}


async def require_own_page(scope: Scope, receive: Receive, session: Session) -> Receive:
    """Let pass what a page of ours sent, or what only reads; gives what the body is received from after that.

    Raises Forbidden with code `origin_foreign`, `csrf_token_missing` or `csrf_token_invalid`.
    """
    if scope["type"] == "http" and scope["method"] in READING:
        return receive
    headers = Headers(scope=scope)
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin != origin_of(scope) and (origin is not None or site != "same-origin"):
        what = "Nothing says that a page of this studio sent the request."
        hint = "Send the Origin of this API, or use a key instead of a session."
        raise Forbidden("origin_foreign", what, field="Origin", hint=hint)
    if scope["type"] == "websocket" or is_below(scope["path"], (DAGSTER,)):
        # Dagster's pages know no token; `api.dagster_proxy` asks for the Origin that has just been looked at.
        return receive
    given = headers.get(CSRF_HEADER)
    if given is None and scope["path"] in UPLOADS and _media_type(headers.get("content-type", "")) == _MULTIPART:
        return receive
    if given is None and _media_type(headers.get("content-type", "")) == _FORM:
        body, receive = await _read(receive)
        given = _field(body, CSRF_FIELD)
    _require_token(given, session)
    return receive


async def require_form_token(request: Request) -> None:
    """For routes that take a form with a file, which is not read before its route is known: the form's field
    has the token, where no header has. Raises Forbidden with code `csrf_token_missing` or `csrf_token_invalid`.
    """
    session: Session | None = request.state.session
    if session is not None and CSRF_HEADER not in request.headers:
        given = (await request.form()).get(CSRF_FIELD)
        _require_token(given if isinstance(given, str) else None, session)


def _require_token(given: str | None, session: Session) -> None:
    if given is None:
        what = f"A change in a session takes its CSRF token, in {CSRF_HEADER} or the form field {CSRF_FIELD}."
        hint = "GET /api/v1/session has it."
        raise Forbidden("csrf_token_missing", what, field=CSRF_HEADER, hint=hint)
    if not hmac.compare_digest(given.encode(), session.csrf_token.encode()):
        what, hint = "This CSRF token is not that of the session.", "Load the page again."
        raise Forbidden("csrf_token_invalid", what, field=CSRF_HEADER, hint=hint)


def _media_type(text: str) -> str:
    return text.partition(";")[0].strip().lower()


def _field(form: bytes, name: str) -> str | None:
    try:
        return parse_qs(form.decode("latin-1"), max_num_fields=_MOST_FIELDS).get(name, [None])[0]
    except ValueError:
        return None


async def _read(receive: Receive) -> tuple[bytes, Receive]:
    """The body, and what gives it once more; its size has a limit already."""
    messages: list[Message] = []
    try:
        while not messages or messages[-1].get("more_body", False):
            messages.append(await receive())
    except HTTPException as error:
        raise TooLarge("body_too_large", error.detail) from error
    body = b"".join(message.get("body", b"") for message in messages)
    waiting = iter(messages)

    async def again() -> Message:
        message = next(waiting, None)
        return message if message is not None else await receive()

    return body, again


def wants_page(scope: Scope) -> bool:
    """Whether somebody looks at a page: a GET by a browser, and not by a script of one of our pages."""
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return False
    return accepts_html(scope) and "hx-request" not in Headers(scope=scope)


def to_sign_in(scope: Scope, error: Unauthenticated) -> Response:
    """The way to the sign-in page and from there back; a cookie that is of no use any more is taken away."""
    here = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
    query = scope["query_string"].decode("latin-1")
    asked = {"next": f"{here}?{query}" if query else here}
    cookie = session_cookie(scope)
    if cookie is not None:
        asked["reason"] = error.code
    address = f"{SIGN_IN}?{urlencode(asked, quote_via=quote, safe='/')}"
    response = RedirectResponse(address, 303, {"Cache-Control": "no-store"})
    if cookie is not None:
        clear_cookie(scope, response)
    return response


_LOCAL = re.compile(r"/(?![/\\])[!-\[\]-~]*")


def local_path(wanted: str | None) -> str:
    """Where to go after signing in: a path of this origin with its query, or else the start page.

    Browsers read `//host` and `/\\host` as another host, and drop tabs and line ends before they look.
    """
    return wanted if wanted is not None and _LOCAL.fullmatch(wanted) else "/"
