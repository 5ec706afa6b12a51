"""`stemma notify` and `stemma webhooks`: what is printed, what is not, and how mistakes end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
import yaml

from stemma.ledger.journal import transition
from stemma.ledger.service import Ledger
from stemma.notify.messages import Message
from stemma.notify.outbox import enqueue
from stemma.store.database import Database
from stemma.store.settings import Settings

Stemma = Callable[..., Any]
SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@pytest.fixture
def answers(settings: Settings) -> Any:
    """The statuses that the receiver of channel `team` gives from now on; 200 when there are none."""
    statuses: list[int] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(statuses.pop(0) if statuses else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            logging.getLogger("test").debug("a request")

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/hidden"
    team = {"kind": "webhook", "url": url, "secrets": [SECRET], "allow_private": True}
    document = {"channels": {"team": team}, "subscriptions": [{"topics": ["test.*"], "channels": ["team"]}]}
    (settings.home / "notify.yaml").write_text(yaml.safe_dump(document))
    (settings.home / "notify.yaml").chmod(0o600)
    yield statuses
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_failed_is_shown_and_sent_again(
    settings: Settings, database: Database, answers: list[int], stemma: Stemma, done: Stemma
) -> None:
    with Ledger(database.urls, settings) as ledger:
        told = enqueue(Message("test.told", "Something happened", "Look."))
        ledger.append([transition("test.told", subject="test/1", actor="test", data={})], [told]).result(20)
    answers.append(404)
    assert done("notify", "deliver") == {"routed": 1, "delivered": 0, "postponed": 0, "failed": 1}
    (row,) = done("notify", "outbox", "--state", "failed")["data"]
    assert row["error_code"] == "http_404" and row["channel"] == "team"
    shown = stemma("notify", "outbox").out
    assert row["id"] in shown and "failed" in shown and "404" in shown
    assert stemma("notify", "retry", row["id"]).out == "To be sent again: 1.\n"
    assert "Delivered 1, postponed 0, failed 0." in stemma("notify", "deliver").out
    again = stemma("notify", "retry", row["id"])
    assert again.code == 4 and "notification_not_failed" in again.err
    assert done("notify", "retry", "--all") == []
    assert done("verify", "--chain", "audit")["clean"]


def test_a_channel_is_listed_and_tried_without_showing_its_secrets(
    answers: list[int], stemma: Stemma, done: Any
) -> None:
    assert done("notify", "channels") == [{"name": "team", "kind": "webhook", "topics": ["test.*"]}]
    assert stemma("notify", "test", "team").out == "team took it.\n"
    answers.append(500)
    failed = stemma("notify", "test", "team")
    assert failed.code == 5 and "http_500" in failed.err and len(failed.err.splitlines()) == 1
    for shown in (failed, stemma("notify", "channels"), stemma("notify", "channels", "--json")):
        assert "hidden" not in shown.out + shown.err and SECRET not in shown.out + shown.err


def test_a_source_is_added_listed_rotated_and_removed(stemma: Stemma, settings: Settings, done: Stemma) -> None:
    assert "No webhook sources" in stemma("webhooks", "list").out
    made = done("webhooks", "add", "n8n", "--kind", "noop", "--input", "/data")
    assert made["secret"].startswith("whsec_") and made["job_kind"] == "noop" and made["input_pointer"] == "/data"
    rotated = done("webhooks", "rotate", "n8n")
    assert rotated["secret"] != made["secret"] and rotated["previous_until"]
    shown = stemma("webhooks", "rotate", "n8n", "--at-once").out
    assert shown.count("whsec_") == 1 and "/api/v1/webhooks/n8n" in shown and "this once" in shown
    (listed,) = done("webhooks", "list")
    assert "secret" not in listed and listed["previous_until"] is None
    assert stemma("webhooks", "remove", "n8n").out == "Removed n8n.\n"
    assert done("webhooks", "list") == []
    kinds = {entry["kind"] for entry in done("historian")}
    assert {"webhook.added", "webhook.rotated", "webhook.removed"} <= kinds


@pytest.mark.parametrize(
    ("arguments", "exit_code", "expected"),
    [
        (("notify", "test", "nobody"), 3, "channel_unknown"),
        (("notify", "retry"), 2, "usage_invalid"),
        (("notify", "retry", "8e03978e-40d5-43dd-bc93-6894a57f9324"), 3, "notification_unknown"),
        (("notify", "retry", "8e03978e-40d5-43dd-bc93-6894a57f9324", "--all"), 2, "usage_invalid"),
        (("notify", "outbox", "--state", "lost"), 2, "usage_invalid"),
        (("notify", "outbox", "--cursor", "nonsense"), 2, "cursor_invalid"),
        (("webhooks", "add", "N8N", "--kind", "noop"), 2, "source_name_invalid"),
        (("webhooks", "add", "n8n", "--kind", "nothing"), 2, "job_kind_unknown"),
        (("webhooks", "add", "n8n", "--kind", "noop", "--input", "data"), 2, "pointer_invalid"),
        (("webhooks", "rotate", "n8n"), 3, "source_unknown"),
        (("webhooks", "remove", "n8n"), 3, "source_unknown"),
    ],
)
def test_a_mistake_is_one_line(
    settings: Settings, stemma: Stemma, arguments: tuple[str, ...], exit_code: int, expected: str
) -> None:
    ended = stemma(*arguments)
    assert ended.code == exit_code and ended.out == ""
    assert expected in ended.err and len(ended.err.splitlines()) == 1
