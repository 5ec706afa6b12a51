"""Mail by SMTP (RFC 5321), over TLS where the server offers it or the channel asks for it."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
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
            client.send_message(mail(channel, message), channel.sender, list(channel.recipients))
    except TimeoutError:
        raise timed_out(timeout) from None
    except smtplib.SMTPRecipientsRefused as error:
        raise _recipients_refused(channel, error.recipients) from None
    except smtplib.SMTPResponseException as error:
        what = f"The mail server answered with {error.smtp_code}: {_said(error.smtp_error)}."
        permanent = error.smtp_code >= 500
        raise Undelivered(f"smtp_{error.smtp_code}", what, permanent=permanent) from None
    except smtplib.SMTPNotSupportedError:
        what = "The mail server cannot do what the channel asks for, such as take a password."
        raise Undelivered("smtp_not_supported", what, permanent=True) from None
    except ssl.SSLCertVerificationError:
        raise Undelivered("smtp_untrusted", "The mail server's certificate is not to be trusted.") from None
    except (OSError, smtplib.SMTPException, ValueError):
        if time.monotonic() >= ends_at:
            raise timed_out(timeout) from None
        raise Undelivered("smtp_unreachable", "The mail server does not answer, or not as SMTP says.") from None


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
    """Connects to the address that was checked, and knows the server by its name."""

    address: str

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return socket.create_connection((self.address, port), timeout)


class _PinnedTls(smtplib.SMTP_SSL, _Pinned):
    """The same, with TLS from the first byte on."""


@contextlib.contextmanager
def _session(channel: MailChannel, address: str, ends_at: float) -> Iterator[smtplib.SMTP]:
    context = ssl.create_default_context()
    pinned = type("Pinned", (_PinnedTls if channel.tls == "implicit" else _Pinned,), {"address": address})
    remaining = max(ends_at - time.monotonic(), 0.1)
    more = {"context": context} if channel.tls == "implicit" else {}
    client: smtplib.SMTP = pinned(channel.host, channel.port, timeout=remaining, **more)
    # A timeout counts from the last byte on: one that comes now and then would hold the delivery up for ever.
    watchdog = threading.Timer(max(ends_at - time.monotonic(), 0.0), _hang_up, (client,))
    watchdog.daemon = True
    watchdog.start()
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
        watchdog.cancel()
        client.close()


def _secure(channel: MailChannel, client: smtplib.SMTP, context: ssl.SSLContext) -> None:
    if client.has_extn("starttls"):
        client.starttls(context=context)
        client.ehlo()
    elif channel.tls == "required":
        raise Undelivered("smtp_tls_missing", f"{_NOT_OVER_PLAIN} the channel requires it.", permanent=True)
    elif channel.password is not None:
        raise Undelivered("smtp_tls_missing", f"{_NOT_OVER_PLAIN} a password is sent over TLS alone.", permanent=True)


def _hang_up(client: smtplib.SMTP) -> None:
    """End the connection under whoever waits for it; TLS would have to be shut down by that thread."""
    if client.sock is not None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(client.sock, socket.SHUT_RDWR)


def _recipients_refused(channel: MailChannel, refused: Mapping[str, tuple[int, bytes]]) -> Undelivered:
    codes = sorted({code for code, _ in refused.values()})
    what = f"The mail server refused {len(refused)} of {len(channel.recipients)} recipients with {codes[0]}."
    return Undelivered(f"smtp_{codes[0]}", what, permanent=codes[0] >= 500)


def _said(answer: bytes | str) -> str:
    text = answer.decode(errors="replace") if isinstance(answer, bytes) else answer
    return " ".join(text.split())[:200].rstrip(".") or "nothing"
