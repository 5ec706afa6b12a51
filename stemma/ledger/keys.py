"""The Ed25519 keys that sign heads: one private key in use, and every public key that ever was.

`STEMMA_HOME/keys` (mode 700) holds `ledger-signing.pem` (mode 600) and `ledger-public-keys.json`, in which each key is
vouched for by the signature of the one before. What is signed is the business of `heads`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from stemma.errors import CheckFailed, InvalidInput, Unavailable
from stemma.ledger.entries import canonical, format_time
from stemma.store.keyfiles import keys_folder, locked_keys, write_key
from stemma.store.settings import Settings

_PRIVATE = "ledger-signing.pem"
_NEXT = "ledger-signing.next.pem"
_PUBLIC = "ledger-public-keys.json"
_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One signing key's public half (base64), and who vouches for it: the key before, unless that was lost.

    `key_id` is the first 16 hexadecimal digits of the SHA-256 of the 32 raw bytes.
    """

    key_id: str
    public: str
    created_at: str
    previous: str | None
    endorsement: str | None

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether this key made the signature."""
        try:
            Ed25519PublicKey.from_public_bytes(base64.b64decode(self.public, validate=True)).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    @property
    def pem(self) -> str:
        """The key as PEM (SubjectPublicKeyInfo, RFC 8410), to be given away."""
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(self.public))
        return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()

    @property
    def endorsed(self) -> bytes:
        """The bytes that the key before signs."""
        document = asdict(self)
        del document["endorsement"]
        return canonical(document)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The private key in use."""

    key_id: str
    private: Ed25519PrivateKey

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature, 64 bytes."""
        return self.private.sign(message)


def public_keys(settings: Settings) -> dict[str, PublicKey]:
    """Every public key by its id, oldest first; empty before the first head.

    Raises CheckFailed with code `key_history_broken` where a key is not what it says or lacks the signature of the
    key before it.
    """
    try:
        text = (keys_folder(settings) / _PUBLIC).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    known: dict[str, PublicKey] = {}
    try:
        for item in json.loads(text):
            key = PublicKey(**item)
            if key.key_id != _key_id(base64.b64decode(key.public, validate=True)) or not _is_vouched_for(key, known):
                raise _broken_history(f"key {key.key_id} is not vouched for by the one before")
            known[key.key_id] = key
    except (ValueError, TypeError, KeyError) as error:
        raise _broken_history("it cannot be read") from error
    return known


def read_public_keys(data: bytes) -> dict[str, PublicKey]:
    """The Ed25519 keys of a PEM file, which may hold several, by their ids.

    Raises InvalidInput with code `public_key_unreadable`. Who vouches for a key does not stand in such a file.
    """
    known = {}
    try:
        for block in _PEM.findall(data):
            key = serialization.load_pem_public_key(block)
            if not isinstance(key, Ed25519PublicKey):
                raise ValueError("no Ed25519 key")
            raw = key.public_bytes_raw()
            known[_key_id(raw)] = PublicKey(_key_id(raw), base64.b64encode(raw).decode(), "", None, None)
        if not known:
            raise ValueError("no key at all")
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInput(
            "public_key_unreadable",
            "This is no PEM file of Ed25519 public keys.",
            field="--key",
            hint="`stemma keys public` prints the studio's.",
        ) from error
    return known


def _is_vouched_for(key: PublicKey, known: dict[str, PublicKey]) -> bool:
    if key.previous is None:
        # The first key, or one that follows a lost key; verification names the latter.
        return key.endorsement is None
    before = known.get(key.previous)
    try:
        signature = base64.b64decode(key.endorsement or "", validate=True)
    except binascii.Error:
        return False
    return before is not None and before.verifies(signature, key.endorsed)


def _broken_history(what: str) -> CheckFailed:
    return CheckFailed(
        "key_history_broken",
        f"The history of the ledger's public keys was altered: {what}.",
        hint=f"Put STEMMA_HOME/keys/{_PUBLIC} back from a backup.",
    )


def signing_key(settings: Settings) -> SigningKey:
    """The key in use, made when there never was one.

    Raises Unavailable with code `signing_key_lost` where the history names keys and the private one is gone, unreadable
    or another; `disk_full` and the like where it cannot be written.
    """
    with locked_keys(settings) as folder:
        known = public_keys(settings)
        _finish_interrupted(folder, known)
        if not known and not (folder / _PRIVATE).exists():
            return _begin(folder, {}, previous=None)
        return _load(folder, known)


def rotate_signing_key(settings: Settings, *, lost: bool = False) -> PublicKey:
    """Sign with a new key from now on; the old one vouches for it and its heads stay verifiable.

    With `lost` the new key starts without the old one's word, which verification says from then on. Raises Unavailable
    with code `signing_key_lost` where the old key is gone and `lost` was not said.
    """
    with locked_keys(settings) as folder:
        known = public_keys(settings)
        _finish_interrupted(folder, known)
        previous = None if lost or not known else _load(folder, known)
        new = _begin(folder, known, previous=previous)
        return public_keys(settings)[new.key_id]


def _begin(folder: Path, known: dict[str, PublicKey], *, previous: SigningKey | None) -> SigningKey:
    private = Ed25519PrivateKey.generate()
    raw = private.public_key().public_bytes_raw()
    new = PublicKey(
        key_id=_key_id(raw),
        public=base64.b64encode(raw).decode(),
        created_at=format_time(datetime.now(UTC)),
        previous=previous.key_id if previous else None,
        endorsement=None,
    )
    if previous is not None:
        signature = base64.b64encode(previous.sign(new.endorsed)).decode()
        new = PublicKey(new.key_id, new.public, new.created_at, new.previous, signature)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    history = json.dumps([asdict(key) for key in (*known.values(), new)], indent=1)
    # The history decides: a crash before it leaves the old key, one after it is finished by the next call.
    write_key(folder / _NEXT, pem, 0o600)
    write_key(folder / _PUBLIC, history.encode(), 0o644)
    (folder / _NEXT).replace(folder / _PRIVATE)
    return SigningKey(new.key_id, private)


def _finish_interrupted(folder: Path, known: dict[str, PublicKey]) -> None:
    """Put a key into use whose making was interrupted after the history named it; forget it otherwise."""
    begun = folder / _NEXT
    if begun.exists():
        key = _read_private(begun)
        if key is not None and key.key_id in known:
            begun.replace(folder / _PRIVATE)
        else:
            begun.unlink()


def _load(folder: Path, known: dict[str, PublicKey]) -> SigningKey:
    if not (folder / _PRIVATE).exists():
        raise key_lost("is gone")
    key = _read_private(folder / _PRIVATE)
    if key is None:
        raise key_lost("cannot be read")
    if key.key_id not in known:
        raise key_lost(f"({key.key_id}) is not in the history of public keys")
    return key


def _read_private(path: Path) -> SigningKey | None:
    try:
        private = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        return None
    if not isinstance(private, Ed25519PrivateKey):
        return None
    return SigningKey(_key_id(private.public_key().public_bytes_raw()), private)


def key_lost(what: str) -> Unavailable:
    """The error that says so and how to go on."""
    return Unavailable(
        "signing_key_lost",
        f"The ledger's signing key {what}: entries are kept, but no head can be signed.",
        field=f"STEMMA_HOME/keys/{_PRIVATE}",
        hint="Put STEMMA_HOME/keys back from a backup, or begin anew with `stemma keys rotate-signing --lost`.",
    )


def _key_id(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]
