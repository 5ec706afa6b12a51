"""Proofs about one chain under a signed head, which anyone can check with the head and the public key alone.

The trees themselves are `merkle`'s; finding what was tampered with is the business of `verification`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stemma.errors import CheckFailed, NotFound, Unavailable
from stemma.ledger import merkle
from stemma.ledger.heads import ChainHead, SignedHead
from stemma.ledger.keys import PublicKey
from stemma.store.database import Connection


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """That the entry with this hash is number `seq` of its chain in the tree that `head` signs."""

    chain: str
    seq: int
    entry_hash: bytes
    path: tuple[bytes, ...]
    head: SignedHead

    def holds(self, keys: Mapping[str, PublicKey]) -> bool:
        """Whether a key of these signed the head and the path leads to its root."""
        tree = self.head.head.of(self.chain)
        return (
            tree is not None
            and self.head.is_by(keys)
            and merkle.verify_inclusion(self.entry_hash, self.seq - 1, tree.size, self.path, tree.root)
        )


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """That `new` only appended to what `old` signed of one chain."""

    chain: str
    old: SignedHead
    new: SignedHead
    path: tuple[bytes, ...]

    def holds(self, keys: Mapping[str, PublicKey]) -> bool:
        """Whether keys of these signed both heads and the path leads from one root to the other."""
        before, after = self.old.head.of(self.chain), self.new.head.of(self.chain)
        return (
            before is not None
            and after is not None
            and self.old.is_by(keys)
            and self.new.is_by(keys)
            and merkle.verify_consistency(before.size, after.size, before.root, after.root, self.path)
        )


def prove_inclusion(connection: Connection, head: SignedHead, chain: str, seq: int) -> InclusionProof:
    """Prove that an entry is under a head; reads the hashes of all entries of its chain that the head covers.

    Raises NotFound for an entry that is not there, Unavailable with code `head_pending` when the head is older than the
    entry, CheckFailed with code `ledger_contradicts_head` when the stored hashes do not give the signed root.
    """
    tree = head.head.of(chain)
    if tree is None or seq > tree.size:
        row = connection.execute("SELECT FROM ledger WHERE chain = %s AND seq = %s", (chain, seq)).fetchone()
        if row is None:
            raise _no_entry(chain, seq)
        raise head_pending(chain, seq)
    if seq < 1:
        raise _no_entry(chain, seq)
    leaves = _leaves(connection, tree)
    return InclusionProof(chain, seq, leaves[seq - 1], tuple(merkle.inclusion_proof(leaves, seq - 1)), head)


def prove_consistency(connection: Connection, old: SignedHead, new: SignedHead, chain: str) -> ConsistencyProof:
    """Prove that one head extends another on a chain that both cover; raises NotFound and CheckFailed."""
    before, after = old.head.of(chain), new.head.of(chain)
    if before is None or after is None or before.size > after.size:
        raise NotFound("chain_not_covered", f"The two heads do not cover {chain} in this order.", field="chain")
    leaves = _leaves(connection, after)
    return ConsistencyProof(chain, old, new, tuple(merkle.consistency_proof(leaves, before.size)))


def _leaves(connection: Connection, tree: ChainHead) -> list[bytes]:
    with connection.cursor(binary=True) as cursor:
        rows = cursor.execute(
            "SELECT entry_hash FROM ledger WHERE chain = %s AND seq <= %s ORDER BY seq", (tree.chain, tree.size)
        ).fetchall()
    leaves = [hashed for (hashed,) in rows]
    if len(leaves) != tree.size or merkle.root(leaves) != tree.root:
        raise CheckFailed(
            "ledger_contradicts_head",
            f"The stored entries of {tree.chain} are not those that were signed.",
            hint="Run `stemma verify`.",
        )
    return leaves


def head_pending(chain: str, seq: int) -> Unavailable:
    """The error for an entry that no head covers yet."""
    return Unavailable(
        "head_pending",
        f"No head covers entry {seq:,} of {chain} yet.",
        hint="One is signed within a second of a commit while a process of the studio runs.",
    )


def _no_entry(chain: str, seq: int) -> NotFound:
    return NotFound("entry_not_found", f"The chain {chain} has no entry {seq:,}.", field="seq")
