"""The OpenAPI document: problem details as the declared form of every error.

FastAPI can declare an error only as JSON of its own validation shape; this module says what is really sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from api.access import rules
from api.idempotency import HEADER, REPLAYED
from api.problems import MEDIA_TYPE, Problem
from api.sessions import COOKIE

_REF: Final = "#/components/schemas/{model}"
_MEANINGS: Final = {
    401: "No key or session that is known and in force, or no signature that holds",
    403: "The caller may not do this, or the request comes from another site",
    404: "It does not exist",
    409: "It contradicts the present state",
    412: "It is not as If-Match says it was seen",
    413: "The body is too large",
    415: "Not a type that is read here",
    416: "It does not reach that far",
    421: "The Host is not a loopback name",
    422: "An input cannot be used",
    428: "If-Match is missing",
    429: "Too many requests are in flight or came within a minute; see Retry-After",
    500: "An unexpected error",
    503: "Something needed is not there now; see Retry-After",
}
_SCHEDULER: Final = {
    "scheduler": {
        "type": "apiKey",
        "in": "header",
        "name": "x-internal-token",
        "description": "What `STEMMA_INTERNAL_TOKEN` says; only to start jobs by name",
    }
}
_SCHEMES: Final = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key, `stm_…`; the names are permissions"},
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "Signature",
        "description": "RFC 9421 with hmac-sha256, by the signing secret of an API key; docs/SECURITY.md says how",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "A browser's session; what changes something takes X-CSRF-Token and an Origin of ours, too",
    },
}
EVERYWHERE: Final = (413, 421, 422, 500)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route declares for the errors that it can answer with."""
    return {
        status: {
            "description": _MEANINGS.get(status, HTTPStatus(status).phrase),
            "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model=Problem.__name__)}}},
        }
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Add to the application's OpenAPI document the schema of problem details, which permission each route takes, and
    what an Idempotency-Key brings.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        _declare_access(app, document)
        for operation in _keyed_operations(document):
            _declare_replays(operation)
        _, definitions = models_json_schema([(Problem, "serialization")], ref_template=_REF)
        document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _declare_access(app: FastAPI, document: dict[str, Any]) -> None:
    document.setdefault("components", {})["securitySchemes"] = {**_SCHEMES, **_SCHEDULER}
    for path, methods, rule in rules(app):
        for method in methods:
            operation = document["paths"].get(path, {}).get(method.lower())
            if operation is not None and rule is not None:
                roles = [rule.permission] if rule.permission else []
                operation["security"] = [{name: roles} for name in (_SCHEDULER if rule.scheduler else _SCHEMES)]
                for status, declared in problems(401, 403, 429).items():
                    operation["responses"].setdefault(str(status), declared)


def _keyed_operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in document["paths"].values():
        for operation in methods.values():
            if any(parameter["name"] == HEADER for parameter in operation.get("parameters", [])):
                yield operation


def _declare_replays(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    for status, declared in problems(409, 503).items():
        responses.setdefault(str(status), declared)
    for status, declared in responses.items():
        if status < "300":
            declared.setdefault("headers", {})[REPLAYED] = {
                "description": "`true` where this is the answer to an earlier request with the same key",
                "schema": {"const": "true"},
            }
