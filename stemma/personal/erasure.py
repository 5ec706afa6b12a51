"""Erasing a subject: its key is destroyed, and the ledger says so.

First the register, then the key, then the ledger: whatever dies in between, the ledger never says "erased" of a key
that is still there, and no restored backup forgets an erasure. Erasing again finishes what was interrupted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from stemma.access.principal import Principal
from stemma.errors import NotFound
from stemma.ledger.change import Change
from stemma.ledger.entries import Entry, NewEntry
from stemma.ledger.journal import audited
from stemma.ledger.writer import LedgerWriter, Statement
from stemma.personal import register
from stemma.personal.fields import spelled_in_body
from stemma.personal.keys import Keyring, destroy
from stemma.personal.subjects import Subject
from stemma.store.database import Connection, connect
from stemma.store.settings import Settings

CHAIN: Final = "personal"
SUBJECT_ERASED: Final = "subject.erased"
_REPEATED = "subject.erase_repeated"


@dataclass(frozen=True, slots=True)
class SealedOn:
    """How many fields of a subject are sealed in the entries of one chain."""

    chain: str
    fields: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What erasing a subject will do. Without `key` they were erased before, at `erased_at`."""

    subject: Subject
    key: UUID | None
    erased_at: datetime | None
    sealed: tuple[SealedOn, ...]


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was erased: the fields that nobody can open any more, and since when. `again`: they were erased before."""

    subject: str
    erased_at: datetime
    sealed: tuple[SealedOn, ...]
    again: bool


def plan(connection: Connection, settings: Settings, name: str) -> Plan:
    """What erasing this subject will do; changes nothing.

    Raises NotFound with code `subject_unknown` where nothing was ever sealed for them, InvalidInput for what is no
    name, Unavailable with code `personal_root_lost`. No error repeats the name.
    """
    subject = Keyring.open(connection, settings).subject(name)
    rows = connection.execute(
        "SELECT key_id, erased_at FROM subject_keys WHERE pseudonym = %s ORDER BY erased_at NULLS LAST",
        (subject.pseudonym,),
    ).fetchall()
    if not rows:
        raise NotFound(
            "subject_unknown",
            "Nothing was ever sealed for this subject.",
            field="subject",
            hint="Name them exactly as the entries did; capitals and spaces do not matter.",
        )
    key_id, erased_at = rows[-1]
    if erased_at is not None:
        return Plan(subject, None, erased_at, ())
    return Plan(subject, key_id, None, _sealed_under(connection, key_id))


def _sealed_under(connection: Connection, key_id: UUID) -> tuple[SealedOn, ...]:
    spelled = str(key_id).encode()
    count: Counter[str] = Counter()
    with connection.cursor(name="sealed_entries", binary=True) as cursor:
        cursor.execute("SELECT chain, body FROM ledger WHERE position(%s::bytea IN body) > 0", (b'"key":"' + spelled,))
        for chain, body in cursor:
            count[chain] += sum(used == spelled for used, _ in spelled_in_body(body))
    return tuple(SealedOn(chain, fields) for chain, fields in sorted(count.items()) if fields)


def destroy_key(connection: Connection, settings: Settings, planned: Plan) -> None:
    """Register the erasure and destroy the key; no one can undo it. Append `erase` after it.

    For a subject that was erased before, a key file that came back is destroyed. Raises Unavailable where the second
    store or the folder of keys refuses; then erase again.
    """
    if planned.key is not None:
        register.add(settings, planned.subject, planned.key)
        destroy(settings, planned.subject, planned.key)
        return
    query = "SELECT key_id FROM subject_keys WHERE pseudonym = %s AND erased_at IS NOT NULL"
    for (key_id,) in connection.execute(query, (planned.subject.pseudonym,)).fetchall():
        destroy(settings, planned.subject, key_id)


def erase(principal: Principal, planned: Plan) -> Change[Erasure]:
    """The change that says it: the key's row, the entry on the chain `personal`, the audit row.

    To be written after `destroy_key`. A subject that was erased before gives an audit row alone. Conflicts where
    another process erased them meanwhile.
    """
    subject, key_id = planned.subject, planned.key
    if key_id is None:
        assert planned.erased_at is not None
        before = Erasure(subject.pseudonym, planned.erased_at, (), again=True)
        return Change(audited(principal, _REPEATED, resource=subject.reference, meta={}), (), lambda _: before)

    def done(entries: tuple[Entry, ...]) -> Erasure:
        return Erasure(subject.pseudonym, entries[0].created_at, planned.sealed, again=False)

    return Change(*_erased(principal, subject, key_id), done)


def _erased(principal: Principal, subject: Subject, key_id: UUID) -> tuple[tuple[NewEntry, ...], tuple[Statement, ...]]:
    said = {"key": str(key_id), "subject": subject.pseudonym}
    entries = (
        NewEntry(CHAIN, SUBJECT_ERASED, principal.actor, subject.reference, said),
        *audited(principal, SUBJECT_ERASED, resource=subject.reference, meta={"key": str(key_id)}, critical=True),
    )
    mark = Statement(
        "UPDATE subject_keys SET erased_at = %(at)s WHERE key_id = %(key)s AND erased_at IS NULL",
        lambda stored: {"at": stored[0].created_at, "key": key_id},
        rows=1,
    )
    return entries, (mark,)


def reapply(url: str, settings: Settings, erased: Mapping[UUID, Subject], principal: Principal) -> int:
    """Erase again, in a database and a home that were restored, what the register says; returns how many lived.

    Neither need be in its place yet: `url` is of a role that may write the database. Raises Unavailable.
    """
    for key_id, subject in erased.items():
        destroy(settings, subject, key_id)
    with connect(url) as connection:
        if connection.execute("SELECT to_regclass('public.subject_keys')").fetchone() == (None,):
            return 0
        query = "SELECT key_id FROM subject_keys WHERE key_id = ANY(%s) AND erased_at IS NULL"
        living = [key_id for (key_id,) in connection.execute(query, (list(erased),))]
    with LedgerWriter(url) as writer:
        for key_id in living:
            writer.append(*_erased(principal, erased[key_id], key_id)).result()
    return len(living)
