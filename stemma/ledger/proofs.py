"""Proofs about one chain under a signed head, which anyone can check with the head and the public key alone.

A head carries the roots of its complete subtrees, so that a proof reads the hashes of the one that its entry is in; of
a large one the process remembers the roots of its blocks. A proof is handed out only when it leads to the signed root.
The trees themselves are `merkle`'s; finding what was tampered with is the business of `verification`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from stemma.errors import CheckFailed, NotFound, Unavailable
from stemma.ledger import merkle
from stemma.ledger.heads import SignedHead
from stemma.ledger.keys import PublicKey
from stemma.store.database import Connection

_BLOCK = 1024
_BLOCKS_AT_ONCE = 64
_REMEMBERED = 64
# The roots of the blocks of large subtrees, under the subtree's own root, so that nothing in here is ever outdated.
_blocks: dict[bytes, list[bytes]] = {}
_blocks_lock = threading.Lock()


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
class Step:
    """One step of an audit path: the sibling over the entries `first` to `last`, on which side it stands, and the node
    that it gives together with the one before.
    """

    first: int
    last: int
    left: bool
    sibling: bytes
    node: bytes


def steps(proof: InclusionProof) -> tuple[Step, ...]:
    """The way from an entry's hash to the root, nearest sibling first; the last node is the root where it holds."""
    tree = proof.head.head.of(proof.chain)
    node, found = merkle.leaf_hash(proof.entry_hash), []
    for (start, end), sibling in zip(
        merkle.inclusion_ranges(proof.seq - 1, tree.size if tree else 0), proof.path, strict=True
    ):
        left = end < proof.seq
        node = merkle.node_hash(sibling, node) if left else merkle.node_hash(node, sibling)
        found.append(Step(start + 1, end, left, sibling, node))
    return tuple(found)


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
    """Prove that an entry is under a head. Entries appended lately are proved at once, whatever the chain's length.

    Raises NotFound for an entry that is not there, Unavailable with code `head_pending` when there is no head or it is
    older than the entry, CheckFailed with code `ledger_contradicts_head` when the stored hashes do not lead to the
    signed root.
    """
    tree = head.head.of(chain) if head else None
    if head is None or tree is None or seq > tree.size:
        row = connection.execute("SELECT FROM ledger WHERE chain = %s AND seq = %s", (chain, seq)).fetchone()
        if row is None:
            raise _no_entry(chain, seq)
        raise head_pending(chain, seq)
    if seq < 1:
        raise _no_entry(chain, seq)
    stored = _StoredTree(connection, head, chain)
    (leaf,) = stored.leaves(seq - 1, seq)
    path = tuple(stored.root(start, end) for start, end in merkle.inclusion_ranges(seq - 1, tree.size))
    if not merkle.verify_inclusion(leaf, seq - 1, tree.size, path, tree.root):
        raise _contradiction(chain)
    return InclusionProof(chain, seq, leaf, path, head)


def prove_consistency(connection: Connection, old: SignedHead, new: SignedHead, chain: str) -> ConsistencyProof:
    """Prove that one head extends another on a chain that both cover; raises NotFound where they do not, CheckFailed
    as `prove_inclusion`.
    """
    before, after = old.head.of(chain), new.head.of(chain)
    if before is None or after is None or before.size > after.size:
        raise NotFound("chain_not_covered", f"The two heads do not cover {chain} in this order.", field="chain")
    stored = _StoredTree(connection, new, chain)
    stored.learn(old)
    path = tuple(stored.root(start, end) for start, end in merkle.consistency_ranges(before.size, after.size))
    if not merkle.verify_consistency(before.size, after.size, before.root, after.root, path):
        raise _contradiction(chain)
    return ConsistencyProof(chain, old, new, path)


def forget() -> None:
    """Forget what was remembered of large subtrees, as a new process would know nothing of them."""
    with _blocks_lock:
        _blocks.clear()


class _StoredTree:
    """The tree of a chain under a head: roots that the head names, and those made of stored hashes."""

    def __init__(self, connection: Connection, head: SignedHead, chain: str) -> None:
        self._connection = connection
        self._chain = chain
        self._known: dict[tuple[int, int], bytes] = {}
        self._read: dict[int, list[bytes]] = {}
        self.learn(head)

    def learn(self, head: SignedHead) -> None:
        """Take the subtrees of a head; they are checked with the proof that they go into."""
        frontier = head.frontiers[self._chain]
        self._known.update(zip(frontier.ranges(), frontier.nodes, strict=False))

    def root(self, start: int, end: int) -> bytes:
        """The root of a subtree."""
        if (start, end) in self._known:
            return self._known[start, end]
        size = end - start
        if size & (size - 1):
            middle = start + merkle.split(size)
            return merkle.node_hash(self.root(start, middle), self.root(middle, end))
        if size < _BLOCK:
            return merkle.root(self.leaves(start, end))
        around = next((known for known in self._known if known[0] <= start and end <= known[1]), (start, end))
        first = (start - around[0]) // _BLOCK
        return merkle.join(self._blocks_of(*around)[first : first + size // _BLOCK])

    def leaves(self, start: int, end: int) -> list[bytes]:
        """Entry hashes within one block, which is read once; raises CheckFailed where one is missing."""
        block = start // _BLOCK
        if block not in self._read:
            self._read[block] = self._hashes(block * _BLOCK, (block + 1) * _BLOCK)
        within = self._read[block][start % _BLOCK : start % _BLOCK + end - start]
        if len(within) != end - start:
            raise _contradiction(self._chain)
        return within

    def _blocks_of(self, start: int, end: int) -> list[bytes]:
        """The roots of the blocks of a large subtree: remembered, or made of all its entries."""
        root = self._known.get((start, end))
        with _blocks_lock:
            if root in _blocks:
                return _blocks[root]
        made = []
        for first in range(start, end, _BLOCKS_AT_ONCE * _BLOCK):
            hashes = self._hashes(first, min(first + _BLOCKS_AT_ONCE * _BLOCK, end))
            made += [merkle.root(hashes[i : i + _BLOCK]) for i in range(0, len(hashes), _BLOCK)]
        if root is not None:
            if len(made) != (end - start) // _BLOCK or merkle.join(made) != root:
                raise _contradiction(self._chain)
            with _blocks_lock:
                _blocks[root] = made
                if len(_blocks) > _REMEMBERED:
                    del _blocks[next(iter(_blocks))]
        return made

    def _hashes(self, start: int, end: int) -> list[bytes]:
        with self._connection.cursor(binary=True) as cursor:
            rows = cursor.execute(
                "SELECT entry_hash FROM ledger WHERE chain = %s AND seq > %s AND seq <= %s ORDER BY seq",
                (self._chain, start, end),
            )
            return [hashed for (hashed,) in rows]


def head_pending(chain: str, seq: int) -> Unavailable:
    """The error for an entry that no head covers yet."""
    return Unavailable(
        "head_pending",
        f"No head covers entry {seq:,} of {chain} yet.",
        hint="One is signed within a second of a commit while a process of the studio runs; try again then.",
    )


def _contradiction(chain: str) -> CheckFailed:
    return CheckFailed(
        "ledger_contradicts_head",
        f"The stored entries of {chain} are not those that were signed.",
        hint="Run `stemma verify`.",
    )


def _no_entry(chain: str, seq: int) -> NotFound:
    return NotFound("entry_not_found", f"The chain {chain} has no entry {seq:,}.", field="seq")
