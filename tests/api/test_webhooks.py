"""Incoming webhooks over HTTP: verified before they are read, done once, and nothing told to whoever has no secret."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest
import standardwebhooks

from api.app import create_app
from stemma.access.principal import local_principal
from stemma.errors import Conflict, InvalidInput, Unavailable
from stemma.ledger.service import Ledger
from stemma.notify import sources
from stemma.notify.standard_webhooks import ID, SIGNATURE, TIMESTAMP
from stemma.store.database import Database, DatabaseUrls
from stemma.store.settings import Settings

BODY = b'{"data": {"job": {"message": "from n8n"}}}'


class Sender:
    """Sends as a server with the published library does."""

    def __init__(self, client: httpx.Client, settings: Settings, database: Database) -> None:
        self.client = client
        self.settings = settings
        self.database = database

    def add(self, *, kind: str = "noop", pointer: str = "/data/job") -> tuple[str, str]:
        """A new source: its name and secret."""
        name = f"n8n-{uuid4().hex[:8]}"
        issued = self.commit(
            lambda c: sources.add(c, local_principal(), self.settings, name=name, job_kind=kind, input_pointer=pointer)
        )
        return name, issued.secret

    def commit(self, make: Callable[[Any], Any]) -> Any:
        with Ledger(self.database.urls, self.settings) as ledger:
            return ledger.commit(self.database.read(make)).result(20)

    def send(
        self,
        name: str,
        secret: str,
        body: bytes = BODY,
        *,
        message: str | None = None,
        ago: float = 0,
        **headers: str,
    ) -> httpx.Response:
        message, at = message or f"msg_{uuid4().hex}", datetime.fromtimestamp(time.time() - ago, UTC)
        signature = standardwebhooks.Webhook(secret).sign(message, at, body.decode())
        signed = {ID: message, TIMESTAMP: str(int(at.timestamp())), SIGNATURE: signature}
        signed = {**signed, "Content-Type": "application/json", **{f"webhook-{k}": v for k, v in headers.items()}}
        return self.client.post(f"/api/v1/webhooks/{name}", content=body, headers=signed)

    def jobs(self, name: str) -> list[tuple[Any, ...]]:
        """Kind and input of every job that the source asked for."""
        with self.database.snapshot() as connection:
            query = "SELECT kind, input, role FROM jobs WHERE actor = %s"
            return connection.execute(query, (f"webhook:{name}",)).fetchall()


@pytest.fixture(scope="module")
def sender(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
    serve: Any,
) -> Iterator[Sender]:
    urls = new_database()
    settings = Settings(home=tmp_path_factory.mktemp("webhooks"))
    with Database(urls) as database, serve(create_app(settings, database=database), key=None) as client:
        yield Sender(client, settings, database)
    drop_database(urls)


def test_a_signed_webhook_submits_the_job_of_its_source(sender: Sender) -> None:
    name, secret = sender.add()
    answer = sender.send(name, secret)
    assert answer.status_code == 202, answer.text
    assert (answer.json()["kind"], answer.json()["state"]) == ("noop", "queued")
    assert sender.jobs(name) == [("noop", {"message": "from n8n", "seconds": 0.0}, "Builder")]


def test_the_whole_body_is_the_input_where_no_part_is_named(sender: Sender) -> None:
    name, secret = sender.add(pointer="")
    assert sender.send(name, secret, b'{"message": "all of it"}').status_code == 202
    assert sender.jobs(name)[0][1]["message"] == "all of it"


def test_a_repeat_is_answered_as_the_first_and_done_once(sender: Sender) -> None:
    name, secret = sender.add()
    first = sender.send(name, secret, message="msg_1")
    again = sender.send(name, secret, message="msg_1", ago=1)
    assert again.json() == first.json() and again.headers["idempotency-replayed"] == "true"
    other = sender.send(name, secret, b'{"data": {"job": {}}}', message="msg_1")
    assert (other.status_code, other.json()["code"]) == (422, "webhook_id_reused")
    assert len(sender.jobs(name)) == 1
    another, its = sender.add()
    assert sender.send(another, its, message="msg_1").json()["job"] != first.json()["job"]


def test_many_at_once_with_one_id_are_one(sender: Sender) -> None:
    name, secret = sender.add()
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: sender.send(name, secret, message="msg_1").status_code, range(8)))
    assert set(answers) <= {202, 409} and 202 in answers and len(sender.jobs(name)) == 1


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ({"ago": 301}, "webhook_timestamp_old"),
        ({"ago": -302}, "webhook_timestamp_new"),
        ({"signature": "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="}, "webhook_signature_invalid"),
        ({"signature": ""}, "webhook_headers_missing"),
        ({"timestamp": "soon"}, "webhook_headers_invalid"),
        ({"body": b"{not json", "signature": "v1,AAAA"}, "webhook_signature_invalid"),
    ],
)
def test_what_is_not_signed_as_it_has_to_be_is_refused_unread(sender: Sender, sent: dict[str, Any], code: str) -> None:
    name, secret = sender.add()
    answer = sender.send(name, secret, **sent)
    assert (answer.status_code, answer.json()["code"]) == (401, code)
    assert sender.jobs(name) == [] and secret not in answer.text


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{not json", 422, "json_invalid"),
        (b"", 422, "json_invalid"),
        (b'{"data": {"job": {}}, "data": 1}', 422, "json_not_usable"),
        (b"[" * 50 + b"]" * 50, 422, "json_too_deep"),
        (b'{"data": {"job": "text"}}', 422, "webhook_input_invalid"),
        (b'{"data": []}', 422, "webhook_input_invalid"),
        (b"[1, 2]", 422, "webhook_input_invalid"),
        (b'{"data": {"job": {"unknown": 1}}}', 422, "job_input_invalid"),
        (b'{"data": {"job": {"message": "' + b"x" * (1 << 20) + b'"}}}', 413, "body_too_large"),
    ],
)
def test_a_signed_body_that_cannot_be_used_is_named(sender: Sender, body: bytes, status: int, code: str) -> None:
    name, secret = sender.add()
    answer = sender.send(name, secret, body, message="msg_1")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert sender.send(name, secret, message="msg_1").status_code == 202, "what had no effect may be mended"


def test_an_unknown_source_is_like_any_address_that_leads_nowhere(sender: Sender) -> None:
    _, secret = sender.add()
    unknown = sender.send("nobody", secret)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    assert sender.client.get("/api/v1/webhooks/nobody").status_code == 405
    assert sender.client.get("/api/v1/webhooks/").status_code == 404


def test_rotation_takes_both_secrets_for_a_day_and_with_at_once_one(sender: Sender) -> None:
    name, first = sender.add()

    def rotate(**more: bool) -> str:
        return str(sender.commit(lambda c: sources.rotate(c, local_principal(), sender.settings, name, **more)).secret)

    second = rotate()
    assert [sender.send(name, secret).status_code for secret in (first, second)] == [202, 202]
    with sender.database.transaction() as connection:
        connection.execute("UPDATE webhook_sources SET previous_until = now() WHERE name = %s", (name,))
    assert [sender.send(name, secret).status_code for secret in (first, second)] == [401, 202]
    third = rotate(at_once=True)
    assert [sender.send(name, secret).status_code for secret in (second, third)] == [401, 202]
    sender.commit(lambda c: sources.remove(c, local_principal(), name))
    assert sender.send(name, third).status_code == 404


def test_a_name_belongs_to_one_source(sender: Sender) -> None:
    name, _ = sender.add()
    with pytest.raises(Conflict):
        sender.commit(
            lambda c: sources.add(c, local_principal(), sender.settings, name=name, job_kind="noop", input_pointer="")
        )
    with pytest.raises(InvalidInput):
        sender.commit(
            lambda c: sources.add(c, local_principal(), sender.settings, name="x", job_kind="none", input_pointer="")
        )


def test_nothing_kept_holds_a_secret_and_a_lost_key_says_so(sender: Sender) -> None:
    name, secret = sender.add()
    raw = standardwebhooks.Webhook(secret)._whsecret
    with sender.database.snapshot() as connection:
        kept = connection.execute("SELECT secret FROM webhook_sources WHERE name = %s", (name,)).fetchone()[0]
        told = connection.execute("SELECT body FROM ledger WHERE subject = %s", (f"webhook/{name}",)).fetchall()
    assert raw not in bytes(kept) and len(told) == 2
    assert all(secret.encode() not in bytes(body) for (body,) in told)
    key = sender.settings.home / "keys" / "webhook-sources.key"
    assert key.stat().st_mode & 0o777 == 0o600
    good = key.read_bytes()
    for bad in (b"short", b"x" * 32, None):
        key.unlink() if bad is None else key.write_bytes(bad)
        lost = sender.send(name, secret)
        assert (lost.status_code, lost.json()["code"]) == (503, "webhook_key_lost")
    with pytest.raises(Unavailable):
        sender.add()
    key.write_bytes(good)
    assert sender.send(name, secret).status_code == 202


def test_a_key_of_the_studio_signs_no_webhook(sender: Sender, issue_key: Any) -> None:
    name, _ = sender.add()
    key = issue_key(sender.settings, sender.database.urls).key
    answer = sender.client.post(
        f"/api/v1/webhooks/{name}", content=json.dumps({}), headers={"Authorization": f"Bearer {key}"}
    )
    assert (answer.status_code, answer.json()["code"]) == (401, "webhook_headers_missing")
