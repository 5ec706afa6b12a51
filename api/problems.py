"""Every error as RFC 9457 problem details: `application/problem+json` with a stable `code` and the request
id. A browser that asks for a page gets the same problem as a page.

The words come from `stemma.errors`; only what HTTP itself refuses (no such route, wrong method) is worded
here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Scope

from api.limits import TooManyRequests
from stemma.errors import StemmaError
from stemma.store.files import storage_error

MEDIA_TYPE: Final = "application/problem+json"

_RETRY_AFTER: Final[Mapping[int | str, str]] = {429: "1", 503: "5", "head_pending": "1", "idempotency_in_flight": "1"}
_MOST_ERRORS = 20
_LONGEST_FIELD = 100
# What is asked for by machines, whatever they accept.
_NEVER_PAGES = ("/healthz", "/readyz", "/metrics", "/openapi.json", "/static/")
_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
_DETAILS = {404: "There is nothing at this address.", 405: "This address does not answer to that method."}


class FieldError(BaseModel):
    """One input that cannot be used."""

    field: str = Field(description="The query parameter, path parameter or form field", examples=["k"])
    message: str = Field(examples=["Input should be less than or equal to 100"])


class Problem(BaseModel):
    """RFC 9457 problem details; `code` is stable and meant for machines."""

    type: str = Field(description="URI of the kind of problem", examples=["urn:stemma:problem:cursor_invalid"])
    title: str = Field(description="The kind of problem in words", examples=["Invalid input"])
    status: int = Field(description="The HTTP status", examples=[422])
    detail: str = Field(description="What is wrong", examples=["This cursor does not belong to this list."])
    instance: str = Field(description="The path of the request", examples=["/api/v1/documents"])
    code: str = Field(description="Stable name of the problem", examples=["cursor_invalid"])
    request_id: str = Field(description="Also in `X-Request-ID` and in every log line of this request")
    errors: list[FieldError] = Field(default=[], description="The inputs that cannot be used")
    hint: str | None = Field(default=None, description="What to do about it")


ShowProblem = Callable[[Scope, Problem], Response]


def problem_response(
    scope: Scope,
    *,
    status: int,
    code: str,
    title: str,
    detail: str,
    errors: list[FieldError] | None = None,
    hint: str | None = None,
    headers: Mapping[str, str] | None = None,
    extensions: Mapping[str, Any] | None = None,
) -> Response:
    """The response for one problem; `extensions` are further members, as RFC 9457 allows."""
    problem = Problem(
        type=f"urn:stemma:problem:{code}",
        title=title,
        status=status,
        detail=detail,
        instance=scope["path"],
        code=code,
        request_id=scope["state"]["request_id"],
        errors=errors or [],
        hint=hint,
    )
    seconds = _RETRY_AFTER.get(code, _RETRY_AFTER.get(status))
    usual = {"Retry-After": seconds} if seconds else {}
    if status == 401:
        usual["WWW-Authenticate"] = 'Bearer realm="stemma"'
    render: ShowProblem | None = getattr(scope["app"].state, "show_problem", None)
    response: Response
    if render is not None and _wants_page(scope):
        response = render(scope, problem)
    else:
        content = problem.model_dump(mode="json") | dict(extensions or {})
        response = JSONResponse(content, status, media_type=MEDIA_TYPE)
    response.headers.update({**usual, **(headers or {})})
    return response


def show_to_browsers(app: FastAPI, render: ShowProblem) -> None:
    """Let `render` make a page of a problem where a browser asked for one, anywhere but under `/api/`."""
    app.state.show_problem = render


def accepts_html(scope: Scope) -> bool:
    """Whether the request names `text/html` among what it accepts, as browsers do; `*/*` alone says nothing."""
    accepted = Headers(scope=scope).get("accept", "").split(",")
    return any(part.partition(";")[0].strip().lower() == "text/html" for part in accepted)


def _wants_page(scope: Scope) -> bool:
    path: str = scope["path"]
    return accepts_html(scope) and not path.startswith(("/api/", *_NEVER_PAGES))


def error_response(scope: Scope, error: StemmaError) -> Response:
    """The response for a typed error of the domain."""
    return problem_response(
        scope,
        status=error.status,
        code=error.code,
        title=error.title,
        detail=error.message,
        errors=[FieldError(field=error.field, message=error.message)] if error.field else None,
        hint=error.hint,
        headers={"Retry-After": str(error.retry_after)} if isinstance(error, TooManyRequests) else None,
    )


def unexpected_response(scope: Scope) -> Response:
    """The response for an error that nobody foresaw; it tells nothing of what happened inside."""
    return problem_response(
        scope,
        status=500,
        code="internal_error",
        title="Internal error",
        detail="Something went wrong that should not have.",
        hint="The log has the details under this request id.",
    )


def install(app: FastAPI) -> None:
    """Answer every error of the application's routes with problem details."""
    app.add_exception_handler(StemmaError, _on_stemma_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)


async def _on_stemma_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StemmaError)
    return error_response(request.scope, error)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()[:_MOST_ERRORS]
    errors = [FieldError(field=_field(one["loc"]), message=one["msg"]) for one in found]
    return problem_response(
        request.scope,
        status=422,
        code="request_invalid",
        title="Invalid input",
        detail=f"Cannot be used: {', '.join(dict.fromkeys(one.field for one in errors))}.",
        errors=errors,
        hint="/openapi.json says what each route accepts.",
    )


def _field(location: tuple[int | str, ...]) -> str:
    """The name of the input: FastAPI puts where it stands (query, path, body) in front."""
    return ".".join(map(str, location[1:] or location))[:_LONGEST_FIELD]


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # What went wrong while FastAPI read the body.
    if isinstance(error.__cause__, OSError):
        return error_response(request.scope, storage_error(error.__cause__))
    if isinstance(error.__cause__, StemmaError):
        return error_response(request.scope, error.__cause__)
    status = error.status_code
    headers = dict(error.headers or {})
    if status == 405:
        headers["Allow"] = _allowed(request) or headers["Allow"]
    return problem_response(
        request.scope,
        status=status,
        code=_CODES.get(status, "http_error"),
        title=HTTPStatus(status).phrase,
        detail=_DETAILS.get(status, str(error.detail)),
        hint="/openapi.json lists every route." if status in (404, 405) else None,
        headers=headers,
    )


def _allowed(request: Request) -> str:
    """Every method of the path (RFC 9110, 10.2.1); the router names those of the first route it found."""
    path = getattr(request.scope.get("route"), "path", None)
    return ", ".join(sorted(method.upper() for method in request.app.openapi()["paths"].get(path, {})))
