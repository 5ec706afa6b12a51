"""Requests that servers sign instead of sending their key: RFC 9421 with hmac-sha256, bodies by RFC 9530.

A signature covers what is asked for (`@method`, with `@target-uri` or `@path` and `@query`) and, where there is a body,
`content-digest`; it names `created`, `nonce` and `keyid`, which is the key's id. It is taken once, within 300 seconds
of its creation: nonces are rows, so that a replay is refused by every process and after a restart.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import http_sf
from http_message_signatures import HTTPMessageSignaturesException, HTTPMessageVerifier, MappingKeyResolver
from http_message_signatures.algorithms import HMAC_SHA256

from stemma.access.authentication import KnownKey, find_key, key_unknown, note_use
from stemma.access.principal import Principal
from stemma.access.tokens import pepper_in_use, signing_secret
from stemma.errors import Unauthenticated
from stemma.store.database import Database
from stemma.store.settings import Settings

WINDOW: Final = timedelta(seconds=300)
_LONGEST_FIELD = 4096
_LONGEST_NONCE = 128
_DIGESTS = ("sha-256", "sha-512")
_TARGETS = ({'"@target-uri"'}, {'"@path"', '"@query"'})

# Whoever adds one removes what is too old to be taken again anyway: nobody else has to tidy the table.
_USE_NONCE = """
    WITH outdated AS (
        SELECT key_id, nonce FROM signature_nonces WHERE expires_at < now() LIMIT 10 FOR UPDATE SKIP LOCKED
    ), removed AS (
        DELETE FROM signature_nonces USING outdated
        WHERE (signature_nonces.key_id, signature_nonces.nonce) = (outdated.key_id, outdated.nonce)
    )
    INSERT INTO signature_nonces (key_id, nonce, expires_at) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What signatures are made over: the URL as it was sent, absolute, and the header fields, whose `items()` gives
    every line.
    """

    method: str
    url: str
    headers: Mapping[str, str]

    @property
    def has_body(self) -> bool:
        """Whether it announces one."""
        return "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"


class BodyDigest:
    """The body of a signed request as it comes in, against the digests that the signature covers."""

    def __init__(self, expected: Mapping[str, bytes]) -> None:
        self._expected = expected
        self._hashes = [(hashlib.new(name.replace("-", "")), digest) for name, digest in expected.items()]
        self._size = 0

    def update(self, block: bytes) -> None:
        """Take the next part of the body."""
        self._size += len(block)
        for digest, _ in self._hashes:
            digest.update(block)

    def check(self) -> None:
        """Raises Unauthenticated with code `digest_mismatch` unless the whole body was what was signed."""
        covered = self._expected or self._size == 0
        if not covered or not all(hmac.compare_digest(made.digest(), expected) for made, expected in self._hashes):
            what = "The body is not the one that was signed."
            raise Unauthenticated("digest_mismatch", what, field="Content-Digest", hint="Sign the bytes that you send.")


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a signature says of itself, before it is believed."""

    keyid: str
    nonce: str
    created: int


def authenticate_signed(database: Database, settings: Settings, request: SignedRequest) -> tuple[Principal, BodyDigest]:
    """The principal of a signed request, and what its body has to be; the signature is used up.

    Raises Unauthenticated with code `signature_malformed`, `signature_incomplete`, `clock_skew`, `key_unknown`,
    `signature_invalid`, `key_revoked`, `key_expired` or `signature_replayed`; Unavailable with code `pepper_lost`.
    """
    claim = _claim(request)
    now = datetime.now(UTC)
    _require_timely(claim, now)
    key = find_key(database, _key_id(claim.keyid))
    covered = _verified(request, claim, signing_secret(pepper_in_use(settings), key.id, key.secret_hmac))
    digests = _required_coverage(request, covered)
    key.require_in_force(now)
    _use_nonce(database, key, claim)
    note_use(database, key, now)
    return key.principal, BodyDigest(digests)


def _claim(request: SignedRequest) -> _Claim:
    inputs = _dictionary(request, "signature-input")
    if len(inputs) != 1:
        raise _malformed("Signature-Input", "has to hold one signature")
    ((components, parameters),) = inputs.values()
    if not isinstance(components, list):
        raise _malformed("Signature-Input", "has to list what is covered")
    keyid, nonce, created = (parameters.get(name) for name in ("keyid", "nonce", "created"))
    if not isinstance(keyid, str) or not isinstance(nonce, str) or type(created) is not int:
        raise _incomplete("names no keyid, nonce and created")
    if not 0 < len(nonce) <= _LONGEST_NONCE:
        raise _malformed("Signature-Input", f"needs a nonce of 1 to {_LONGEST_NONCE} characters")
    return _Claim(keyid, nonce, created)


def _dictionary(request: SignedRequest, field: str) -> dict[str, Any]:
    text = request.headers.get(field, "")
    if len(text) > _LONGEST_FIELD:
        raise _malformed(field.title(), f"has more than {_LONGEST_FIELD} characters")
    try:
        parsed = http_sf.parse(text.encode(), tltype="dictionary")
    except ValueError as error:
        raise _malformed(field.title(), "is no dictionary of RFC 9651") from error
    assert isinstance(parsed, dict)
    return parsed


def _require_timely(claim: _Claim, now: datetime) -> None:
    age = now.timestamp() - claim.created
    if abs(age) > WINDOW.total_seconds():
        when = f"{age:,.0f} seconds ago" if age > 0 else f"{-age:,.0f} seconds from now"
        raise Unauthenticated(
            "clock_skew",
            f"The signature was made {when} by this clock, which shows {now.isoformat(timespec='seconds')}.",
            field="Signature-Input",
            hint=f"Set the clock, and sign each request within {WINDOW.total_seconds():.0f} seconds of sending it.",
        )


def _key_id(keyid: str) -> UUID:
    try:
        return UUID(keyid)
    except ValueError as error:
        raise key_unknown() from error


class _Verifier(HTTPMessageVerifier):
    max_clock_skew = WINDOW


def _verified(request: SignedRequest, claim: _Claim, secret: bytes) -> dict[str, str]:
    """What the signature covers, after it was verified."""
    resolver = MappingKeyResolver(public_keys={claim.keyid: secret}, private_keys={})
    verifier = _Verifier(signature_algorithm=HMAC_SHA256, key_resolver=resolver)
    try:
        (result,) = verifier.verify(request, max_age=None)
    except HTTPMessageSignaturesException as error:
        why = str(error)[:200] or "it was made over another request or with another secret"
        raise Unauthenticated(
            "signature_invalid",
            f"The signature does not hold: {why}.",
            field="Signature",
            hint="Sign with the signing secret of the key that keyid names, by hmac-sha256.",
        ) from error
    return result.covered_components


def _required_coverage(request: SignedRequest, covered: Mapping[str, str]) -> dict[str, bytes]:
    """The digests of the body; raises Unauthenticated where the signature leaves open what it has to cover."""
    if '"@method"' not in covered or not any(target <= covered.keys() for target in _TARGETS):
        raise _incomplete("has to cover @method, and @target-uri or @path and @query")
    if "content-digest" not in request.headers and not request.has_body:
        return {}
    if '"content-digest"' not in covered:
        raise _incomplete("has to cover content-digest, because the request has a body")
    digests = {
        name: member[0]
        for name, member in _dictionary(request, "content-digest").items()
        if name in _DIGESTS and isinstance(member[0], bytes)
    }
    if not digests:
        raise _malformed("Content-Digest", f"has none of {', '.join(_DIGESTS)}")
    return digests


def _use_nonce(database: Database, key: KnownKey, claim: _Claim) -> None:
    until = datetime.fromtimestamp(claim.created, UTC) + 2 * WINDOW
    with database.transaction() as connection:
        used = connection.execute(_USE_NONCE, (key.id, claim.nonce, until)).rowcount
    if used != 1:
        what = "A request with this nonce was taken already."
        raise Unauthenticated("signature_replayed", what, field="Signature-Input", hint="Sign each request anew.")


def _malformed(field: str, what: str) -> Unauthenticated:
    return Unauthenticated("signature_malformed", f"{field} {what}.", field=field, hint="See RFC 9421.")


def _incomplete(what: str) -> Unauthenticated:
    hint = "docs/SECURITY.md says what a signature covers."
    return Unauthenticated("signature_incomplete", f"The signature {what}.", field="Signature-Input", hint=hint)
