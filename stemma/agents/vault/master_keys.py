"""The keys that seal the vault: those of `STEMMA_VAULT_KEY`, and files in `STEMMA_HOME/keys` where it names none.

A key is 32 random bytes and known by an id that says nothing of it; the row `vault_key` says which one seals. A file is
`vault-<id>.key` (mode 600), made with the first secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stemma.errors import InvalidInput, Unavailable
from stemma.store.files import storage_error
from stemma.store.keyfiles import keys_folder, locked_keys, write_key
from stemma.store.settings import Settings

_FILE: Final = re.compile(r"vault-([0-9a-f]{16})\.key")
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class MasterKeys:
    """Every key at hand, by its id."""

    def __init__(self, given: dict[str, bytes], kept: dict[str, bytes]) -> None:
        self._keys = {**kept, **given}
        self.preferred = next(iter(given), None)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Those that there are; raises InvalidInput for a `STEMMA_VAULT_KEY` that cannot be read."""
        given = settings.vault_key.get_secret_value().split(",") if settings.vault_key else []
        return cls({_id(key): key for key in map(_decoded, given)}, _kept(settings))

    def holds(self, key_id: str) -> bool:
        """Whether the key is at hand."""
        return key_id in self._keys

    def require(self, key_id: str) -> None:
        """Raises Unavailable with code `vault_key_lost` where it is not."""
        if not self.holds(key_id):
            raise Unavailable(
                "vault_key_lost",
                "The key that seals the vault is not there: no secret of an agent can be used or set.",
                field="STEMMA_VAULT_KEY",
                hint="Put it, or STEMMA_HOME/keys, back; else remove every secret of the vault and set it anew.",
            )

    def seal(self, key_id: str, place: str, value: str) -> bytes:
        """The value as it is kept at this place, where alone it opens; raises Unavailable (`vault_key_lost`)."""
        self.require(key_id)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(self._keys[key_id]).encrypt(nonce, value.encode(), _associated(place))

    def opened(self, key_id: str, place: str, kept: bytes) -> str:
        """The value; raises Unavailable: `vault_key_lost`, or `vault_damaged` where it was altered or moved."""
        self.require(key_id)
        try:
            opened = AESGCM(self._keys[key_id]).decrypt(kept[:_NONCE_BYTES], kept[_NONCE_BYTES:], _associated(place))
        except InvalidTag:
            what = f"The secret {place} was altered or moved, and cannot be opened."
            raise Unavailable("vault_damaged", what, hint="Set it anew.") from None
        return opened.decode()


def make_key(settings: Settings) -> str:
    """Write the file of a new key; gives its id."""
    key = secrets.token_bytes(_KEY_BYTES)
    with locked_keys(settings) as folder:
        write_key(folder / f"vault-{_id(key)}.key", key, 0o600)
    return _id(key)


def drop_other_keys(settings: Settings, key_id: str) -> None:
    """Remove the files of all keys but this one, which seals everything by now."""
    with locked_keys(settings) as folder:
        for path in folder.glob("vault-*.key"):
            if (found := _FILE.fullmatch(path.name)) and found[1] != key_id:
                path.unlink(missing_ok=True)


def _associated(place: str) -> bytes:
    return b"stemma vault\x00" + place.encode()


def _id(key: bytes) -> str:
    return hashlib.sha256(b"stemma vault key\x00" + key).hexdigest()[:16]


def _decoded(text: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise InvalidInput(
            "vault_key_invalid",
            "A key of the vault is 32 random bytes in URL-safe base64; several are separated by commas.",
            field="STEMMA_VAULT_KEY",
            hint="Make one: python -c 'import base64, os; print(base64.urlsafe_b64encode(os.urandom(32)).decode())'.",
        )
    return key


def _kept(settings: Settings) -> dict[str, bytes]:
    try:
        found = [path.read_bytes() for path in sorted(keys_folder(settings).glob("vault-*.key"))]
    except OSError as error:
        raise storage_error(error) from error
    return {_id(key): key for key in found if len(key) == _KEY_BYTES}
