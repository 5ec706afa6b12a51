from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from stemma.store.logs import configure_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logging("INFO", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_both_kinds_of_loggers_write_json_with_the_context(stream: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        structlog.get_logger("stemma.maps").info("tiles built", layer="roads", count=3)
        logging.getLogger("stemma.papers").warning("%d pages skipped", 2)
    logging.getLogger("stemma.papers").info("afterwards")
    first, second, third = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "tiles built",
        "layer": "roads",
        "count": 3,
        "level": "info",
        "logger": "stemma.maps",
        "request_id": "r-1",
    }
    assert (second["event"], second["level"], second["request_id"]) == ("2 pages skipped", "warning", "r-1")
    assert "request_id" not in third


def test_an_exception_is_one_line_without_local_variables(stream: io.StringIO) -> None:
    def fail(password: str) -> None:
        raise ValueError("not this way")

    try:
        fail("hunter2")
    except ValueError:
        structlog.get_logger("stemma").exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: not this way" in json.loads(line)["exception"]
    assert "'hunter2'" not in line


def test_below_the_level_and_the_urls_of_requests_are_not_logged(stream: io.StringIO) -> None:
    structlog.get_logger("stemma").debug("detail")
    logging.getLogger("stemma").debug("detail")
    logging.getLogger("httpx").info("HTTP Request: GET https://example.org/?token=secret")
    assert stream.getvalue() == ""
