"""Signed URLs: whoever has one may read one stored file until it expires, without a key.

    /files/<key>?v=1&expires=<Unix time>[&name=<name to save it under>]&sig=<43 characters>

`sig` is HMAC-SHA-256, base64url, under `STEMMA_HOME/keys/signed-urls.key` over version, method, path, expiry and name.
Without that file no URL holds; deleting it ends them all. How a file is served is the business of the API.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote, urlencode

from stemma.errors import Forbidden, InvalidInput
from stemma.store.files import check_key, storage_error
from stemma.store.keyfiles import keys_folder, locked_keys, write_key
from stemma.store.settings import Settings

PREFIX: Final = "/files/"
LONGEST: Final = timedelta(days=7)
LONGEST_NAME: Final = 200

_VERSION = "1"
_KEY_FILE = "signed-urls.key"
_KEY_BYTES = 32
_EXPIRES = re.compile(r"[1-9][0-9]{0,11}")


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """A path with its query, to be put behind the address of the API."""

    url: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Permit:
    """What a signed URL lets its holder read, and the name to save it under where it names one."""

    key: str
    name: str | None


def sign(settings: Settings, key: str, expires_in: timedelta, *, name: str | None = None) -> SignedUrl:
    """A URL by which the file of this key can be read for so long, whether it is there or not.

    Raises InvalidInput for a bad key, a name that is none, or a time that is not within 1 second and 7 days.
    """
    check_key(key)
    if name is not None and (not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or set(name) & set('/\\"')):
        what = f"A name to save under has 1 to {LONGEST_NAME} printable characters without slashes and quotes."
        raise InvalidInput("name_invalid", what, field="name")
    if not timedelta(seconds=1) <= expires_in <= LONGEST:
        what = f"A signed URL holds for 1 second to {LONGEST.days} days."
        raise InvalidInput("expiry_invalid", what, field="expires_in")
    expires_at = datetime.fromtimestamp(int((datetime.now(UTC) + expires_in).timestamp()), UTC)
    expires = str(int(expires_at.timestamp()))
    asked = {"v": _VERSION, "expires": expires} | ({} if name is None else {"name": name})
    asked["sig"] = _signature(_make_key(settings), "GET", PREFIX + key, expires, name)
    return SignedUrl(f"{quote(PREFIX + key)}?{urlencode(asked, quote_via=quote)}", expires_at)


def verify(settings: Settings, method: str, path: str, query: Sequence[tuple[str, str]]) -> Permit:
    """What this request, decoded, may read.

    Raises Forbidden with code `url_signature_invalid` for anything that was not signed exactly so, `url_expired`.
    """
    given = dict(query)
    expires, name, sig = given.get("expires", ""), given.get("name"), given.get("sig", "")
    known = len(given) == len(query) and given.keys() <= {"v", "expires", "name", "sig"}
    secret = _read_key(settings)
    if not known or given.get("v") != _VERSION or secret is None or _EXPIRES.fullmatch(expires) is None:
        raise _invalid()
    made = _signature(secret, method, path, expires, name)
    if not path.startswith(PREFIX) or not hmac.compare_digest(made.encode(), sig.encode(errors="replace")):
        raise _invalid()
    if int(expires) <= datetime.now(UTC).timestamp():
        when = datetime.fromtimestamp(int(expires), UTC).isoformat(timespec="seconds")
        raise Forbidden("url_expired", f"This URL expired at {when}.", field="expires", hint="Ask for a new one.")
    return Permit(path.removeprefix(PREFIX), name)


def _invalid() -> Forbidden:
    what = "The signature of this URL does not hold."
    return Forbidden(
        "url_signature_invalid", what, field="sig", hint="Use the URL exactly as it was given, or ask anew."
    )


def _signature(secret: bytes, method: str, path: str, expires: str, name: str | None) -> str:
    covered = json.dumps(["stemma signed url", _VERSION, method, path, expires, name])
    return base64.urlsafe_b64encode(hmac.digest(secret, covered.encode(), "sha256")).rstrip(b"=").decode()


def _read_key(settings: Settings) -> bytes | None:
    try:
        secret = (keys_folder(settings) / _KEY_FILE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(error) from error
    return secret if len(secret) == _KEY_BYTES else None


def _make_key(settings: Settings) -> bytes:
    with locked_keys(settings) as folder:
        there = _read_key(settings)
        if there is None:
            there = secrets.token_bytes(_KEY_BYTES)
            write_key(folder / _KEY_FILE, there, 0o600)
        return there
