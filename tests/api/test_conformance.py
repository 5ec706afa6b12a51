"""Whatever is sent, the answer is one that the OpenAPI document declares, and never a server error.

Requests are generated from the document itself, within its schemas and against them, so that a new route is covered
when it is declared. `STEMMA_TEST_EXAMPLES` sets how many are sent to each operation; a few say whether something broke,
some hundreds look for what nobody thought of.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from api.app import create_app
from stemma.store.database import Database, DatabaseUrls
from stemma.store.settings import Settings

EXAMPLES = int(os.environ.get("STEMMA_TEST_EXAMPLES", "20"))
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
READING = frozenset({"get", "head", "options"})


def operations() -> Iterator[tuple[str, str, GenerationMode]]:
    """Every operation whose answer ends by itself, with what it takes and, where it takes anything, with what not."""
    for path, methods in create_app(Settings()).openapi()["paths"].items():
        for method, operation in methods.items():
            if "text/event-stream" in operation["responses"].get("200", {}).get("content", {}):
                continue
            yield method, path, GenerationMode.POSITIVE
            if "parameters" in operation or "requestBody" in operation:
                yield method, path, GenerationMode.NEGATIVE


@pytest.fixture(scope="module")
def studio(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
    serve: Any,
) -> Iterator[httpx.Client]:
    """A client of a studio of its own, whose requests may change anything."""
    urls = new_database()
    home = tmp_path_factory.mktemp("conformance")
    settings = Settings(home=home, api_requests_per_minute=1_000_000)
    with Database(urls) as database, serve(create_app(settings, database=database)) as client:
        yield client
    drop_database(urls)


@pytest.fixture(scope="module")
def schema(reader: httpx.Client) -> Any:
    return schemathesis.openapi.from_dict(reader.get("/openapi.json").json(), config=schemathesis.Config())


@pytest.mark.parametrize(("method", "path", "mode"), list(operations()))
def test_answers_are_declared_whatever_is_sent(
    schema: Any, reader: httpx.Client, studio: httpx.Client, method: str, path: str, mode: GenerationMode
) -> None:
    client = reader if method in READING else studio
    operation = schema[path][method]
    with requests.Session() as session:
        session.trust_env = False

        @hypothesis_settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def answer(case: Any) -> None:
            headers = {"Authorization": client.headers["Authorization"]}
            case.call_and_validate(str(client.base_url), session, headers, checks=CHECKS)

        answer()
