"""Asking Dagster's webserver, the one way in which the domain talks with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from stemma.errors import Unavailable
from stemma.store.settings import Settings
from stemma.store.webserver import client

TIMEOUT: Final = 10.0


def ask(settings: Settings, query: str, variables: Mapping[str, Any], *, timeout: float = TIMEOUT) -> dict[str, Any]:
    """The data that a GraphQL query or mutation gives; `timeout` is in seconds.

    Raises Unavailable with code `dagster_unreachable` where the webserver is down, hangs, or answers with no data.
    """
    # It takes longest of all that the sensors import, which is more often than they ask.
    import httpx

    asked = {"query": query, "variables": dict(variables)}
    try:
        with client(settings, timeout=timeout) as webserver:
            response = webserver.post("/graphql", json=asked)
        data: dict[str, Any] | None = response.json().get("data")
    except (httpx.HTTPError, ValueError, AttributeError) as error:
        raise Unavailable("dagster_unreachable", f"The Dagster webserver does not answer: {error}.") from error
    if not data:
        raise Unavailable("dagster_unreachable", f"The Dagster webserver answered {response.status_code}.")
    return data


def refused(answer: Mapping[str, Any]) -> Unavailable:
    """The error for an answer that is one of Dagster's errors."""
    said = answer.get("message") or answer["__typename"]
    return Unavailable("dagster_refused", f"Dagster refused: {' '.join(said.split())}.")
