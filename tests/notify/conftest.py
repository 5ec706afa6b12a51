"""Receivers on loopback that speak HTTP and SMTP as the real ones do, and a studio whose channels lead there."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from stemma.ledger.journal import transition
from stemma.ledger.service import Ledger
from stemma.notify import delivery
from stemma.notify.delivery import Report
from stemma.notify.messages import Message
from stemma.notify.outbox import Notification, enqueue, list_notifications
from stemma.store.database import Database
from stemma.store.settings import Settings

SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@dataclass(frozen=True)
class Call:
    """One request as it came in."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """An HTTP server that answers as it is told, call by call: a status, with headers, or None to hang."""

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str]] | None] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)


@contextmanager
def receiving(receiver: Receiver, port: int = 0) -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.calls.append(Call(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            answer = receiver.answers.pop(0) if receiver.answers else (200, {})
            if answer is None:
                self._drip()
                return
            self.send_response(answer[0])
            for name, value in answer[1].items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"ok")

        def _drip(self) -> None:
            """A byte now and then, so that no timeout between two of them is ever reached."""
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            try:
                while not receiver.stopped.wait(0.02):
                    self.wfile.write(b"X-A: b\r\n")
            except OSError:
                return

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield receiver
    finally:
        receiver.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of webhooks."""
    with receiving(Receiver()) as opened:
        yield opened


@pytest.fixture(scope="session")
def serve_again() -> Callable[[Receiver, int], Any]:
    """Open a receiver on a port that was given up before."""
    return receiving


@pytest.fixture
def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class Mailbox:
    """The handler of the SMTP server: keeps what was sent, refuses whom it is told to."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.refused: dict[str, str] = {}
        self.logins: list[str] = []

    async def handle_RCPT(  # noqa: N802
        self, server: Any, session: Any, envelope: Envelope, address: str, options: Any
    ) -> str:
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:  # noqa: N802
        self.envelopes.append(envelope)
        return "250 OK"

    def authenticate(self, server: Any, session: Any, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append(data.login.decode())
        return AuthResult(success=data.password == b"correct horse", handled=False)


@dataclass
class MailServer:
    """A running SMTP server."""

    port: int
    mailbox: Mailbox


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with key and self-signed certificate of `localhost`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def mail_server(certificate: Path) -> Iterator[Callable[..., MailServer]]:
    """Start SMTP servers; `tls` is None, "starttls" or "implicit"."""
    started: list[Controller] = []

    def start(tls: str | None = None) -> MailServer:
        mailbox = Mailbox()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        options: dict[str, Any] = {"authenticator": mailbox.authenticate, "auth_require_tls": tls == "starttls"}
        if tls == "starttls":
            options["tls_context"] = context
        if tls == "implicit":
            options["ssl_context"] = context
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        controller = Controller(mailbox, hostname="127.0.0.1", port=port, server_hostname="localhost", **options)
        controller.start()
        started.append(controller)
        return MailServer(port, mailbox)

    yield start
    for controller in started:
        controller.stop()


class Office:
    """A studio with channels: tells messages, delivers, and shows what became of them."""

    def __init__(self, settings: Settings, database: Database, ledger: Ledger) -> None:
        self.settings = settings
        self.database = database
        self.ledger = ledger

    def configure(self, channels: dict[str, Any], subscriptions: list[dict[str, Any]] | None = None) -> None:
        """Write notify.yaml; by default every channel gets every topic."""
        everything = [{"topics": ["*"], "channels": list(channels)}] if channels else []
        path = self.settings.home / "notify.yaml"
        path.write_text(yaml.safe_dump({"channels": channels, "subscriptions": subscriptions or everything}))
        path.chmod(0o600)

    def tell(self, *messages: Message) -> None:
        """Put messages into the outbox with an entry, as a change does."""
        for message in messages:
            entry = transition("test.told", subject="test/1", actor="test", data={})
            self.ledger.append([entry], [enqueue(message)]).result(20)

    def deliver(self, *, at_most: int = 100, timeout: float = 20.0) -> Report:
        """Deliver what is due; `timeout` is for each attempt."""
        hurried = self.settings.model_copy(update={"notify_timeout": timeout})
        return delivery.deliver(self.database, self.ledger, hurried, seconds=60.0, at_most=at_most)

    def all(self) -> list[Notification]:
        """Every delivery, the oldest first."""
        return list(reversed(self.database.read(list_notifications).data))

    def make_due(self) -> None:
        """As if every pause and every lease were over."""
        with self.database.transaction() as connection:
            connection.execute("UPDATE notification_deliveries SET next_attempt_at = now() WHERE state = 'pending'")


@pytest.fixture(scope="module")
def opened_office(studio: tuple[Settings, Database]) -> Iterator[Office]:
    """The studio that the tests of a module share."""
    settings, database = studio
    with Ledger(database.urls, settings) as ledger:
        yield Office(settings, database, ledger)


@pytest.fixture
def office(opened_office: Office) -> Office:
    """The same, with an empty outbox and no channel."""
    with opened_office.database.transaction() as connection:
        connection.execute("DELETE FROM notifications")
    opened_office.configure({})
    return opened_office


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Poll a condition until it holds, up to a deadline."""

    def wait(condition: Callable[[], bool], *, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.01)

    return wait
