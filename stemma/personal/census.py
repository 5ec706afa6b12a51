"""What a verification says of sealed fields: how many there are, how many are erased, and whose key is missing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from uuid import UUID

from stemma.personal.erasure import CHAIN, SUBJECT_ERASED
from stemma.personal.fields import spelled_in_body
from stemma.personal.keys import Keyring
from stemma.personal.subjects import Subject
from stemma.store.database import Connection
from stemma.store.settings import Settings


@dataclass(frozen=True, slots=True)
class SealedUnder:
    """The fields that one key sealed: how many, and the entry with the first of them."""

    subject: Subject
    key_id: UUID
    fields: int
    chain: str
    seq: int


@dataclass(frozen=True, slots=True)
class Settled:
    """`erased`: erased as the ledger says; `kept`: the ledger says so, but the key is there; `missing`: the key is not
    there, and the ledger does not say why.
    """

    erased: list[SealedUnder]
    kept: list[SealedUnder]
    missing: list[SealedUnder]


class Census:
    """The sealed fields of the entries that pass by."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[bytes, bytes]] = Counter()
        self._first: dict[tuple[bytes, bytes], tuple[str, int]] = {}

    def read(self, chain: str, seq: int, body: bytes) -> None:
        """Take an entry's canonical body; one without `MARKER` has nothing that counts."""
        for spelled in spelled_in_body(body):
            self._counts[spelled] += 1
            self._first.setdefault(spelled, (chain, seq))

    @property
    def fields(self) -> int:
        """How many sealed fields there were."""
        return self._counts.total()

    def settled(self, connection: Connection, settings: Settings) -> Settled:
        """Compare with the erasures on the ledger, the rows of keys, and the key files."""
        query = "SELECT body FROM ledger WHERE chain = %s AND kind = %s"
        erased = set(_keys_named(body for (body,) in connection.execute(query, (CHAIN, SUBJECT_ERASED))))
        alive = {key_id for (key_id,) in connection.execute("SELECT key_id FROM subject_keys WHERE erased_at IS NULL")}
        keyring = Keyring.existing(settings)
        settled = Settled([], [], [])
        for found in self._found():
            there = keyring is not None and keyring.find(found.subject, found.key_id) is not None
            if found.key_id in erased:
                (settled.kept if there else settled.erased).append(found)
            elif not there or found.key_id not in alive:
                settled.missing.append(found)
        return settled

    def _found(self) -> Iterator[SealedUnder]:
        for (key_id, pseudonym), fields in self._counts.items():
            first = self._first[key_id, pseudonym]
            yield SealedUnder(Subject(pseudonym.decode()), UUID(key_id.decode()), fields, *first)


def _keys_named(bodies: Iterable[bytes]) -> Iterator[UUID]:
    for body in bodies:
        try:
            yield UUID(json.loads(body)["data"]["key"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            # Such a body is a finding of its own.
            continue
