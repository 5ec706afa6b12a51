"""What an entry is: its canonical body, its hash, and what may not be appended at all.

The body is the RFC 8785 form of `{actor, at, chain, data, id, kind, subject}`; it names its chain, so that an entry
that is moved elsewhere does not fit there. Where entries are stored is the writer's business.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import rfc8785

from stemma.errors import InvalidInput, TooLarge

MAX_BODY_BYTES = 256 * 1024
_MAX_TEXT = 500
_MAX_INTEGER = 2**53 - 1
_CHAIN = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}(:[a-z0-9][a-z0-9_.-]{0,62})?")
_KIND = re.compile(r"[a-z0-9][a-z0-9_.-]{0,126}")

_encoded = json.JSONEncoder(ensure_ascii=False, check_circular=False, sort_keys=True, separators=(",", ":")).encode
_quoted = json.encoder.encode_basestring


@dataclass(frozen=True, slots=True)
class NewEntry:
    """What is to be appended. `id` makes appending idempotent: the same id is stored once, however often it is sent."""

    chain: str
    kind: str
    actor: str
    subject: str
    data: Mapping[str, Any]
    id: UUID = field(default_factory=uuid4)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as stored: its place in its chain, the canonical bytes, and the columns that repeat them."""

    chain: str
    seq: int
    prev_hash: bytes
    body: bytes
    entry_hash: bytes
    id: UUID
    kind: str
    actor: str
    subject: str
    created_at: datetime

    @property
    def data(self) -> dict[str, Any]:
        """What the appender said, read from the canonical bytes."""
        data: dict[str, Any] = json.loads(self.body)["data"]
        return data


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry whose bytes are final and whose place is not: all that can be done outside the chain's lock."""

    entry: NewEntry
    at: datetime
    body: bytes

    def seal(self, seq: int, prev_hash: bytes) -> Entry:
        """The entry at this place of its chain."""
        new = self.entry
        hashed = entry_hash(prev_hash, seq, self.body)
        return Entry(new.chain, seq, prev_hash, self.body, hashed, new.id, new.kind, new.actor, new.subject, self.at)

    def repeats(self, stored: Entry) -> bool:
        """Whether this is the stored entry sent again: the same but for the time at which it was drafted."""
        return stored.body == _body(self.entry, stored.created_at)


def draft(entry: NewEntry) -> Draft:
    """Check an entry and make its canonical bytes, with the present time.

    Raises InvalidInput for names that are none and for data that RFC 8785 cannot express (NaN, integers beyond
    2^53 - 1, unpaired surrogates, other types than JSON's), TooLarge over 256 KiB.
    """
    if not _CHAIN.fullmatch(entry.chain):
        hint = "Write one or two names of lower-case letters, digits, `_`, `.` and `-`, joined by a colon."
        raise InvalidInput("chain_invalid", f"{entry.chain!r} is no name of a chain.", field="chain", hint=hint)
    if not _KIND.fullmatch(entry.kind):
        hint = "Write lower-case letters, digits, `_`, `.` and `-`."
        raise InvalidInput("kind_invalid", f"{entry.kind!r} is no kind of entry.", field="kind", hint=hint)
    for name, text in (("actor", entry.actor), ("subject", entry.subject)):
        if len(text) > _MAX_TEXT or not text.isprintable():
            what = f"It must have at most {_MAX_TEXT} characters, all of them printable."
            raise InvalidInput(f"{name}_invalid", what, field=name)
    at = datetime.now(UTC)
    body = _body(entry, at)
    if len(body) > MAX_BODY_BYTES:
        what = f"The entry has {len(body):,} bytes; at most {MAX_BODY_BYTES:,} can be kept."
        raise TooLarge("entry_too_large", what, field="data", hint="Store the content as a file and append its hash.")
    return Draft(entry, at, body)


def _body(entry: NewEntry, at: datetime) -> bytes:
    # Put together, in the order that RFC 8785 gives these keys: half the time of making a dictionary for the encoder.
    data = canonical(dict(entry.data))
    head = f'{{"actor":{_quoted(entry.actor)},"at":"{format_time(at)}","chain":{_quoted(entry.chain)},"data":'
    tail = f',"id":"{entry.id}","kind":{_quoted(entry.kind)},"subject":{_quoted(entry.subject)}}}'
    return head.encode() + data + tail.encode()


def canonical(document: Any) -> bytes:
    """The RFC 8785 bytes of a JSON value; raises InvalidInput for what it cannot express."""
    try:
        if _is_plain(document) or _is_plain(document := _with_integers(document)):
            return _encoded(document).encode()
        return rfc8785.dumps(document)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError, AttributeError, TypeError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidInput(
            "not_canonical",
            f"The value has no canonical JSON form: {reason}.",
            field="data",
            hint="Use JSON's own types, integers up to 2^53 - 1, and valid Unicode.",
        ) from error


def _is_plain(value: Any) -> bool:
    """Whether the standard library's encoder, which is written in C, writes this value as RFC 8785 asks.

    The two differ in the order of keys beyond ASCII, in integral, very large and very small doubles, and in what they
    refuse: subclasses that look like something else, integers beyond 2^53 - 1, NaN.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(-_MAX_INTEGER <= value <= _MAX_INTEGER)
    if kind is dict:
        for key, member in value.items():
            if type(key) is not str or not key.isascii() or not _is_plain(member):
                return False
        return True
    if kind is list or kind is tuple:
        for member in value:  # noqa: SIM110 - a generator would take a second frame for each level of nesting
            if not _is_plain(member):
                return False
        return True
    return kind is float and 1e-4 <= abs(value) < 1e16 and not value.is_integer()


def _with_integers(value: Any) -> Any:
    """The same with integers for integral doubles, which RFC 8785 writes alike; what it refuses stays as it is."""
    kind = type(value)
    if kind is float:
        return int(value) if value.is_integer() and abs(value) <= _MAX_INTEGER else value
    if kind is dict:
        return {key: _with_integers(member) for key, member in value.items()}
    if kind is list or kind is tuple:
        return [_with_integers(member) for member in value]
    return value


def recanonicalized(body: bytes) -> bytes | None:
    """The canonical form of a stored body, which it has to equal; None when it is no JSON or has no such form."""
    # Integral doubles up to 1e21 are written without a point, and integers beyond 2^53 - 1 are refused.
    for integers in (int, float):
        with contextlib.suppress(ValueError, RecursionError, InvalidInput):
            return canonical(json.loads(body, parse_int=integers))
    return None


def format_time(at: datetime) -> str:
    """A point in time as it stands in bodies and heads: UTC with microseconds."""
    # Every entry's time is in UTC already, and converting takes longer than writing it.
    utc = at if at.tzinfo is UTC else at.astimezone(UTC)
    return utc.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def genesis(chain: str) -> bytes:
    """The `prev_hash` of a chain's first entry: it binds every later hash to the chain's name."""
    return hashlib.sha256(b"stemma ledger chain\x00" + chain.encode()).digest()


def entry_hash(prev_hash: bytes, seq: int, body: bytes) -> bytes:
    """SHA-256(prev_hash ‖ seq in 8 bytes, big-endian ‖ canonical body)."""
    return hashlib.sha256(prev_hash + seq.to_bytes(8, "big") + body).digest()
