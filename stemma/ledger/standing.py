"""How the ledger stands: its chains beside the newest signed head, and one entry.

Only reads live here. Whether the whole ledger is what was signed is the business of `verification`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg.rows import class_row

from stemma.errors import NotFound
from stemma.ledger.entries import Entry
from stemma.ledger.feed import read_tails
from stemma.ledger.heads import HeadStore, SignedHead
from stemma.ledger.keys import public_keys
from stemma.store.database import Connection
from stemma.store.settings import Settings

_ENTRY: Final = "SELECT chain, seq, prev_hash, body, entry_hash, id, kind, actor, subject, created_at FROM ledger"


@dataclass(frozen=True, slots=True)
class ChainStanding:
    """One chain: its entries, how many of them the newest head covers, and the root that it signs for those."""

    chain: str
    entries: int
    signed: int
    root: bytes | None


@dataclass(frozen=True, slots=True)
class Standing:
    """Every chain by name, the time of the newest head, and since when the oldest entry under none waits for one."""

    chains: tuple[ChainStanding, ...]
    head_at: datetime | None
    waiting_since: datetime | None

    @property
    def waiting(self) -> int:
        """How many entries no head covers yet."""
        return sum(chain.entries - chain.signed for chain in self.chains)


def newest_head(settings: Settings) -> SignedHead | None:
    """The newest head, for a snapshot that begins after it was read: else the head may cover what that does not see.

    Raises CheckFailed for one that no key of this ledger signed, Unavailable where the second store does not answer.
    """
    return HeadStore(settings).believed(public_keys(settings))


def read_standing(connection: Connection, head: SignedHead | None) -> Standing:
    """How the chains stand beside a head."""
    trees = {tree.chain: tree for tree in head.head.chains} if head else {}
    chains: list[ChainStanding] = []
    waiting: list[datetime] = []
    for chain, entries in read_tails(connection).items():
        tree = trees.get(chain)
        signed = tree.size if tree else 0
        chains.append(ChainStanding(chain, entries, signed, tree.root if tree else None))
        row = connection.execute(
            "SELECT created_at FROM ledger WHERE chain = %s AND seq = %s", (chain, signed + 1)
        ).fetchone()
        waiting += row or ()
    return Standing(tuple(chains), head.head.time if head else None, min(waiting, default=None))


def read_entry(connection: Connection, entry_id: UUID) -> Entry:
    """One entry; raises NotFound(field="id")."""
    with connection.cursor(row_factory=class_row(Entry)) as cursor:
        entry = cursor.execute(f"{_ENTRY} WHERE id = %s", (entry_id,)).fetchone()
    if entry is None:
        raise NotFound("entry_not_found", f"The ledger has no entry {entry_id}.", field="id")
    return entry


def read_entry_at(connection: Connection, chain: str, seq: int) -> Entry:
    """The entry at this place of a chain; raises NotFound(field="seq")."""
    with connection.cursor(row_factory=class_row(Entry)) as cursor:
        entry = cursor.execute(f"{_ENTRY} WHERE chain = %s AND seq = %s", (chain, seq)).fetchone()
    if entry is None:
        raise NotFound("entry_not_found", f"The chain {chain} has no entry {seq:,}.", field="seq")
    return entry
