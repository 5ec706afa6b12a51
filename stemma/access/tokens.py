"""What the holder of a key, session or link has and what is kept of it: its text, its HMAC, and the pepper.

A key reads `stm_<id, 32 hexadecimal digits>_<secret, 43 characters>`. Of the secret only the HMAC-SHA-256 is kept,
under a random pepper in `STEMMA_HOME/keys/api-keys.pepper` (mode 600): the database alone proves nothing and yields
nothing. The secret that signs requests is derived from both and kept nowhere. The cookie of a session (`sts_`) and a
sign-in link (`stl_`) have the same form and are kept in the same way.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from typing import Literal
from uuid import UUID

from stemma.errors import Unauthenticated, Unavailable
from stemma.store.files import storage_error
from stemma.store.keyfiles import keys_folder, locked_keys, write_key
from stemma.store.settings import Settings

_PEPPER = "api-keys.pepper"
_PEPPER_BYTES = 32
_SECRET_BYTES = 32
_FORM = re.compile(r"(stm|sts|stl)_([0-9a-f]{32})_([A-Za-z0-9_-]{43})")

Kind = Literal["stm", "sts", "stl"]


def new_secret() -> str:
    """A random secret of 256 bits, as text."""
    return secrets.token_urlsafe(_SECRET_BYTES)


def key_text(key_id: UUID, secret: str) -> str:
    """The key as its holder writes it."""
    return token_text("stm", key_id, secret)


def parse_key(text: str) -> tuple[UUID, str]:
    """The id and the secret of a key; raises Unauthenticated with code `key_malformed` for what is none."""
    found = parse_token("stm", text)
    if found is None:
        what = "This is no API key: it reads stm_, 32 hexadecimal digits, an underscore and 43 characters."
        raise Unauthenticated("key_malformed", what, hint="Send the key exactly as `stemma keys create` showed it.")
    return found


def token_text(kind: Kind, token_id: UUID, secret: str) -> str:
    """A key, session or link as its holder has it."""
    return f"{kind}_{token_id.hex}_{secret}"


def parse_token(kind: Kind, text: str) -> tuple[UUID, str] | None:
    """The id and the secret of what is of this kind; None for anything else."""
    found = _FORM.fullmatch(text)
    return (UUID(hex=found[2]), found[3]) if found is not None and found[1] == kind else None


def token_hmac(pepper: bytes, kind: Kind, token_id: UUID, secret: str) -> bytes:
    """What is kept of the secret of a session or link: HMAC-SHA-256, 32 bytes."""
    return hmac.digest(pepper, f"stemma token {kind}\x00".encode() + token_id.bytes + secret.encode(), "sha256")


def csrf_token(pepper: bytes, session_id: UUID, secret: str) -> str:
    """The token that pages of a session send with what they change; it is derived anew each time and kept nowhere."""
    made = hmac.digest(pepper, b"stemma csrf\x00" + session_id.bytes + secret.encode(), "sha256")
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode()


def secret_hmac(pepper: bytes, key_id: UUID, secret: str) -> bytes:
    """What is kept of a secret: HMAC-SHA-256, 32 bytes."""
    return hmac.digest(pepper, b"stemma api key\x00" + key_id.bytes + secret.encode(), "sha256")


def signing_secret(pepper: bytes, key_id: UUID, kept: bytes) -> bytes:
    """The secret that signs this key's requests, 32 bytes; it changes when the key is rotated."""
    return hmac.digest(pepper, b"stemma request signatures\x00" + key_id.bytes + kept, "sha256")


def as_text(secret: bytes) -> str:
    """A signing secret as its holder keeps it: base64."""
    return base64.b64encode(secret).decode()


def read_pepper(settings: Settings) -> bytes | None:
    """The pepper, or None where there is none; it is read anew each time, so that a restored one counts at once."""
    try:
        pepper = (keys_folder(settings) / _PEPPER).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(error) from error
    if len(pepper) != _PEPPER_BYTES:
        raise pepper_lost("is damaged")
    return pepper


def pepper_in_use(settings: Settings) -> bytes:
    """The pepper, which has to be there once there are keys; raises Unavailable with code `pepper_lost`."""
    pepper = read_pepper(settings)
    if pepper is None:
        raise pepper_lost("is gone")
    return pepper


def make_pepper(settings: Settings) -> bytes:
    """The pepper, made where there is none."""
    with locked_keys(settings) as folder:
        there = read_pepper(settings)
        if there is None:
            there = secrets.token_bytes(_PEPPER_BYTES)
            write_key(folder / _PEPPER, there, 0o600)
        return there


def pepper_lost(what: str) -> Unavailable:
    """The error that says so and how to go on."""
    return Unavailable(
        "pepper_lost",
        f"The file that API keys are checked with {what}: no key can be recognised.",
        field=f"STEMMA_HOME/keys/{_PEPPER}",
        hint="Put STEMMA_HOME/keys back from a backup, or run `stemma keys revoke --all` and make new ones.",
    )
