"""DSSE envelopes: bytes of a named type with Ed25519 signatures over both.

The Dead Simple Signing Envelope, version 1 (github.com/secure-systems-lab/dsse, protocol.md and envelope.md). What is
in one, and whose key counts, belongs to the caller. An envelope is written in RFC 8785 form and read in no other, so
that not one byte of its file can change unseen.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass

from stemma.errors import CheckFailed, InvalidInput
from stemma.ledger.entries import canonical
from stemma.ledger.keys import PublicKey, SigningKey

_MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload, its media type, and one signature with the id of the key that made it."""

    payload_type: str
    payload: bytes
    key_id: str
    signature: bytes

    def to_bytes(self) -> bytes:
        """The envelope's file."""
        return canonical(
            {
                "payload": base64.b64encode(self.payload).decode(),
                "payloadType": self.payload_type,
                "signatures": [{"keyid": self.key_id, "sig": base64.b64encode(self.signature).decode()}],
            }
        )


def pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: what is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload_type: str, payload: bytes, key: SigningKey) -> Envelope:
    """Put a payload into an envelope."""
    return Envelope(payload_type, payload, key.key_id, key.sign(pae(payload_type, payload)))


def open_envelope(data: bytes, keys: Mapping[str, PublicKey]) -> Envelope:
    """Read an envelope whose signature one of these keys made.

    Raises InvalidInput with code `envelope_unreadable` for a file that is none, CheckFailed with code `key_unknown`
    where none of the keys signed it, `signature_invalid` where it was altered.
    """
    envelope = _parse(data)
    key = keys.get(envelope.key_id)
    if key is None:
        raise CheckFailed(
            "key_unknown",
            f"It names the key {envelope.key_id}; the keys given are {', '.join(keys)}.",
            hint="Pass the public key of the studio that issued it.",
        )
    if not key.verifies(envelope.signature, pae(envelope.payload_type, envelope.payload)):
        raise CheckFailed("signature_invalid", f"It is not what the key {key.key_id} signed.")
    return envelope


def _parse(data: bytes) -> Envelope:
    try:
        if len(data) > _MAX_BYTES:
            raise ValueError("too large")
        document = json.loads(data)
        (signature,) = document["signatures"]
        envelope = Envelope(
            payload_type=document["payloadType"],
            payload=base64.b64decode(document["payload"], validate=True),
            key_id=signature["keyid"],
            signature=base64.b64decode(signature["sig"], validate=True),
        )
        if envelope.to_bytes() != data:
            raise ValueError("written otherwise")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidInput) as error:
        raise InvalidInput(
            "envelope_unreadable",
            "This is no DSSE envelope as `stemma receipt export` writes it.",
            hint="Pass the exported file byte for byte.",
        ) from error
    return envelope
