"""Proofs about one chain under a signed head, which anyone can check with the head and the public key alone.

The trees themselves are `merkle`'s; finding what was tampered with is the business of `verification`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stemma.errors import CheckFailed, NotFound, Unavailable
from stemma.ledger import merkle
from stemma.ledger.heads import SignedHead, resumable
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


def prove_inclusion(connection: Connection, head: SignedHead | None, chain: str, seq: int) -> InclusionProof:
    """Prove that an entry is under a head.

    The head knows the roots of its complete subtrees, so that only the hashes of the one that holds the entry are read:
    few for a new entry, at most all that the head covers.

    Raises NotFound for an entry that is not there, Unavailable with code `head_pending` when there is no head or it is
    older than the entry, CheckFailed with code `ledger_contradicts_head` when the stored hashes do not give the signed
    root.
    """
    tree = head.head.of(chain) if head else None
    if head is None or tree is None or seq > tree.size:
        row = connection.execute("SELECT FROM ledger WHERE chain = %s AND seq = %s", (chain, seq)).fetchone()
        if row is None:
            raise _no_entry(chain, seq)
        raise Unavailable(
            "head_pending",
            f"No head covers entry {seq:,} of {chain} yet.",
            hint="One is signed within a second of a commit while a process of the studio runs; try again then.",
        )
    if seq < 1:
        raise _no_entry(chain, seq)
    index, frontier = seq - 1, resumable(head)[chain]
    subtree = frontier.subtree(index)
    leaves = _leaves(connection, chain, subtree)
    if len(leaves) == len(subtree):
        leaf, path = leaves[index - subtree.start], frontier.inclusion_proof(index, leaves)
        if merkle.verify_inclusion(leaf, index, tree.size, path, tree.root):
            return InclusionProof(chain, seq, leaf, tuple(path), head)
    raise _contradiction(chain)


def prove_consistency(connection: Connection, old: SignedHead, new: SignedHead, chain: str) -> ConsistencyProof:
    """Prove that one head extends another on a chain that both cover; raises NotFound and CheckFailed."""
    before, after = old.head.of(chain), new.head.of(chain)
    if before is None or after is None or before.size > after.size:
        raise NotFound("chain_not_covered", f"The two heads do not cover {chain} in this order.", field="chain")
    leaves = _leaves(connection, chain, range(after.size))
    if len(leaves) != after.size or merkle.root(leaves) != after.root:
        raise _contradiction(chain)
    return ConsistencyProof(chain, old, new, tuple(merkle.consistency_proof(leaves, before.size)))


def _leaves(connection: Connection, chain: str, indexes: range) -> list[bytes]:
    with connection.cursor(binary=True) as cursor:
        rows = cursor.execute(
            "SELECT entry_hash FROM ledger WHERE chain = %s AND seq > %s AND seq <= %s ORDER BY seq",
            (chain, indexes.start, indexes.stop),
        ).fetchall()
    return [hashed for (hashed,) in rows]


def _contradiction(chain: str) -> CheckFailed:
    what = f"The stored entries of {chain} are not those that were signed."
    return CheckFailed("ledger_contradicts_head", what, hint="Run `stemma verify`.")


def _no_entry(chain: str, seq: int) -> NotFound:
    return NotFound("entry_not_found", f"The chain {chain} has no entry {seq:,}.", field="seq")
