"""What a verification says of sealed fields: how many there are, how many are erased, and whose key is missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from uuid import UUID

from stemma.personal.erasure import CHAIN, SUBJECT_ERASED
from stemma.personal.fields import MARKER, in_body
from stemma.personal.keys import Keyring
from stemma.personal.subjects import Subject
from stemma.store.database import Connection
from stemma.store.settings import Settings


@dataclass(slots=True)
class SealedUnder:
    """The fields that one key sealed: the first of them, and how many."""

    subject: Subject
    key_id: UUID
    chain: str
    seq: int
    fields: int = 0


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
        self._found: dict[UUID, SealedUnder] = {}

    def read(self, chain: str, seq: int, body: bytes) -> None:
        """Take an entry's canonical body; one without a sealed field costs next to nothing."""
        if MARKER not in body:
            return
        for subject, key_id in in_body(body):
            self._found.setdefault(key_id, SealedUnder(subject, key_id, chain, seq)).fields += 1

    @property
    def fields(self) -> int:
        """How many sealed fields there were."""
        return sum(found.fields for found in self._found.values())

    def settled(self, connection: Connection, settings: Settings) -> Settled:
        """Compare with the erasures on the ledger, the rows of keys, and the key files."""
        query = "SELECT body FROM ledger WHERE chain = %s AND kind = %s"
        erased = set(_keys_named(body for (body,) in connection.execute(query, (CHAIN, SUBJECT_ERASED))))
        alive = {key_id for (key_id,) in connection.execute("SELECT key_id FROM subject_keys WHERE erased_at IS NULL")}
        keyring = Keyring.existing(settings)
        settled = Settled([], [], [])
        for found in self._found.values():
            there = keyring is not None and keyring.find(found.subject, found.key_id) is not None
            if found.key_id in erased:
                (settled.kept if there else settled.erased).append(found)
            elif not there or found.key_id not in alive:
                settled.missing.append(found)
        return settled


def _keys_named(bodies: Iterable[bytes]) -> Iterator[UUID]:
    for body in bodies:
        try:
            yield UUID(json.loads(body)["data"]["key"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            # Such a body is a finding of its own.
            continue
