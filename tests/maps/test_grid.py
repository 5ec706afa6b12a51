"""Varints, the Hilbert order and positions agree with others' code and undo themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pmtiles.tile import zxy_to_tileid

from stemma.maps import compression, grid, varints

numbers = st.lists(st.integers(0, 2**63 - 1), max_size=50)


@given(numbers)
def test_varints_come_back(values: list[int]) -> None:
    encoded = varints.encode(np.array(values, np.int64))
    assert varints.decode(encoded).tolist() == values
    assert encoded.tobytes() == b"".join(map(varints.one, values))


@pytest.mark.parametrize("damaged", [b"\x80", b"\xff" * 10 + b"\x01"])
def test_damaged_varints_are_refused(damaged: bytes) -> None:
    with pytest.raises(ValueError, match="integer"):
        varints.decode(np.frombuffer(damaged, np.uint8))


@given(st.integers(0, 18), st.data())
def test_tile_ids_are_those_of_pmtiles(zoom: int, data: st.DataObject) -> None:
    x, y = (data.draw(st.integers(0, (1 << zoom) - 1)) for _ in range(2))
    ids = grid.tile_ids(zoom, np.array([x]), np.array([y]))
    assert int(ids[0]) == zxy_to_tileid(zoom, x, y)
    assert [int(place[0]) for place in grid.tiles(zoom, ids)] == [x, y]
    assert grid.zoom_of(int(ids[0])) == zoom


@given(st.floats(-180, 180), st.floats(-85, 85))
def test_positions_are_exact_to_a_millionth_of_a_degree(longitude: float, latitude: float) -> None:
    back = grid.degrees(*grid.positions(np.array([longitude]), np.array([latitude])))
    assert abs((back[0][0] - longitude + 180) % 360 - 180) < 1e-6
    assert abs(back[1][0] - latitude) < 1e-6


def test_the_antimeridian_is_one_line() -> None:
    x, _ = grid.positions(np.array([-180.0, 180.0]), np.array([0.0, 0.0]))
    assert x.tolist() == [0, 0]


@given(st.binary(max_size=300))
def test_compression_is_undone_and_bounded(data: bytes) -> None:
    compressed = compression.compress(data)
    assert compressed == compression.compress(data)
    assert compression.decompress(compressed, len(data) + 1) == data
    with pytest.raises(ValueError, match="cut off"):
        compression.decompress(compressed[:-1], len(data) + 1)


def test_content_beyond_the_limit_is_refused() -> None:
    with pytest.raises(compression.TooLong):
        compression.decompress(compression.compress(bytes(10_000)), 9_999)
