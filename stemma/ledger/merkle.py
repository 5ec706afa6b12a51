"""Merkle trees of RFC 6962 §2.1: roots, inclusion and consistency proofs, and the verification of both.

Pure functions over bytes; which entries make a tree, and who signs its root, is decided elsewhere. The verification
algorithms are those of RFC 9162 §2.1.3.2 and §2.1.4.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """Hash of a leaf: SHA-256(0x00 ‖ data)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node: SHA-256(0x01 ‖ left ‖ right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(slots=True)
class Frontier:
    """The state of a growing tree: the roots of its complete subtrees, largest first, one per set bit of `size`.

    Appending takes O(1) hashes on average and the root O(log size), so that nothing is read again.
    """

    size: int = 0
    nodes: list[bytes] = field(default_factory=list)

    def append(self, data: bytes) -> None:
        """Add one leaf."""
        node = leaf_hash(data)
        size = self.size
        while size & 1:
            node = node_hash(self.nodes.pop(), node)
            size >>= 1
        self.nodes.append(node)
        self.size += 1

    def root(self) -> bytes:
        """The root of the tree as it is now."""
        return _joined(self.nodes) if self.nodes else EMPTY_ROOT

    def subtree(self, index: int) -> range:
        """The leaves of the complete subtree that holds leaf `index` (from 0); raises IndexError outside the tree."""
        return self._subtrees()[self._holding(index)]

    def inclusion_proof(self, index: int, leaves: Sequence[bytes]) -> list[bytes]:
        """The audit path of leaf `index`, given the leaves of its `subtree` alone; raises IndexError."""
        number = self._holding(index)
        path = inclusion_proof(leaves, index - self._subtrees()[number].start)
        if right := self.nodes[number + 1 :]:
            path.append(_joined(right))
        return path + self.nodes[:number][::-1]

    def _holding(self, index: int) -> int:
        for number, leaves in enumerate(self._subtrees()):
            if index in leaves:
                return number
        raise IndexError(f"leaf {index} of a tree of {self.size}")

    def _subtrees(self) -> list[range]:
        """The leaves under each node."""
        spans, start = [], 0
        for bit in reversed(range(self.size.bit_length())):
            if width := self.size & 1 << bit:
                spans.append(range(start, start + width))
                start += width
        return spans

    def is_sound(self) -> bool:
        """Whether the number of subtrees fits the size, as it has to for one that was read from a file."""
        return len(self.nodes) == self.size.bit_count()


def _joined(nodes: Sequence[bytes]) -> bytes:
    """The root over complete subtrees, largest first."""
    return reduce(lambda right, left: node_hash(left, right), reversed(nodes))


def root(leaves: Iterable[bytes]) -> bytes:
    """The root of the tree over these leaves (their data, not their hashes)."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of leaf `index` (from 0), nearest sibling first; raises IndexError outside the tree."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of a tree of {len(leaves)}")
    path = []
    level = [leaf_hash(leaf) for leaf in leaves]
    while len(level) > 1:
        if index ^ 1 < len(level):
            path.append(level[index ^ 1])
        level = _parents(level)
        index >>= 1
    return path


def _parents(level: list[bytes]) -> list[bytes]:
    """The level above; a last node without a sibling moves up as it is."""
    pairs = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    return pairs + level[len(level) & ~1 :]


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], expected_root: bytes) -> bool:
    """Whether `path` proves that `leaf` (its data) has this index in the tree of this size and root."""
    if not 0 <= index < size:
        return False
    node, last = leaf_hash(leaf), size - 1
    for sibling in path:
        if last == 0:
            return False
        if index & 1 or index == last:
            node = node_hash(sibling, node)
            while not index & 1 and index:
                index >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling)
        index >>= 1
        last >>= 1
    return last == 0 and node == expected_root


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """The proof that the tree over the first `old_size` leaves is a prefix of the tree over all.

    Empty for 0 and for equal sizes. Raises IndexError when `old_size` is negative or larger than the tree.
    """
    if not 0 <= old_size <= len(leaves):
        raise IndexError(f"size {old_size} of a tree of {len(leaves)}")
    proof: list[bytes] = []
    start, end, complete = 0, len(leaves), True
    while 0 < old_size < end - start:
        split = 1 << (end - start - 1).bit_length() - 1
        if old_size <= split:
            proof.append(root(leaves[start + split : end]))
            end = start + split
        else:
            proof.append(root(leaves[start : start + split]))
            start, old_size, complete = start + split, old_size - split, False
    if not complete:
        proof.append(root(leaves[start:end]))
    return proof[::-1]


def verify_consistency(old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the tree of `new_size` and `new_root` extends that of `old_size` and `old_root`."""
    if not 0 <= old_size <= new_size:
        return False
    if old_size == new_size:
        return not proof and old_root == new_root
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    nodes = list(proof)
    if old_size & (old_size - 1) == 0:
        nodes.insert(0, old_root)
    if not nodes:
        return False
    old, new = old_size - 1, new_size - 1
    while old & 1:
        old >>= 1
        new >>= 1
    old_node = new_node = nodes[0]
    for sibling in nodes[1:]:
        if new == 0:
            return False
        if old & 1 or old == new:
            old_node, new_node = node_hash(sibling, old_node), node_hash(sibling, new_node)
            while not old & 1 and old:
                old >>= 1
                new >>= 1
        else:
            new_node = node_hash(new_node, sibling)
        old >>= 1
        new >>= 1
    return new == 0 and old_node == old_root and new_node == new_root
