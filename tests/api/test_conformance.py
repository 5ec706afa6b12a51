"""Whatever is sent, the answer is one that the OpenAPI document declares, and never a server error.

Schemathesis makes the requests from the document itself: its examples, the limits of its schemas and just beyond them,
and values at random. A new route is covered as soon as it is declared. `STEMMA_TEST_EXAMPLES` is how many random
requests each operation gets; a few say whether something broke, some hundreds look for what nobody thought of.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.app import create_app
from stemma.store.database import Database, DatabaseUrls
from stemma.store.settings import Settings

EXAMPLES = os.environ.get("STEMMA_TEST_EXAMPLES", "10")
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance"
)
UNLIMITED: dict[str, Any] = {"api_requests_per_minute": 10**9}


@pytest.fixture
def studio(
    tmp_path: Path, new_database: Callable[[], DatabaseUrls], drop_database: Callable[[DatabaseUrls], None], serve: Any
) -> Iterator[httpx.Client]:
    """A client of an empty studio, whose requests may change anything."""
    urls = new_database()
    settings = Settings(home=tmp_path / "home", **UNLIMITED)
    with Database(urls) as database, serve(create_app(settings, database=database)) as client:
        yield client
    drop_database(urls)


def test_requests_that_read_get_declared_answers(
    library: tuple[Settings, Database], serve: Any, tmp_path: Path
) -> None:
    settings, database = library
    with serve(create_app(settings.model_copy(update=UNLIMITED), database=database)) as client:
        assert_conformance(client, tmp_path, "--include-method=GET")


def test_requests_that_change_get_declared_answers(studio: httpx.Client, tmp_path: Path) -> None:
    assert_conformance(studio, tmp_path, "--exclude-method=GET")
    assert studio.get("/api/v1/sources").status_code == 200


def assert_conformance(client: httpx.Client, folder: Path, *selection: str) -> None:
    """Send requests to every selected operation whose answer ends by itself."""
    paths: dict[str, dict[str, Any]] = client.get("/openapi.json").json()["paths"]
    streams = [
        path
        for path, methods in paths.items()
        if "text/event-stream" in methods.get("get", {}).get("responses", {}).get("200", {}).get("content", {})
    ]
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{client.base_url}/openapi.json"),
        *(f"--header=Authorization: {client.headers['Authorization']}", "--generation-with-security-parameters=false"),
        *("--phases=examples,coverage,fuzzing", f"--checks={CHECKS}", f"--max-examples={EXAMPLES}"),
        *("--generation-deterministic", "--continue-on-failure", "--warnings=off", "--no-color"),
        *(*selection, *(f"--exclude-path={path}" for path in streams)),
    ]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    sent = re.search(r"Test cases:\s+(\d+) generated", ended.stdout)
    assert sent is not None and int(sent[1]) > 100, ended.stdout
