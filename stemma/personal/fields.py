"""What a sealed field is: `{"personal": {"ciphertext", "key", "nonce", "subject"}}` in place of a value.

The value's canonical JSON is encrypted with AES-256-GCM under the subject's data key. The associated data name the
subject, the key and the field's place (a JSON Pointer, RFC 6901, within the entry's `data`), so that a field that is
moved elsewhere, or given to someone else, does not open.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stemma.errors import InvalidInput
from stemma.ledger.entries import canonical
from stemma.personal.keys import SubjectKey
from stemma.personal.subjects import Subject

MARKER: Final = b'{"personal":{"ciphertext":"'
"""What every canonical body with a sealed field contains; a string cannot, since its quotes are escaped there."""

_NONCE_BYTES = 12
_IN_BODY = re.compile(
    rb'\{"personal":\{"ciphertext":"[A-Za-z0-9+/=]*","key":"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})","nonce":"[A-Za-z0-9+/=]*",'
    rb'"subject":"([0-9a-f]{32})"\}\}'
)
_PSEUDONYM = re.compile(r"[0-9a-f]{32}")
_MEMBERS = {"ciphertext", "key", "nonce", "subject"}


@dataclass(frozen=True, slots=True)
class SealedField:
    """One sealed value, as it stands in an entry."""

    subject: Subject
    key_id: UUID
    nonce: bytes
    ciphertext: bytes

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "personal": {
                "ciphertext": base64.b64encode(self.ciphertext).decode(),
                "key": str(self.key_id),
                "nonce": base64.b64encode(self.nonce).decode(),
                "subject": self.subject.pseudonym,
            }
        }

    def opened(self, key: SubjectKey, path: str) -> Any:
        """The value; raises ValueError where it was altered, moved from its place, or sealed with another key."""
        try:
            sealed_for = _associated(self.subject, self.key_id, path)
            return json.loads(AESGCM(key.secret).decrypt(self.nonce, self.ciphertext, sealed_for))
        except InvalidTag as error:
            raise ValueError("the field does not open") from error


def sealed(value: Any, subject: Subject, key: SubjectKey, path: str) -> SealedField:
    """Encrypt a JSON value for its place; raises InvalidInput, which does not repeat it, where JSON cannot say it."""
    try:
        plain = canonical(value)
    except InvalidInput:
        raise InvalidInput(
            "personal_not_canonical",
            "A personal value has no canonical JSON form.",
            field=path or "data",
            hint="Use JSON's own types, integers up to 2^53 - 1, and valid Unicode.",
        ) from None
    nonce = secrets.token_bytes(_NONCE_BYTES)
    ciphertext = AESGCM(key.secret).encrypt(nonce, plain, _associated(subject, key.key_id, path))
    return SealedField(subject, key.key_id, nonce, ciphertext)


def _associated(subject: Subject, key_id: UUID, path: str) -> bytes:
    return canonical({"field": path, "key": str(key_id), "subject": subject.pseudonym})


def parsed(value: Any) -> SealedField | None:
    """The sealed field that a JSON value is, if it is one."""
    if not isinstance(value, dict) or value.keys() != {"personal"}:
        return None
    said = value["personal"]
    if not isinstance(said, dict) or said.keys() != _MEMBERS or not all(isinstance(v, str) for v in said.values()):
        return None
    try:
        nonce = base64.b64decode(said["nonce"], validate=True)
        ciphertext = base64.b64decode(said["ciphertext"], validate=True)
        key_id = UUID(said["key"])
    except (ValueError, binascii.Error):
        return None
    if not _PSEUDONYM.fullmatch(said["subject"]) or len(nonce) != _NONCE_BYTES:
        return None
    return SealedField(Subject(said["subject"]), key_id, nonce, ciphertext)


def replaced(value: Any, by: Callable[[SealedField, str], Any], path: str = "") -> Any:
    """A copy of a JSON value in which `by` (field, path) stands for each sealed field."""
    if (found := parsed(value)) is not None:
        return by(found, path)
    if isinstance(value, dict):
        return {name: replaced(item, by, below(path, name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [replaced(item, by, below(path, place)) for place, item in enumerate(value)]
    return value


def below(path: str, name: str | int) -> str:
    """The JSON Pointer of a member or item of what stands at `path`."""
    return f"{path}/{str(name).replace('~', '~0').replace('/', '~1')}"


def spelled_in_body(body: bytes) -> list[tuple[bytes, bytes]]:
    """For each sealed field of a canonical body its key and its subject as spelled there, without parsing it."""
    return _IN_BODY.findall(body)


def in_body(body: bytes) -> Iterator[tuple[Subject, UUID]]:
    """Whose sealed fields a canonical body has, and under which keys."""
    for key_id, pseudonym in spelled_in_body(body):
        yield Subject(pseudonym.decode()), UUID(key_id.decode())
