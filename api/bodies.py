"""What a JSON request body may be: I-JSON (RFC 7493), not deep, and without members that the route does not know.

`JsonGuard` refuses what no route can use, before any of it is interpreted; `RequestBody` is the base of every route's
own model. How large a body may be is `api.middleware`'s business.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from email.message import Message as MimeMessage
from functools import lru_cache
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import error_response
from stemma.errors import InvalidInput, StemmaError, TooLarge

MAX_DEPTH: Final = 32
_MAX_INTEGER: Final = 2**53 - 1
_MAX_DIGITS: Final = len(str(-_MAX_INTEGER))
_MAX_FIELD: Final = 100
# Parsing this much takes less than a millisecond; more is parsed beside the event loop.
_SMALL: Final = 1 << 14

Place = tuple[str | int, ...]


class RequestBody(BaseModel):
    """The base of every model of a request body: unknown members are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class JsonGuard:
    """Refuses JSON bodies that `check_json` refuses; the others reach the route as they came.

    Routes under `unread` verify a body before they have it looked through.
    """

    def __init__(self, app: ASGIApp, *, unread: str) -> None:
        self.app = app
        self.unread = unread

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        looked_through = scope["type"] == "http" and not scope["path"].startswith(self.unread)
        if not looked_through or not _is_json(Headers(scope=scope).get("content-type")):
            await self.app(scope, receive, send)
            return
        try:
            body = await _read(receive)
            if body is None:
                return
            if len(body) > _SMALL:
                await run_in_threadpool(check_json, body)
            elif body:
                check_json(body)
        except StemmaError as error:
            await error_response(scope, error)(scope, receive, send)
            return
        unread = True

        async def receive_again() -> Message:
            nonlocal unread
            if not unread:
                return await receive()
            unread = False
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, receive_again, send)


@lru_cache(64)
def _is_json(content_type: str | None) -> bool:
    """Whether FastAPI will read a body of this type as JSON; it asks in the same way."""
    if not content_type:
        return False
    message = MimeMessage()
    message["content-type"] = content_type
    subtype = message.get_content_subtype()
    return message.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None when the client has gone. Raises TooLarge where `BodyLimit` stops it."""
    blocks = []
    while True:
        try:
            message = await receive()
        except HTTPException as error:
            raise TooLarge("body_too_large", error.detail) from error
        if message["type"] == "http.disconnect":
            return None
        blocks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(blocks)


def check_json(body: bytes) -> None:
    """Raises InvalidInput for a body that is no JSON in UTF-8 (`body_not_utf8`, `json_invalid`), is nested deeper than
    32 levels (`json_too_deep`), or holds what nobody can rely on (`json_not_usable`): a name twice in one object,
    U+0000, half a surrogate pair, a number that is none or beyond a double's range, an integer beyond 2^53 - 1.
    """
    try:
        document = json.loads(body.decode(), object_pairs_hook=_Object, parse_constant=float, parse_int=_integer)
    except UnicodeDecodeError as error:
        raise _refusal("body_not_utf8", (), f"The body is not UTF-8 at byte {error.start}.") from error
    except json.JSONDecodeError as error:
        what = f"The body is not JSON: {error.msg} in line {error.lineno}, column {error.colno}."
        raise _refusal("json_invalid", (), what) from error
    except RecursionError as error:
        raise _too_deep(()) from error
    waiting: list[tuple[Place, Any]] = [((), document)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, (_Object, list)):
            if len(path) == MAX_DEPTH:
                raise _too_deep(path)
            waiting.extend(((*path, name), member) for name, member in _members(path, value))
        elif flaw := _flaw(value):
            raise _refusal("json_not_usable", path, flaw)


class _Object(dict[str, Any]):
    """An object as parsed, and whether it had a name twice."""

    def __init__(self, members: list[tuple[str, Any]]) -> None:
        super().__init__(members)
        self.repeats = len(self) < len(members)


def _integer(digits: str) -> float:
    return int(digits) if len(digits) <= _MAX_DIGITS else math.inf


def _members(path: Place, container: _Object | list[Any]) -> Iterable[tuple[str | int, Any]]:
    if isinstance(container, list):
        return enumerate(container)
    if container.repeats:
        raise _refusal("json_not_usable", path, "An object has a name twice.")
    for name in container:
        if flaw := _flaw(name):
            raise _refusal("json_not_usable", path, f"The name of a member cannot be used: {flaw}")
    return container.items()


def _flaw(value: Any) -> str | None:
    """Why this name or scalar cannot be relied on; None where it can."""
    if isinstance(value, str):
        if "\0" in value:
            return "The text holds the character U+0000."
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            return "The text holds half a surrogate pair."
    elif isinstance(value, float) and not math.isfinite(value):
        return "The number is beyond what is read here."
    elif isinstance(value, int) and abs(value) > _MAX_INTEGER:
        return "The whole number is beyond 2^53 - 1."
    return None


def _too_deep(path: Place) -> InvalidInput:
    return _refusal("json_too_deep", path[:3], f"The body is nested deeper than {MAX_DEPTH} levels.")


def _refusal(code: str, path: Place, what: str) -> InvalidInput:
    field = ".".join(map(str, path))[:_MAX_FIELD] or "body"
    return InvalidInput(code, what, field=field, hint="/openapi.json says what each route accepts.")
