"""What leaves the outbox, when, and what happens when the receiver is down, slow, busy or unwilling."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from stemma.access.principal import local_principal
from stemma.errors import Conflict, InvalidInput
from stemma.ledger.feed import Filter, list_entries
from stemma.notify import outbox
from stemma.notify.channels import MailChannel, WebhookChannel
from stemma.notify.delivery import pause, send
from stemma.notify.messages import Message
from stemma.notify.outbox import State
from stemma.notify.sending import Undelivered, reach
from stemma.notify.slack import payload
from stemma.store.logs import configure_logging
from stemma.store.settings import REPOSITORY
from stemma.telemetry import alerts, health

SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
OLDER = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def hook(url: str, *secrets: str) -> dict[str, Any]:
    return {"kind": "webhook", "url": url, "secrets": list(secrets or [SECRET]), "allow_private": True}


def news(title: str = "It happened", **more: Any) -> Message:
    return Message("run.failed", title, "Because of that.", {"run": "run/1"}, **more)


def test_a_webhook_is_signed_with_every_secret_and_settled(office: Any, receiver: Any) -> None:
    office.configure({"n8n": hook(f"{receiver.url}/hook", SECRET, OLDER)})
    message = news()
    office.tell(message)
    assert (office.deliver().delivered, office.deliver().delivered) == (1, 0)
    (call,) = receiver.calls
    for secret in (SECRET, OLDER):
        told = standardwebhooks.Webhook(secret).verify(call.body, call.headers)
        assert (told["type"], told["title"], told["data"]) == ("run.failed", "It happened", {"run": "run/1"})
    assert call.headers["webhook-id"] == message.public_id and call.path == "/hook"
    (row,) = office.all()
    assert row.state is State.DELIVERED and row.attempts == 1 and row.settled_at and row.error is None


def test_alerts_stand_in_the_historian_and_reach_a_webhook(office: Any, receiver: Any) -> None:
    office.configure({"ops": hook(receiver.url)}, [{"topics": ["alert.*"], "channels": ["ops"]}])
    now = datetime.now(UTC)
    with office.database.transaction() as connection:
        connection.execute(
            "INSERT INTO provider_usage (ts, request_id, actor, route, op, provider, model, status, error_code,"
            " tokens_in, tokens_cached, tokens_out, counted, latency_ms, meta) SELECT %s, 'r', 'a', '/', 'run',"
            " 'openai', 'm', 'error', 'provider_timeout', 0, 0, 0, 'estimated', 1, '{}' FROM generate_series(1, 25)",
            (now,),
        )
    stale = [alerts.Stale("costs/daily", now - timedelta(days=3))]
    changes: list[Any] = office.database.read(lambda connection: alerts.due(connection, stale, now))
    for status in ("ok", "failed"):
        seen = [health.Observation("files", status, "No room; ask ada@example.org.", None, None, now)]
        change = office.database.read(lambda connection, seen=seen: health.record(connection, "here", seen))
        if change.entries:
            changes.append(change)
            continue
        with office.database.transaction() as connection:
            for statement in change.companions:
                connection.execute(statement.query, statement.bound(()))
    for change in changes:
        office.ledger.commit(change).result(20)
    office.tell(news())
    assert office.deliver().delivered == 3
    told = [standardwebhooks.Webhook(SECRET).verify(call.body, call.headers) for call in receiver.calls]
    assert {one["type"] for one in told} == {"alert.error_rate", "alert.stale_asset", "alert.service"}
    assert "[email]" in next(one["text"] for one in told if one["type"] == "alert.service")
    with office.database.snapshot() as connection:
        entries = list_entries(connection, "historian", Filter(kind="alert")).data
    assert {f"msg_{entry.id.hex}" for entry in entries} == {call.headers["webhook-id"] for call in receiver.calls}


def test_a_receiver_is_looked_at_and_sent_nothing(
    receiver: Any, closed_port: int, mail_server: Callable[..., Any]
) -> None:
    def at(url: str, *, private: bool = True) -> None:
        host, port, tls = WebhookChannel.model_validate(hook(url)).address
        reach(host, port, tls=tls, allow_private=private, timeout=10)

    at(receiver.url)
    mail = {"kind": "smtp", "host": "localhost", "port": mail_server("implicit").port, "tls": "implicit"}
    channel = MailChannel.model_validate(mail | {"sender": "a@example.org", "recipients": ["b@example.org"]})
    refused = {f"http://127.0.0.1:{closed_port}/": True, receiver.url: False}
    for url, private in refused.items():
        with pytest.raises(Undelivered):
            at(url, private=private)
    host, port, tls = channel.address
    with pytest.raises(Undelivered, match="TLS"):
        reach(host, port, tls=tls, allow_private=True, timeout=10)
    assert receiver.calls == []


def test_slack_gets_its_own_format(office: Any, receiver: Any) -> None:
    office.configure({"team": {"kind": "slack", "url": f"{receiver.url}/services/T0/B0/X", "allow_private": True}})
    office.tell(Message("approval.requested", "Publish <page>?", "<!channel> & <https://evil.example|click>"))
    assert office.deliver().delivered == 1
    (call,) = receiver.calls
    sent = json.loads(call.body)
    assert call.headers["content-type"] == "application/json"
    assert sent["text"] == "Publish &lt;page&gt;?"
    assert [block["type"] for block in sent["blocks"]] == ["header", "section", "context"]
    assert sent["blocks"][1]["text"]["text"].startswith("&lt;!channel&gt; &amp; ")


@given(st.text(max_size=5000), st.text(alphabet="&<>a", max_size=5000))
def test_what_slack_gets_is_within_its_limits(title: str, text: str) -> None:
    blocks = payload(Message("a", title, text))["blocks"]
    assert len(blocks[0]["text"]["text"]) <= 150
    for block in blocks[1:-1]:
        assert 0 < len(block["text"]["text"]) <= 3000
        assert not block["text"]["text"].replace("&amp;", "").replace("&lt;", "").replace("&gt;", "").strip("a")


def test_a_message_goes_once_to_each_channel_that_subscribed(office: Any, receiver: Any) -> None:
    both = {name: hook(f"{receiver.url}/{name}") for name in ("one", "two", "three")}
    office.configure(both, [{"topics": ["run.*"], "channels": ["one", "two"]}, {"topics": ["*"], "channels": ["two"]}])
    same = uuid4()
    office.tell(news(id=same), news(id=same), Message("test", "Another", ""))
    assert office.deliver().delivered == 3
    assert sorted(call.path for call in receiver.calls) == ["/one", "/two", "/two"]
    assert len({call.headers["webhook-id"] for call in receiver.calls}) == 2


def test_nobody_subscribed_and_nothing_waits(office: Any) -> None:
    office.tell(news())
    assert office.database.read(outbox.has_work)
    assert office.deliver().routed == 1
    assert office.all() == [] and not office.database.read(outbox.has_work)


def test_what_is_told_is_redacted_and_storable(office: Any, receiver: Any) -> None:
    office.configure({"n8n": hook(receiver.url)})
    text = "mail ada@example.org\0 \udc80 password=hunter2-hunter2"
    office.tell(Message("a\n.b", text, text, {"reason": text, "list": [text], "token": "abc"}))
    assert office.deliver().delivered == 1
    body = receiver.calls[0].body.decode()
    assert "example.org" not in body and "hunter2" not in body and "abc" not in body


def test_a_receiver_that_is_down_loses_nothing(office: Any, receiver: Any, closed_port: int, serve_again: Any) -> None:
    office.configure({"n8n": hook(f"http://127.0.0.1:{closed_port}")})
    office.tell(*(news(str(number)) for number in range(5)))
    report = office.deliver()
    assert (report.routed, report.delivered, report.postponed) == (5, 0, 1), "one attempt tells that it is down"
    office.make_due()
    assert office.deliver().postponed == 1
    assert {row.error_code for row in office.all() if row.error_code} == {"receiver_unreachable"}
    office.make_due()
    with serve_again(receiver, closed_port):
        assert office.deliver().delivered == 5
    assert sorted(json.loads(call.body)["title"] for call in receiver.calls) == list("01234")
    assert {row.state for row in office.all()} == {State.DELIVERED}


def test_a_process_that_is_killed_loses_nothing(office: Any, receiver: Any, wait_until: Callable[..., None]) -> None:
    """It is killed in the middle of an attempt; whoever delivers next sends the same again, with the same id."""
    office.configure({"n8n": hook(receiver.url)})
    office.tell(news())
    receiver.answers = [None]
    environment = {**os.environ, "STEMMA_NOTIFY_TIMEOUT": "20"}
    program = [sys.executable, "-m", "cli", "notify", "deliver"]
    child = subprocess.Popen(program, env=environment, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    wait_until(lambda: bool(receiver.calls))
    assert office.deliver().delivered == 0, "it is lent to the process that lives"
    child.send_signal(signal.SIGKILL)
    child.wait()
    (row,) = office.all()
    assert row.state is State.PENDING and row.attempts == 1
    office.make_due()
    assert office.deliver().delivered == 1
    first, second = receiver.calls
    assert first.headers["webhook-id"] == second.headers["webhook-id"] and first.body == second.body


def test_several_that_deliver_at_once_send_nothing_twice(office: Any, receiver: Any) -> None:
    office.configure({"n8n": hook(receiver.url)})
    office.tell(*(news(str(number)) for number in range(20)))
    office.deliver(at_most=0)
    deliverers = [threading.Thread(target=office.deliver) for _ in range(3)]
    for thread in deliverers:
        thread.start()
    for thread in deliverers:
        thread.join()
    assert sorted(int(json.loads(call.body)["title"]) for call in receiver.calls) == list(range(20))


def test_a_receiver_that_hangs_is_cut_off_and_holds_up_nobody_else(
    office: Any, receiver: Any, serve_again: Any
) -> None:
    with serve_again(type(receiver)(answers=[None, None])) as slow:
        office.configure({"slow": hook(slow.url), "quick": hook(receiver.url)})
        office.tell(news("1"), news("2"))
        report = office.deliver(timeout=0.4)
        assert (report.delivered, report.postponed) == (2, 1)
        assert (len(slow.calls), len(receiver.calls)) == (1, 2)
    errors = {(row.channel, row.state, row.error_code) for row in office.all() if row.attempts}
    assert errors == {("quick", State.DELIVERED, None), ("slow", State.PENDING, "receiver_timeout")}


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 302])
def test_what_may_pass_is_tried_again(office: Any, receiver: Any, status: int) -> None:
    office.configure({"n8n": hook(receiver.url)})
    office.tell(news())
    receiver.answers = [(status, {"Location": receiver.url})]
    assert office.deliver().postponed == 1
    (row,) = office.all()
    assert row.state is State.PENDING and row.error_code == f"http_{status}"
    assert row.next_attempt_at > datetime.now(UTC) + timedelta(seconds=1)
    office.make_due()
    assert office.deliver().delivered == 1 and len(receiver.calls) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422])
def test_what_cannot_pass_stops_at_once_and_is_told(office: Any, receiver: Any, status: int) -> None:
    office.configure({"n8n": hook(receiver.url)})
    office.tell(news())
    receiver.answers = [(status, {})]
    assert (office.deliver().failed, office.deliver().failed) == (1, 0)
    (row,) = office.all()
    assert row.state is State.FAILED and row.error_code == f"http_{status}" and row.next_attempt_at is None
    with office.database.snapshot() as connection:
        (entry,) = list_entries(connection, "historian", Filter(subject=f"notification/{row.id}")).data
    assert entry.kind == "notification.failed" and entry.data["code"] == f"http_{status}"


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        ("120", 110, 121),
        (lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=300), usegmt=True), 280, 301),
        ("999999999", 86_000, 86_401),
        ("soon", 1, 6),
        ("-5", 1, 6),
        ("Mon, 99 Nov 9999 99:99:99 GMT", 1, 6),
        ("", 1, 6),
    ],
)
def test_retry_after_is_honoured_for_the_whole_channel(
    office: Any, receiver: Any, said: Any, least: float, most: float
) -> None:
    office.configure({"n8n": hook(receiver.url)})
    office.tell(news("1"), news("2"))
    receiver.answers = [(429, {"Retry-After": said() if callable(said) else said})]
    assert office.deliver().postponed == 1
    rows = office.all()
    now = datetime.now(UTC)
    waits = sorted((row.next_attempt_at - now).total_seconds() for row in rows)
    assert least <= waits[-1] <= most
    if least > 6:
        assert office.deliver().delivered == 0 and waits[0] >= least, "the second message waits, too"


def test_the_deadline_ends_it_and_a_retry_begins_anew(office: Any, receiver: Any) -> None:
    office.configure({"n8n": hook(receiver.url)})
    office.tell(news())
    receiver.answers = [(500, {}), (500, {})]
    office.deliver()
    with office.database.transaction() as connection:
        connection.execute("UPDATE notification_deliveries SET deadline = now(), next_attempt_at = now()")
    assert office.deliver().failed == 1
    (row,) = office.all()
    assert row.state is State.FAILED and row.error_code == "http_500" and row.attempts == 2

    def retry(connection: Any) -> Any:
        return outbox.retry(connection, local_principal(), row.id, patience=60)

    first, second = office.database.read(retry), office.database.read(retry)
    assert office.ledger.commit(first).result(20).state is State.PENDING
    with pytest.raises(Conflict):
        office.ledger.commit(second).result(20)
    with pytest.raises(Conflict) as refused:
        office.database.read(retry)
    assert refused.value.code == "notification_not_failed"
    assert office.deliver().delivered == 1
    assert len({call.headers["webhook-id"] for call in receiver.calls}) == 1


def test_a_channel_that_was_removed_is_told(office: Any, receiver: Any) -> None:
    office.configure({"n8n": hook(receiver.url)})
    office.tell(news())
    office.deliver(at_most=0)
    office.configure({})
    assert office.deliver().failed == 1
    assert office.all()[0].error_code == "channel_unknown"


def test_messages_wait_for_a_file_that_can_be_read(office: Any, receiver: Any) -> None:
    (office.settings.home / "notify.yaml").write_text("channels: [")
    (office.settings.home / "notify.yaml").chmod(0o600)
    office.tell(news())
    with pytest.raises(InvalidInput):
        office.deliver()
    office.configure({"n8n": hook(receiver.url)})
    assert office.deliver().delivered == 1


def test_an_error_that_nobody_foresaw_is_an_attempt_like_others(office: Any) -> None:
    url, secrets = SecretStr("http://hunter2.example/\x7f"), (SecretStr(SECRET),)
    unusable = WebhookChannel.model_construct(url=url, signing_secrets=secrets, allow_private=True)
    with pytest.raises(Undelivered) as refused:
        send(unusable, news(), office.settings)
    assert refused.value.code == "unexpected_error" and not refused.value.permanent
    assert "hunter2" not in str(refused.value)


def test_a_private_address_takes_the_channel_s_word(office: Any, receiver: Any) -> None:
    private = {**hook(receiver.url.replace("http:", "https:")), "allow_private": False}
    office.configure({"n8n": private})
    office.tell(news())
    assert office.deliver().failed == 1
    assert office.all()[0].error_code == "receiver_private" and receiver.calls == []


def test_a_lease_that_ended_settles_nothing(office: Any, receiver: Any) -> None:
    office.configure({"n8n": hook(receiver.url)})
    office.tell(news())
    office.deliver(at_most=0)
    with office.database.transaction() as connection:
        slow = outbox.claim(connection, "n8n", lease=0)
    with office.database.transaction() as connection:
        quick = outbox.claim(connection, "n8n", lease=60)
        assert outbox.claim(connection, "n8n", lease=60) is None
    with office.database.transaction() as connection:
        outbox.delivered(connection, slow)
        outbox.postponed(connection, slow, "late", "late", seconds=0)
    with pytest.raises(Conflict):
        office.ledger.commit(outbox.failed(slow, "late", "late")).result(20)
    assert office.all()[0].state is State.PENDING and office.all()[0].error is None
    with office.database.transaction() as connection:
        outbox.delivered(connection, quick)
    assert office.all()[0].state is State.DELIVERED


def test_what_is_done_with_is_forgotten_after_a_month(office: Any, receiver: Any) -> None:
    office.configure({"n8n": hook(receiver.url)})
    office.tell(news("1"))
    office.deliver()
    receiver.answers = [(500, {})]
    office.tell(news("2"))
    office.deliver()
    with office.database.transaction() as connection:
        connection.execute("UPDATE notifications SET created_at = now() - interval '31 days'")
    office.deliver()
    assert [row.title for row in office.all()] == ["2"]


def test_no_secret_is_logged_or_kept(office: Any, receiver: Any, mail_server: Any) -> None:
    path, password = "/services/T0/B0/verysecretpath", "correct horse battery"
    mail = {
        "kind": "smtp",
        "host": "127.0.0.1",
        "port": mail_server().port,
        "username": "stemma",
        "password": password,
        "sender": "stemma@example.org",
        "recipients": ["ops@example.org"],
        "allow_private": True,
    }
    slack = {"kind": "slack", "url": receiver.url + path, "allow_private": True}
    office.configure({"team": slack, "n8n": hook(receiver.url + path), "mail": mail})
    lines = StringIO()
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    configure_logging("DEBUG", stream=lines)
    try:
        for answer in [(403, {}), (500, {}), None]:
            receiver.answers = [answer, answer]
            office.tell(news())
            office.deliver(timeout=0.4)
    finally:
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
    assert "given up: http_403" in lines.getvalue()
    with office.database.snapshot() as connection:
        kept = connection.execute(
            "SELECT (SELECT string_agg(encode(body, 'escape'), '') FROM ledger)"
            " || (SELECT string_agg(d::text, '') FROM notification_deliveries AS d)"
            " || (SELECT string_agg(n::text, '') FROM notifications AS n)"
        ).fetchone()[0]
    assert "notification.failed" in kept
    for secret in ("verysecretpath", password, SECRET, SECRET.removeprefix("whsec_")):
        assert secret not in lines.getvalue() and secret not in kept


@given(st.integers(min_value=1, max_value=10_000))
def test_pauses_grow_to_an_hour_and_are_never_nothing(attempts: int) -> None:
    assert 2.5 <= pause(attempts) <= min(5.0 * 2 ** min(attempts - 1, 30), 3600.0)


def test_pages_follow_each_other(office: Any, receiver: Any) -> None:
    office.configure({"n8n": hook(receiver.url)})
    office.tell(*(news(str(number)) for number in range(5)))
    office.deliver()
    first = office.database.read(lambda c: outbox.list_notifications(c, limit=3))
    rest = office.database.read(lambda c: outbox.list_notifications(c, limit=3, cursor=first.next_cursor))
    assert len({row.id for row in (*first.data, *rest.data)}) == 5 and rest.next_cursor is None
    assert office.database.read(lambda c: outbox.list_notifications(c, state=State.FAILED)).data == ()
    with pytest.raises(InvalidInput):
        office.database.read(lambda c: outbox.list_notifications(c, cursor="nonsense"))
