"""RFC 6962 trees against the RFC's own recursive definitions and Certificate Transparency's reference vectors."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.ledger import merkle

LEAVES = [
    bytes.fromhex(leaf)
    for leaf in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = split(len(leaves))
    return sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def split(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def naive_path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of §2.1.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_subproof(m: int, leaves: list[bytes], complete: bool) -> list[bytes]:
    """SUBPROOF of §2.1.2."""
    if m == len(leaves):
        return [] if complete else [naive_root(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*naive_subproof(m, leaves[:k], complete), naive_root(leaves[k:])]
    return [*naive_subproof(m - k, leaves[k:], False), naive_root(leaves[:k])]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_the_reference_vectors(size: int) -> None:
    assert merkle.root(LEAVES[:size]).hex() == ROOTS[size]


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [
        (0, 1, []),
        (
            0,
            8,
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            5,
            8,
            [
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    ],
)
def test_inclusion_paths_are_those_of_the_reference_vectors(index: int, size: int, path: list[str]) -> None:
    assert [node.hex() for node in merkle.inclusion_proof(LEAVES[:size], index)] == path


@pytest.mark.parametrize(
    ("old", "new", "proof"),
    [
        (1, 1, []),
        (
            1,
            8,
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            6,
            8,
            [
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            5,
            [
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ],
)
def test_consistency_proofs_are_those_of_the_reference_vectors(old: int, new: int, proof: list[str]) -> None:
    assert [node.hex() for node in merkle.consistency_proof(LEAVES[:new], old)] == proof


trees = st.lists(st.binary(max_size=4), min_size=1, max_size=70)


@given(trees)
def test_growing_gives_the_root_of_the_definition_at_every_size(leaves: list[bytes]) -> None:
    frontier = merkle.Frontier()
    for size, leaf in enumerate(leaves, start=1):
        frontier.append(leaf)
        assert frontier.root() == naive_root(leaves[:size])
        assert frontier.size == size and frontier.is_sound()


@given(trees, st.data())
def test_inclusion_is_proved_and_nothing_else_is(leaves: list[bytes], data: st.DataObject) -> None:
    size, expected = len(leaves), naive_root(leaves)
    index = data.draw(st.integers(0, size - 1))
    path = merkle.inclusion_proof(leaves, index)
    assert path == naive_path(index, leaves)
    assert merkle.verify_inclusion(leaves[index], index, size, path, expected)
    assert not merkle.verify_inclusion(leaves[index] + b"x", index, size, path, expected)
    assert not merkle.verify_inclusion(leaves[index], index, size, [*path, bytes(32)], expected)
    assert not merkle.verify_inclusion(leaves[index], size, size, path, expected)
    other = data.draw(st.integers(0, size - 1))
    if leaves[other] != leaves[index]:
        assert not merkle.verify_inclusion(leaves[index], other, size, path, expected)
    if path:
        assert not merkle.verify_inclusion(leaves[index], index, size, path[:-1], expected)
        broken = [*path]
        at = data.draw(st.integers(0, len(path) - 1))
        broken[at] = bytes([broken[at][0] ^ 1]) + broken[at][1:]
        assert not merkle.verify_inclusion(leaves[index], index, size, broken, expected)


@given(trees)
def test_a_frontier_knows_the_leaves_under_each_of_its_nodes(leaves: list[bytes]) -> None:
    frontier = merkle.Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    ranges = list(frontier.ranges())
    assert [naive_root(leaves[start:end]) for start, end in ranges] == frontier.nodes
    assert [start for start, _ in ranges] + [len(leaves)] == [0] + [end for _, end in ranges]


@given(trees, st.data())
def test_consistency_is_proved_and_nothing_else_is(leaves: list[bytes], data: st.DataObject) -> None:
    new = len(leaves)
    old = data.draw(st.integers(0, new))
    before, after = naive_root(leaves[:old]), naive_root(leaves)
    proof = merkle.consistency_proof(leaves, old)
    assert proof == (naive_subproof(old, leaves, True) if old else [])
    assert merkle.verify_consistency(old, new, before, after, proof)
    assert not merkle.verify_consistency(old, new, sha256(before).digest(), after, proof)
    assert not merkle.verify_consistency(old, new, before, after, [*proof, bytes(32)])
    assert not merkle.verify_consistency(new + 1, new, before, after, proof)
    if old:
        assert not merkle.verify_consistency(old, new, before, sha256(after).digest(), proof)
    if proof:
        assert not merkle.verify_consistency(old, new, before, after, proof[:-1])
        at = data.draw(st.integers(0, len(proof) - 1))
        broken = [*proof[:at], sha256(proof[at]).digest(), *proof[at + 1 :]]
        assert not merkle.verify_consistency(old, new, before, after, broken)


def test_what_is_outside_the_tree_has_no_proof() -> None:
    for index in (-1, 8):
        with pytest.raises(IndexError):
            merkle.inclusion_proof(LEAVES, index)
    for size in (-1, 9):
        with pytest.raises(IndexError):
            merkle.consistency_proof(LEAVES, size)
