"""Mail to a real SMTP server: TLS, passwords, refusals, and servers that do not speak."""

from __future__ import annotations

import email
import email.policy
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stemma.notify.channels import MailChannel
from stemma.notify.mail import send
from stemma.notify.messages import Message
from stemma.notify.sending import Undelivered

TLS = [("starttls", "when-offered"), ("starttls", "required"), ("implicit", "implicit")]
TO = ["ops@example.org", "ada@example.org"]
MESSAGE = Message("run.failed", "Run failed: Übung", "Line one.\n.\nLine two " + "x" * 2000)


def channel(port: int, **more: Any) -> MailChannel:
    known = {"kind": "smtp", "host": "localhost", "port": port, "sender": "stemma@example.org", "recipients": TO}
    return MailChannel(**known | {"allow_private": True} | more)


def login(password: str = "correct horse") -> dict[str, str]:
    return {"username": "stemma", "password": password}


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine trusts the server's certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))


@pytest.mark.parametrize(("served", "wanted"), TLS)
def test_mail_goes_over_tls_with_a_password(
    mail_server: Callable[..., Any], trusted: None, served: str, wanted: str
) -> None:
    server = mail_server(served)
    send(channel(server.port, tls=wanted, **login()), MESSAGE, timeout=20)
    (envelope,) = server.mailbox.envelopes
    assert server.mailbox.logins == ["stemma"] and envelope.rcpt_tos == TO
    sent = email.message_from_bytes(envelope.content, policy=email.policy.default)
    assert sent["Subject"] == "Run failed: Übung" and sent["To"] == ", ".join(TO)
    assert sent["Message-ID"] == f"<{MESSAGE.public_id}@example.org>"
    assert sent.get_content().replace("\r\n", "\n") == f"{MESSAGE.text}\n\nrun.failed\n"


def test_a_server_without_tls_gets_mail_and_no_password(mail_server: Callable[..., Any]) -> None:
    server = mail_server()
    send(channel(server.port), MESSAGE, timeout=20)
    assert len(server.mailbox.envelopes) == 1
    for demanding in (login(), {"tls": "required"}):
        with pytest.raises(Undelivered) as refused:
            send(channel(server.port, **demanding), MESSAGE, timeout=20)
        assert refused.value.code == "smtp_tls_missing" and refused.value.permanent
    assert server.mailbox.logins == [] and len(server.mailbox.envelopes) == 1


def test_a_certificate_that_nobody_vouches_for_is_refused(mail_server: Callable[..., Any]) -> None:
    server = mail_server("starttls")
    with pytest.raises(Undelivered) as refused:
        send(channel(server.port, **login()), MESSAGE, timeout=20)
    assert refused.value.code == "smtp_untrusted" and server.mailbox.logins == []


def test_a_wrong_password_stops_at_once(mail_server: Callable[..., Any], trusted: None) -> None:
    with pytest.raises(Undelivered) as refused:
        send(channel(mail_server("starttls").port, **login("hunter2")), MESSAGE, timeout=20)
    assert refused.value.code == "smtp_535" and refused.value.permanent and "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("answers", "code", "permanent"),
    [
        ({TO[0]: "550 No such user", TO[1]: "550 No such user"}, "smtp_550", True),
        ({TO[0]: "550 No such user"}, "smtp_550", True),
        ({TO[0]: "450 Try later"}, "smtp_450", False),
        ({TO[0]: "450 Try later", TO[1]: "550 No such user"}, "smtp_450", False),
    ],
)
def test_recipients_that_are_refused_are_counted(
    mail_server: Callable[..., Any], answers: dict[str, str], code: str, permanent: bool
) -> None:
    server = mail_server()
    server.mailbox.refused = answers
    with pytest.raises(Undelivered) as refused:
        send(channel(server.port), MESSAGE, timeout=20)
    assert (refused.value.code, refused.value.permanent) == (code, permanent)
    assert f"{len(answers)} of 2" in refused.value.message


def test_nobody_listens(closed_port: int) -> None:
    with pytest.raises(Undelivered) as refused:
        send(channel(closed_port), MESSAGE, timeout=20)
    assert refused.value.code == "smtp_unreachable" and not refused.value.permanent


@pytest.mark.parametrize("tls", ["when-offered", "implicit"])
@pytest.mark.parametrize("drip", [b"", b"2"])
def test_a_server_that_hangs_is_cut_off(tls: str, drip: bytes) -> None:
    """Also one that says a byte now and then, and in the middle of a handshake."""
    ended = threading.Event()
    no_handshake = tls == "implicit" and drip != b""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang() -> None:
            connection, _ = listener.accept()
            with connection:
                while not ended.wait(0.02):
                    try:
                        connection.sendall(drip)
                    except OSError:
                        return

        thread = threading.Thread(target=hang)
        thread.start()
        try:
            with pytest.raises(Undelivered) as refused:
                send(channel(listener.getsockname()[1], tls=tls), MESSAGE, timeout=30 if no_handshake else 0.3)
        finally:
            ended.set()
            thread.join()
    expected = "smtp_unreachable" if no_handshake else "receiver_timeout"
    assert refused.value.code == expected and not refused.value.permanent


def test_a_private_address_takes_the_channel_s_word(mail_server: Callable[..., Any]) -> None:
    with pytest.raises(Undelivered) as refused:
        send(channel(mail_server().port, allow_private=False), MESSAGE, timeout=20)
    assert refused.value.code == "receiver_private" and refused.value.permanent


def test_a_name_that_does_not_resolve_may_do_so_later() -> None:
    with pytest.raises(Undelivered) as refused:
        send(channel(25, host="nowhere.invalid"), MESSAGE, timeout=20)
    assert refused.value.code == "receiver_unresolved" and not refused.value.permanent
