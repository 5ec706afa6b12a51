"""Keeping the secrets of webhook sources: sealed in the database under a key in `STEMMA_HOME/keys`.

A signature is checked with the secret itself, so that no hash of it would do. The key is 32 random bytes in
`webhook-sources.key` (mode 600), made with the first source; a copy of the database alone signs nothing.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stemma.errors import Unavailable
from stemma.store.database import Connection
from stemma.store.files import storage_error
from stemma.store.keyfiles import keys_folder, locked_keys, write_key
from stemma.store.settings import Settings

_FILE: Final = "webhook-sources.key"
_KEY_BYTES = 32
_NONCE_BYTES = 12


class Sealing:
    """Seals and opens what belongs to a source, by its name."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def open(cls, settings: Settings) -> Sealing:
        """The sealing in use; raises Unavailable with code `webhook_key_lost`."""
        key = _read(settings)
        if key is None:
            raise _lost("is gone")
        return cls(key)

    @classmethod
    def ensure(cls, connection: Connection, settings: Settings) -> Sealing:
        """The same, with a key made where there never was one; where sources lean on a lost one, it raises."""
        if _read(settings) is None and connection.execute("SELECT FROM webhook_sources LIMIT 1").fetchone() is None:
            with locked_keys(settings) as folder:
                if _read(settings) is None:
                    write_key(folder / _FILE, secrets.token_bytes(_KEY_BYTES), 0o600)
        return cls.open(settings)

    def seal(self, name: str, secret: bytes) -> bytes:
        """The secret as it is kept for the source of this name."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(self._key).encrypt(nonce, secret, _associated(name))

    def opened(self, name: str, kept: bytes) -> bytes:
        """The secret; raises Unavailable with code `webhook_key_lost` where the key is not the one that sealed it."""
        try:
            return AESGCM(self._key).decrypt(kept[:_NONCE_BYTES], kept[_NONCE_BYTES:], _associated(name))
        except InvalidTag:
            raise _lost("is another one") from None

    def digest(self, name: str, body: bytes) -> bytes:
        """An HMAC by which a body is known again: a plain digest of a short one could be guessed."""
        return hmac.digest(self._key, b"stemma webhook body\x00" + _associated(name) + b"\x00" + body, "sha256")


def _associated(name: str) -> bytes:
    return b"stemma webhook source\x00" + name.encode()


def _read(settings: Settings) -> bytes | None:
    try:
        key = (keys_folder(settings) / _FILE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(error) from error
    if len(key) != _KEY_BYTES:
        raise _lost("is damaged")
    return key


def _lost(what: str) -> Unavailable:
    return Unavailable(
        "webhook_key_lost",
        f"The key that seals the secrets of webhook sources {what}: no webhook can be verified.",
        field=f"STEMMA_HOME/keys/{_FILE}",
        hint="Put STEMMA_HOME/keys back from a backup, or remove every source and add them anew.",
    )
