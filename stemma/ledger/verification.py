"""Verification: reading everything once and naming what does not fit.

Three witnesses are compared: the stored bytes with the hashes over them, each entry with the one before it, and the
chains with every signed head. Nothing is repaired here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Literal

from stemma.errors import CheckFailed, Unavailable
from stemma.ledger import receipt_catalog, receipts
from stemma.ledger.entries import entry_hash, format_time, genesis, recanonicalized
from stemma.ledger.heads import HeadStore, SignedHead, read_head_file, resumable
from stemma.ledger.keys import PublicKey, heads_begun, public_keys
from stemma.ledger.merkle import Frontier
from stemma.personal.census import Census
from stemma.personal.fields import MARKER
from stemma.store.database import Connection, Database
from stemma.store.settings import Settings

MAX_FINDINGS = 1000
_EXAMINED_AGAIN = 64
_FETCHED = 1000

Code = Literal[
    "body_edited",
    "hash_edited",
    "prev_hash_edited",
    "link_broken",
    "entry_moved",
    "entry_missing",
    "seq_duplicate",
    "column_edited",
    "receipt_moved",
    "receipt_missing",
    "body_unreadable",
    "not_canonical",
    "tail_missing",
    "chain_missing",
    "chain_rewritten",
    "head_forged",
    "head_unreadable",
    "heads_missing",
    "key_history_broken",
    "key_not_endorsed",
    "personal_key_missing",
    "erased_key_kept",
    "event_edited",
    "events_changed",
    "event_unrecorded",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not fit, in one sentence; `seq` is the entry's, or the first of several."""

    code: Code
    message: str
    chain: str | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class ChainReport:
    """One chain: how many entries were read and how many of them a believed head covers."""

    chain: str
    entries: int
    signed: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification read and found; `omitted` counts findings beyond the first 1,000.

    `sealed` counts the personal fields in the entries, `erased` those of them whose subject was erased.
    """

    clean: bool
    entries: int
    heads: int
    newest_head_at: datetime | None
    chains: tuple[ChainReport, ...]
    findings: tuple[Finding, ...]
    omitted: int
    sealed: int
    erased: int
    deep: bool
    seconds: float


@dataclass(slots=True)
class _Findings:
    kept: list[Finding] = field(default_factory=list)
    omitted: int = 0

    def add(self, code: Code, message: str, chain: str | None = None, seq: int | None = None) -> None:
        if len(self.kept) < MAX_FINDINGS:
            self.kept.append(Finding(code, message, chain, seq))
        else:
            self.omitted += 1


@dataclass(frozen=True, slots=True)
class _Witness:
    """What one believed head says of one chain."""

    size: int
    root: bytes
    at: datetime


@dataclass(frozen=True, slots=True)
class _Suspect:
    """An entry whose stored hash is not that of its bytes; `computed` is."""

    seq: int
    prev_hash: bytes
    body: bytes
    entry_hash: bytes
    computed: bytes


def verify(
    database: Database,
    settings: Settings,
    *,
    chain: str | None = None,
    head_file: Path | None = None,
    deep: bool = False,
    within: float | None = None,
) -> Report:
    """Compare the stored entries with their hashes, with each other and with every head of the second store.

    `chain` reads that chain alone; `head_file` is a head that someone kept and adds its word; `deep` also makes each
    canonical form anew; it is given up `within` these seconds, where that is set. Raises what keeps it from looking at
    all: Unavailable, also with code `verification_too_long`, NotFound, InvalidInput for `head_file`.
    """
    started = time.perf_counter()
    until = None if within is None else started + within
    findings = _Findings()
    # Heads before rows: a head that is signed meanwhile would cover entries that the snapshot does not see.
    heads = _believed_heads(settings, head_file, findings)
    witnesses = _witnesses(heads, chain)
    census = Census()
    with database.snapshot() as connection:
        chains = list(_chains(connection, chain, witnesses, findings, census, deep=deep, until=until))
        erased = _settled(census, connection, settings, findings)
        if chain in (None, receipts.CHAIN):
            for found in receipt_catalog.misplaced(connection):
                findings.add("receipt_moved", found.message, receipts.CHAIN, found.seq)
    for name in sorted(witnesses.keys() - {report.chain for report in chains}):
        last = max(witnesses[name], key=lambda witness: witness.size)
        when = format_time(last.at)
        findings.add("chain_missing", f"All {last.size:,} entries that the head of {when} covers are gone.", name)
    return Report(
        clean=not findings.kept,
        entries=sum(report.entries for report in chains),
        heads=len(heads),
        newest_head_at=max((signed.head.time for signed in heads), default=None),
        chains=tuple(chains),
        findings=tuple(findings.kept),
        omitted=findings.omitted,
        sealed=census.fields,
        erased=erased,
        deep=deep,
        seconds=time.perf_counter() - started,
    )


# Heads


def _believed_heads(settings: Settings, head_file: Path | None, findings: _Findings) -> list[SignedHead]:
    """Every head that a known key signed, oldest first."""
    try:
        keys = public_keys(settings)
    except CheckFailed as error:
        findings.add("key_history_broken", error.message)
        keys = {}
    for number, key in enumerate(keys.values()):
        if number and key.previous is None:
            findings.add("key_not_endorsed", f"Key {key.key_id} began at {key.created_at} without the old key's word.")
    found: list[SignedHead] = []
    for name, signed in HeadStore(settings).read_all():
        if not isinstance(signed, SignedHead):
            findings.add("head_unreadable", f"The head {name} cannot be read.")
        elif _is_sound(name, signed, keys, findings):
            if signed.key != name:
                findings.add("head_forged", f"The head {name} was signed as {signed.key}.")
            found.append(signed)
    if keys and not found and heads_begun(settings):
        findings.add("heads_missing", "The store of heads holds none that was signed by this ledger's keys.")
    if head_file is not None:
        kept = read_head_file(head_file)
        if _is_sound(str(head_file), kept, keys, findings):
            found.append(kept)
    return sorted(found, key=lambda signed: signed.head.time)


def _is_sound(name: str, signed: SignedHead, keys: dict[str, PublicKey], findings: _Findings) -> bool:
    if not signed.is_by(keys):
        why = "its signature does not fit" if signed.head.key_id in keys else "nobody here knows its key"
        findings.add("head_forged", f"The head {name} is forged: {why}.")
        return False
    try:
        resumable(signed)
    except CheckFailed as error:
        findings.add("head_forged", error.message)
    return True


def _witnesses(heads: list[SignedHead], only: str | None) -> dict[str, list[_Witness]]:
    found: dict[str, list[_Witness]] = {}
    for signed in heads:
        for tree in signed.head.chains:
            if only in (None, tree.chain):
                found.setdefault(tree.chain, []).append(_Witness(tree.size, tree.root, signed.head.time))
    return found


# Personal data


def _settled(census: Census, connection: Connection, settings: Settings, findings: _Findings) -> int:
    """Name what does not fit between sealed fields, keys and erasures; returns how many fields are erased."""
    settled = census.settled(connection, settings)
    for found in settled.missing:
        who, count = found.subject.reference, f"{found.fields:,} sealed fields"
        what = f"The key of {who} is missing and the ledger has no erasure: {count} cannot be opened."
        findings.add("personal_key_missing", what, found.chain, found.seq)
    for found in settled.kept:
        who, count = found.subject.reference, f"{found.fields:,} sealed fields"
        what = f"The ledger says that {who} was erased, but the key is there: {count} can be opened."
        findings.add("erased_key_kept", what, found.chain, found.seq)
    return sum(found.fields for found in settled.erased)


# Chains


def _chains(
    connection: Connection,
    only: str | None,
    witnesses: dict[str, list[_Witness]],
    findings: _Findings,
    census: Census,
    *,
    deep: bool,
    until: float | None,
) -> Iterator[ChainReport]:
    reader: _ChainReader | None = None
    with connection.cursor(name="verified_entries", binary=True) as cursor:
        cursor.itersize = _FETCHED
        # Tampering may have dropped constraints: there can be nulls, and times that Python cannot hold.
        cursor.execute(
            """
            SELECT coalesce(chain, ''), coalesce(seq, 0), coalesce(prev_hash, ''), coalesce(body, ''),
                coalesce(entry_hash, ''), kind, actor, subject, id::text,
                to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
            FROM ledger WHERE %(chain)s::text IS NULL OR chain = %(chain)s ORDER BY chain, seq
            """,
            {"chain": only},
        )
        for name, *row in cursor:
            if until is not None and time.perf_counter() > until:
                raise _too_long()
            if reader is None or name != reader.chain:
                if reader is not None:
                    yield reader.finish()
                reader = _ChainReader(name, witnesses.get(name, []), findings, census, deep=deep)
            reader.read(*row)
    if reader is not None:
        yield reader.finish()


def _too_long() -> Unavailable:
    hint = "Verify one chain, or run `stemma verify`, which takes the time that it needs."
    return Unavailable("verification_too_long", "There is more to verify than there was time for.", hint=hint)


class _ChainReader:
    """What is known of one chain while its entries pass by in order."""

    def __init__(
        self, chain: str, witnesses: list[_Witness], findings: _Findings, census: Census, *, deep: bool
    ) -> None:
        self.chain = chain
        self._witnesses = sorted(witnesses, key=lambda witness: witness.size)
        self._sizes = {witness.size for witness in witnesses}
        self._roots: dict[int, bytes] = {}
        self._findings = findings
        self._census = census
        self._deep = deep
        self._tree = Frontier()
        self._last_seq = 0
        self._last_hash = genesis(chain)
        self._suspect: _Suspect | None = None
        self._altered: list[_Suspect] = []
        self._vacant: list[int] = []

    def read(self, seq: int, prev_hash: bytes, body: bytes, stored_hash: bytes, *columns: str) -> None:
        """Take the next entry; its columns are kind, actor, subject, id and time."""
        computed = sha256(prev_hash + seq.to_bytes(8, "big", signed=True) + body).digest()
        follows = seq == self._last_seq + 1
        if self._suspect is not None:
            self._name_suspect(prev_hash)
        if not follows:
            self._name_place(seq)
        if computed == stored_hash:
            if follows and prev_hash != self._last_hash:
                self._add("link_broken", seq, "does not follow from the entry before it, one of them was rewritten")
            self._compare_columns(seq, body, columns)
        elif sha256(self._last_hash + seq.to_bytes(8, "big", signed=True) + body).digest() == stored_hash:
            self._add("prev_hash_edited", seq, "names another hash before it than the one it was made with")
        else:
            self._suspect = _Suspect(seq, prev_hash, body, stored_hash, computed)
        if self._deep and recanonicalized(body) != body:
            self._add("not_canonical", seq, "is not in the canonical form of RFC 8785")
        if MARKER in body:
            self._census.read(self.chain, seq, body)
        self._last_seq, self._last_hash = seq, stored_hash
        self._tree.append(stored_hash)
        if self._tree.size in self._sizes:
            self._roots[self._tree.size] = self._tree.root()

    def finish(self) -> ChainReport:
        """Name what only the end of the chain shows."""
        if self._suspect is not None:
            self._name_suspect(None)
        self._name_altered()
        return ChainReport(self.chain, self._tree.size, self._compare_heads())

    def _add(self, code: Code, seq: int, what: str) -> None:
        self._findings.add(code, f"Entry {seq:,} of {self.chain} {what}.", self.chain, seq)

    def _name_place(self, seq: int) -> None:
        if seq <= self._last_seq:
            self._add("seq_duplicate", seq, "is there more than once")
            return
        first, last = self._last_seq + 1, seq - 1
        what = "is missing" if first == last else f"and those up to {last:,} are missing"
        self._add("entry_missing", first, what)
        self._vacant.extend(range(first, min(last + 1, first + _EXAMINED_AGAIN - len(self._vacant))))

    def _name_suspect(self, next_prev_hash: bytes | None) -> None:
        """Tell an edited hash from edited bytes by what the next entry says of it."""
        suspect, self._suspect = self._suspect, None
        assert suspect is not None
        if suspect.computed == next_prev_hash:
            self._add("hash_edited", suspect.seq, "has another hash than the one it was appended with")
            # The next entry follows from the true hash.
            self._last_hash = suspect.computed
        elif len(self._altered) < _EXAMINED_AGAIN:
            self._altered.append(suspect)
        else:
            self._name_edited(suspect)

    def _name_altered(self) -> None:
        """Find out which of the altered entries were only put elsewhere: swapped, or given another seq."""
        places = {suspect.seq for suspect in self._altered} | set(self._vacant)
        for suspect in self._altered:
            origin = next((seq for seq in sorted(places) if self._fits(suspect, seq, suspect.body)), None)
            donor = next((s.seq for s in self._altered if self._fits(suspect, suspect.seq, s.body)), None)
            if origin is not None:
                self._add("entry_moved", suspect.seq, f"was appended as entry {origin:,}")
            elif donor is not None:
                self._add("entry_moved", suspect.seq, f"has lost its body to entry {donor:,}")
            else:
                self._name_edited(suspect)

    def _fits(self, suspect: _Suspect, seq: int, body: bytes) -> bool:
        return entry_hash(suspect.prev_hash, seq, body) == suspect.entry_hash

    def _name_edited(self, suspect: _Suspect) -> None:
        self._add("body_edited", suspect.seq, "was edited: its hash is not that of its bytes")

    def _compare_columns(self, seq: int, body: bytes, columns: tuple[str, ...]) -> None:
        try:
            said = json.loads(body)
            kind, actor, subject, entry_id, at = columns
            if said["chain"] != self.chain:
                self._add("entry_moved", seq, f"was appended to the chain {said['chain']}")
            elif (said["kind"], said["actor"], said["subject"], said["id"], said["at"]) != columns:
                pairs = (("kind", kind), ("actor", actor), ("subject", subject), ("id", entry_id), ("at", at))
                names = ", ".join(name for name, value in pairs if said[name] != value)
                self._add("column_edited", seq, f"was appended with another {names} than its columns have")
        except (ValueError, KeyError, TypeError, RecursionError):
            self._add("body_unreadable", seq, "has a body that is none")

    def _compare_heads(self) -> int:
        """Compare with every head; returns how many entries the largest one that agrees covers."""
        agreed = 0
        for witness in self._witnesses:
            when = format_time(witness.at)
            if witness.size > self._last_seq:
                first = self._last_seq + 1
                what = f"and those up to {witness.size:,}, which the head of {when} covers, are gone from the end"
                self._add("tail_missing", first, what)
                break
            if self._roots.get(witness.size) != witness.root:
                what = f"or one up to {witness.size:,} is not the one that the head of {when} covers"
                self._add("chain_rewritten", agreed + 1, what)
                break
            agreed = witness.size
        return agreed
