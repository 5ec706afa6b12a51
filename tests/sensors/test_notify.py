"""The sensor that delivers, and what failed runs and approvals put into the outbox."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import dagster as dg
import pytest
import yaml

from sensors.approvals import approvals
from sensors.journal import failed_runs
from sensors.notify import notify
from stemma.access.principal import local_principal
from stemma.approvals.requests import Proposal, request
from stemma.errors import InvalidInput
from stemma.ledger.service import Ledger
from stemma.store.database import Database
from stemma.store.settings import Settings


@dg.op
def explode() -> None:
    raise dg.Failure("mail ada@example.org that it broke", allow_retries=False)


@dg.job
def exploding() -> None:
    explode()


@pytest.fixture
def received(settings: Settings) -> Iterator[list[dict[str, str]]]:
    """What Slack was sent; every topic goes there."""
    bodies: list[dict[str, str]] = []

    class Slack(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Slack)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    team = {"kind": "slack", "url": f"http://127.0.0.1:{server.server_port}/", "allow_private": True}
    document = {"channels": {"team": team}, "subscriptions": [{"topics": ["*"], "channels": ["team"]}]}
    (settings.home / "notify.yaml").write_text(yaml.safe_dump(document))
    (settings.home / "notify.yaml").chmod(0o600)
    yield bodies
    server.shutdown()
    server.server_close()
    thread.join()


def tick() -> str:
    skipped = notify(dg.build_sensor_context())
    assert isinstance(skipped, dg.SkipReason) and skipped.skip_message
    return skipped.skip_message


def fail_run() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = exploding.execute_in_process(instance=instance, raise_on_error=False)
        context = dg.build_run_status_sensor_context(
            sensor_name="failed_runs",
            dagster_instance=instance,
            dagster_run=result.dagster_run,
            dagster_event=result.get_run_failure_event(),
        ).for_run_failure()
        failed_runs(context)
        failed_runs(context)


def test_a_failed_run_and_an_approval_reach_slack_once(
    database: Database, settings: Settings, received: list[dict[str, str]], pass_deadline: Callable[..., None]
) -> None:
    assert "Nothing" in tick()
    fail_run()
    proposal = Proposal("publish", "page", b"hello", "Ask bob@example.org.")
    with Ledger(database.urls, settings) as ledger:
        asked = ledger.commit(database.read(lambda c: request(c, local_principal(), proposal))).result(20)
    assert tick().startswith("Delivered 2,")
    pass_deadline(asked.id)
    approvals(dg.build_sensor_context())
    assert tick().startswith("Delivered 1,") and "Nothing" in tick()
    texts = [body["text"] for body in received]
    assert texts == ["Run failed: exploding", "Approval asked for: publish page", "Approval expired: publish page"]
    assert "example.org" not in json.dumps(received)


def test_a_file_that_cannot_be_used_fails_the_tick_and_loses_nothing(
    settings: Settings, database: Database, received: list[dict[str, str]]
) -> None:
    good = (settings.home / "notify.yaml").read_text()
    (settings.home / "notify.yaml").write_text("channels: [")
    fail_run()
    with pytest.raises(InvalidInput, match="not YAML"):
        notify(dg.build_sensor_context())
    (settings.home / "notify.yaml").write_text(good)
    assert tick().startswith("Delivered 1,")
