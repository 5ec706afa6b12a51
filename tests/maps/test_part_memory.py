"""What was decoded before is not decoded again, and nothing that is wrong is missed for it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stemma.maps import exact, privacy
from stemma.maps.building import build_points
from stemma.maps.check import check
from stemma.maps.decoding import decode
from stemma.maps.findings import Findings
from stemma.maps.incremental import rebuild_points
from stemma.maps.part_memory import PartMemory
from stemma.maps.pmtiles import Archive
from stemma.maps.points import BATCH_BITS, Points
from stemma.maps.tile_check import Decode, TileChecker

from .conftest import PROVENANCE
from .test_months import BATCHED, batched


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Points]:
    """An archive of five months, its large tiles in parts."""
    path, everything = tmp_path_factory.mktemp("memory") / "made.pmtiles", batched(400)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "PART_POINTS", 40)
        build_points(path, everything, BATCHED, PROVENANCE)
    return path, everything


def kept(memory: PartMemory, path: Path) -> PartMemory:
    memory.save(path)
    return PartMemory.load(path)


def test_what_is_known_is_not_decoded_and_says_the_same(made: tuple[Path, Points], tmp_path: Path) -> None:
    path, points = made
    first = PartMemory()
    assert check(path, memory=first) == check(path)
    shown = sum(figures.retained for figures in check(path).layers)
    assert first.decoded >= shown > 0
    again = kept(first, tmp_path / "memory.npz")
    assert check(path, memory=again) == check(path)
    proofs = [privacy.prove(path, points, "crimes", 9, 1, memory) for memory in (None, again)]
    assert proofs[0] == proofs[1] and not proofs[0].holds
    assert again.decoded == 0


def test_of_another_month_only_what_is_new_is_decoded(
    made: tuple[Path, Points], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "PART_POINTS", 40)
    everything = made[1]
    before = everything.taken(np.flatnonzero(everything.ids >> BATCH_BITS < 604))
    build_points(tmp_path / "before", before, BATCHED, PROVENANCE)
    rebuild_points(tmp_path / "after", tmp_path / "before", before, everything, BATCHED, PROVENANCE)
    memory = PartMemory()
    check(tmp_path / "before", memory=memory)
    known = kept(memory, tmp_path / "memory.npz")
    assert check(tmp_path / "after", memory=known).clean
    assert 0 < known.decoded < memory.decoded / 2


def test_what_is_not_met_again_is_not_kept(made: tuple[Path, Points], archive: Path, tmp_path: Path) -> None:
    first = PartMemory()
    check(made[0], memory=first)
    second = kept(first, tmp_path / "memory.npz")
    check(archive, memory=second)
    third = kept(second, tmp_path / "memory.npz")
    check(made[0], memory=third)
    assert third.decoded == first.decoded


def test_a_file_that_is_none_or_damaged_is_as_no_file(made: tuple[Path, Points], tmp_path: Path) -> None:
    path, memory = tmp_path / "memory.npz", PartMemory()
    check(made[0], memory=memory)
    memory.save(path)
    whole = path.read_bytes()
    for damaged in (b"", b"nothing of the kind", whole[:-50], whole[:300] + b"\0\1\2" + whole[303:]):
        path.write_bytes(damaged)
        again = PartMemory.load(path)
        assert check(made[0], memory=again).clean and again.decoded == memory.decoded


def test_no_more_is_kept_than_there_is_room(
    made: tuple[Path, Points], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stemma.maps.part_memory._MOST", 5000)
    memory = PartMemory()
    check(made[0], memory=memory)
    again = kept(memory, tmp_path / "memory.npz")
    assert (tmp_path / "memory.npz").stat().st_size < 8000
    assert check(made[0], memory=again).clean
    assert 0 < again.decoded < memory.decoded


def looked_at(content: bytes, decoded: Decode) -> list[Any]:
    """What a check says of a tile; the order of features is nobody's."""
    findings, found = Findings(), []
    for shown in TileChecker({}, frozenset({"crimes_cells"}), findings).check(1, content, decoded):
        order = np.lexsort((*shown.bounds.T, shown.identities))
        seen = shown.identities[order].tolist(), shown.bounds[order].tolist()
        found.append((shown.layer, shown.features, shown.counted, shown.points, *seen))
    return [found, findings.problems, findings.omitted]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_changed_byte_is_seen_as_without_a_memory(made: tuple[Path, Points], data: st.DataObject) -> None:
    with Archive(made[0]) as archive:
        tiles = [(archive.content(stored), stored) for _, stored in archive.stored()]
    memory = PartMemory()
    for content, stored in tiles:
        memory.decode(content, stored)
    content, stored = data.draw(st.sampled_from(tiles))
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    known = partial(memory.decode, stored=stored)
    assert looked_at(bytes(changed), known) == looked_at(bytes(changed), decode)
