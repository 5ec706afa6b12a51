"""Standard Webhooks: who sent a request, and when, by HMAC-SHA-256 over its id, its time and its very bytes.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md. Only symmetric signatures
(`v1`) are made and taken. Whether a message was seen before is for whoever keeps the ids to say.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Final

from stemma.errors import InvalidInput, Unauthenticated

ID: Final = "webhook-id"
TIMESTAMP: Final = "webhook-timestamp"
SIGNATURE: Final = "webhook-signature"
TOLERANCE: Final = 300
"""Seconds by which a timestamp may differ from this machine's clock."""

_PREFIX = "whsec_"
_SECRET_BYTES = 32
# 24 to 64 says the specification, and its published vectors have a secret of 23.
_SHORTEST, _LONGEST = 16, 64
_MOST_SIGNATURES = 16
# No full stop: it parts the id from the time in what is signed.
_MESSAGE_ID = re.compile(r"[!-\-/-~]{1,255}")
_SECONDS = re.compile(r"[0-9]{1,11}")


def new_secret() -> str:
    """A random secret of 256 bits, `whsec_…`."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def secret_bytes(text: str) -> bytes:
    """The key in a secret, which is base64 with or without `whsec_` and padding.

    Raises InvalidInput, which does not repeat the secret.
    """
    try:
        body = text.removeprefix(_PREFIX).rstrip("=")
        key = base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not _SHORTEST <= len(key) <= _LONGEST:
        what = f"This is no webhook secret: whsec_ and the base64 of {_SHORTEST} to {_LONGEST} bytes."
        raise InvalidInput("webhook_secret_invalid", what, field="secret", hint="`openssl rand -base64 32` makes one.")
    return key


def sign(keys: Sequence[bytes], message_id: str, at: int, body: bytes) -> dict[str, str]:
    """The headers of a message that is sent at Unix time `at`, with a signature by each key."""
    signatures = (base64.b64encode(_signature(key, message_id, str(at), body)).decode() for key in keys)
    return {ID: message_id, TIMESTAMP: str(at), SIGNATURE: " ".join(f"v1,{signature}" for signature in signatures)}


def verify(keys: Sequence[bytes], headers: Mapping[str, str], body: bytes, *, now: float | None = None) -> str:
    """The id of a message that one of the keys signed; names of headers are in lower case.

    Raises Unauthenticated with code `webhook_headers_missing`, `webhook_headers_invalid`, `webhook_timestamp_old`,
    `webhook_timestamp_new` or `webhook_signature_invalid`.
    """
    message_id, at, signatures = (headers.get(name, "") for name in (ID, TIMESTAMP, SIGNATURE))
    if not (message_id and at and signatures):
        what = f"A webhook has the headers {ID}, {TIMESTAMP} and {SIGNATURE}."
        raise Unauthenticated("webhook_headers_missing", what, hint="Sign it as Standard Webhooks says.")
    if not _MESSAGE_ID.fullmatch(message_id) or not _SECONDS.fullmatch(at):
        what = f"{ID} is printable without spaces and full stops, {TIMESTAMP} is in whole seconds since 1970."
        raise Unauthenticated("webhook_headers_invalid", what, hint="Sign it as Standard Webhooks says.")
    _check_time(int(at), time.time() if now is None else now)
    given = [_decoded(signature) for signature in signatures.split(" ")[:_MOST_SIGNATURES]]
    for key in keys:
        expected = _signature(key, message_id, at, body)
        if any(hmac.compare_digest(expected, one) for one in given):
            return message_id
    what = "No signature of this webhook is one of the source's secret over these bytes."
    hint = "Sign the bytes that are sent, with the secret that was shown when the source was added or rotated."
    raise Unauthenticated("webhook_signature_invalid", what, hint=hint)


def _signature(key: bytes, message_id: str, at: str, body: bytes) -> bytes:
    return hmac.digest(key, f"{message_id}.{at}.".encode() + body, "sha256")


def _check_time(at: int, now: float) -> None:
    hint = f"Sign anew for each attempt; the clocks may differ by {TOLERANCE} seconds."
    if at < now - TOLERANCE:
        raise Unauthenticated("webhook_timestamp_old", "This webhook was signed too long ago.", hint=hint)
    if at > now + TOLERANCE:
        raise Unauthenticated("webhook_timestamp_new", "This webhook was signed in the future.", hint=hint)


def _decoded(signature: str) -> bytes:
    """The bytes of a `v1` signature; none for what is another one."""
    version, _, text = signature.partition(",")
    try:
        return base64.b64decode(text, validate=True) if version == "v1" else b""
    except (binascii.Error, ValueError):
        return b""
