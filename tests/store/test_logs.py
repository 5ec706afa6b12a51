from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from stemma.store import logs
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


KEY = "stm_" + "a1B2c3D4" * 4


def test_secrets_do_not_come_out_of_messages_values_and_contexts(stream: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(caller="bob@example.org"):
        structlog.get_logger("stemma").info(f"called with Bearer {KEY}", url=f"/f?a=1&sig={KEY}", password="hunter2")
        logging.getLogger("foreign").warning("called with %s", f"api_key={KEY}", extra={"unused": KEY})
        logging.getLogger("foreign").warning({"authorization": KEY, "items": [f"https://u:{KEY}@example.org"]})
        structlog.get_logger("stemma").info("nested", request={"headers": {"Cookie": KEY}, "error": ValueError(KEY)})
    assert KEY not in stream.getvalue()
    assert "hunter2" not in stream.getvalue()
    first, second, third, fourth = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["event"], first["url"], first["password"]) == (
        "called with Bearer [secret]",
        "/f?a=1&sig=[token]",
        "[secret]",
    )
    assert {line["caller"] for line in (first, second, third, fourth)} == {"[email]"}
    assert second["event"] == "called with api_key=[secret]"
    assert fourth["request"] == {"headers": {"Cookie": "[secret]"}, "error": "[secret]"}


def test_secrets_do_not_come_out_of_tracebacks(stream: io.StringIO) -> None:
    def fail() -> None:
        try:
            raise ConnectionError(f"postgresql://app:{KEY}@db.example.org/x")
        except ConnectionError as error:
            error.add_note(f"sent Authorization: Bearer {KEY}")
            raise ValueError(f"no answer for bob@example.org with token={KEY}") from error

    for logger in (structlog.get_logger("stemma"), logging.getLogger("foreign")):
        try:
            fail()
        except ValueError:
            logger.exception("failed")
    logging.getLogger("foreign").warning("stack", stack_info=True)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert KEY not in stream.getvalue()
    assert "bob@" not in stream.getvalue()
    for line in lines[:2]:
        assert "ValueError: no answer for [email]" in line["exception"]
        assert "postgresql://app:[secret]@db.example.org/x" in line["exception"]


def test_what_identifies_a_line_stays_readable(stream: io.StringIO) -> None:
    run, sha = "2f6c3f0e-5a0b-4c1e-9d55-0d6f3f1f2b11", "9daeafb9864cf43055ae93beb0afd6c7d144bfa4"
    values = {
        "run_id": run,
        "commit": sha,
        "partition": "2026-11-20",
        "seconds": 3.25,
        "rows": 1234567890,
        "none": None,
    }
    structlog.get_logger("stemma.maps").info("tiles built", **values)
    line = json.loads(stream.getvalue())
    assert {name: line[name] for name in values} == values


def test_a_value_that_cannot_be_redacted_is_not_logged(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(value: object) -> object:
        raise RuntimeError("redaction is broken")

    monkeypatch.setattr(logs, "redact_value", fail)
    structlog.get_logger("stemma").info(f"key {KEY}", other=KEY)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["other"]) == ("[unredactable]", "[unredactable]")
    assert line["level"] == "info"
