"""Merkle trees of RFC 6962 §2.1: roots, inclusion and consistency proofs, and the verification of both.

Pure functions over bytes; which entries make a tree, and who signs its root, is decided elsewhere. The verification
algorithms are those of RFC 9162 §2.1.3.2 and §2.1.4.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
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
        if not self.nodes:
            return EMPTY_ROOT
        return reduce(lambda right, left: node_hash(left, right), reversed(self.nodes))

    def ranges(self) -> Iterator[tuple[int, int]]:
        """The complete subtrees as (first leaf, leaf after the last), in the order of `nodes`."""
        start = 0
        for bit in reversed(range(self.size.bit_length())):
            if self.size >> bit & 1:
                yield start, start + (1 << bit)
                start += 1 << bit

    def is_sound(self) -> bool:
        """Whether the number of subtrees fits the size, as it has to for one that was read from a file."""
        return len(self.nodes) == self.size.bit_count()


def root(leaves: Sequence[bytes]) -> bytes:
    """The root of the tree over these leaves (their data, not their hashes)."""
    return join([leaf_hash(leaf) for leaf in leaves]) if leaves else EMPTY_ROOT


def join(nodes: Sequence[bytes]) -> bytes:
    """The root over one or more roots of complete subtrees of one size; only the last may stand for a smaller one."""
    level = list(nodes)
    while len(level) > 1:
        pairs = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        # A last node without a sibling moves up as it is.
        level = pairs + level[len(level) & ~1 :]
    return level[0]


def split(size: int) -> int:
    """Where RFC 6962 divides a tree of two or more leaves: the largest power of two below its size."""
    return 1 << (size - 1).bit_length() - 1


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """The subtrees, as (first leaf, leaf after the last), whose roots are the audit path of leaf `index` (from 0).

    Nearest sibling first; raises IndexError outside the tree.
    """
    if not 0 <= index < size:
        raise IndexError(f"leaf {index} of a tree of {size}")
    ranges = []
    start, end = 0, size
    while end - start > 1:
        middle = start + split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of leaf `index` (from 0), nearest sibling first; raises IndexError outside the tree."""
    return [root(leaves[start:end]) for start, end in inclusion_ranges(index, len(leaves))]


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


def consistency_ranges(old_size: int, size: int) -> list[tuple[int, int]]:
    """The subtrees, as (first leaf, leaf after the last), whose roots prove that the tree of `old_size` is a prefix.

    None for 0 and for equal sizes. Raises IndexError when `old_size` is negative or larger than the tree.
    """
    if not 0 <= old_size <= size:
        raise IndexError(f"size {old_size} of a tree of {size}")
    ranges = []
    start, end = 0, size
    while start < old_size < end:
        middle = start + split(end - start)
        if old_size <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    # Who has the old root knows it already where it is the root of a subtree.
    if start and ranges:
        ranges.append((start, end))
    return ranges[::-1]


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """The proof that the tree over the first `old_size` leaves is a prefix of the tree over all; see its ranges."""
    return [root(leaves[start:end]) for start, end in consistency_ranges(old_size, len(leaves))]


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
