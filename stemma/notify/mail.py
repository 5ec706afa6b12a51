"""Mail by SMTP (RFC 5321), over TLS where the server offers it or the channel asks for it."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from email.message import EmailMessage
from email.utils import format_datetime

import anyio

from stemma.notify.channels import MailChannel
from stemma.notify.messages import Message
from stemma.notify.sending import Undelivered, resolve, timed_out

_NOT_OVER_PLAIN = "The server offers no TLS, and"


def send(channel: MailChannel, message: Message, *, timeout: float) -> None:
    """Send the message to all recipients; raises Undelivered. A repeat has the same Message-ID."""
    ends_at = time.monotonic() + timeout

    async def addresses() -> list[str]:
        with anyio.fail_after(timeout):
            return await resolve(channel.host, channel.port, allow_private=channel.allow_private)

    try:
        found = anyio.run(addresses)
        with _session(channel, found[0], ends_at) as client:
            refused = client.send_message(mail(channel, message), channel.sender, list(channel.recipients))
            if refused:
                raise smtplib.SMTPRecipientsRefused(refused)
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise timed_out(timeout) if time.monotonic() >= ends_at else _as_undelivered(error, channel) from None


def mail(channel: MailChannel, message: Message) -> EmailMessage:
    """The mail, in plain text."""
    made = EmailMessage()
    made["Subject"] = message.title
    made["From"] = channel.sender
    made["To"] = ", ".join(channel.recipients)
    made["Date"] = format_datetime(message.created_at)
    made["Message-ID"] = f"<{message.public_id}@{channel.sender.partition('@')[2]}>"
    made["Auto-Submitted"] = "auto-generated"
    made.set_content(f"{message.text or message.title}\n\n{message.topic}\n")
    return made


class _Pinned(smtplib.SMTP):
    """Connects to the address that was checked, knows the server by its name, and hangs up at a moment.

    A timeout counts from the last byte on: one that comes now and then would hold the delivery up for ever.
    """

    address: str
    ends_at: float
    _handle: socket.socket | None = None
    _watchdog: threading.Timer | None = None

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connection = socket.create_connection((self.address, port), timeout)
        # Another handle to the same connection: TLS is laid over this one, and is its thread's alone.
        self._handle = connection.dup()
        self._watchdog = threading.Timer(max(self.ends_at - time.monotonic(), 0.0), _hang_up, (self._handle,))
        self._watchdog.daemon = True
        self._watchdog.start()
        return connection

    def close(self) -> None:
        super().close()
        if self._watchdog is not None and self._handle is not None:
            self._watchdog.cancel()
            _hang_up(self._handle)


class _PinnedTls(smtplib.SMTP_SSL, _Pinned):
    """The same, with TLS from the first byte on."""


@contextlib.contextmanager
def _session(channel: MailChannel, address: str, ends_at: float) -> Iterator[smtplib.SMTP]:
    context = ssl.create_default_context()
    base = _PinnedTls if channel.tls == "implicit" else _Pinned
    pinned = type("Pinned", (base,), {"address": address, "ends_at": ends_at})
    more = {"context": context} if channel.tls == "implicit" else {}
    client: smtplib.SMTP = pinned(channel.host, channel.port, timeout=max(ends_at - time.monotonic(), 0.1), **more)
    try:
        client.ehlo()
        if channel.tls != "implicit":
            _secure(channel, client, context)
        if channel.username is not None and channel.password is not None:
            client.login(channel.username, channel.password.get_secret_value())
        yield client
        # The mail was taken with the answer to DATA, whatever comes of this.
        with contextlib.suppress(OSError, smtplib.SMTPException, ValueError):
            client.quit()
    finally:
        client.close()


def _secure(channel: MailChannel, client: smtplib.SMTP, context: ssl.SSLContext) -> None:
    if client.has_extn("starttls"):
        client.starttls(context=context)
        client.ehlo()
    elif channel.tls == "required":
        raise Undelivered("smtp_tls_missing", f"{_NOT_OVER_PLAIN} the channel requires it.", permanent=True)
    elif channel.password is not None:
        raise Undelivered("smtp_tls_missing", f"{_NOT_OVER_PLAIN} a password is sent over TLS alone.", permanent=True)


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError), connection:
        connection.shutdown(socket.SHUT_RDWR)


def _as_undelivered(error: Exception, channel: MailChannel) -> Undelivered:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        # Where one of them may be taken later, the others get the mail twice, with the same Message-ID.
        code = min(code for code, _ in error.recipients.values())
        what = f"The mail server refused {len(error.recipients)} of {len(channel.recipients)} recipients with {code}."
        return Undelivered(f"smtp_{code}", what, permanent=code >= 500)
    if isinstance(error, smtplib.SMTPResponseException):
        what = f"The mail server answered with {error.smtp_code}: {_said(error.smtp_error)}."
        return Undelivered(f"smtp_{error.smtp_code}", what, permanent=error.smtp_code >= 500)
    if isinstance(error, smtplib.SMTPNotSupportedError):
        what = "The mail server cannot do what the channel asks for, such as take a password."
        return Undelivered("smtp_not_supported", what, permanent=True)
    if isinstance(error, ssl.SSLCertVerificationError):
        return Undelivered("smtp_untrusted", "The mail server's certificate is not to be trusted.")
    return Undelivered("smtp_unreachable", "The mail server does not answer, or not as SMTP says.")


def _said(answer: bytes | str) -> str:
    text = answer.decode(errors="replace") if isinstance(answer, bytes) else answer
    return " ".join(text.split())[:200].rstrip(".") or "nothing"
