from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stemma.maps.building import Input, Provenance, build_points
from stemma.maps.point_tiles import PointLayer
from stemma.maps.points import Column, Points

PROVENANCE = Provenance(
    "Crimes", "maps/tiles", "crimes", (Input("crimes.csv", "ab" * 32),), "CC0-1.0", "© somebody", "Invented"
)
LAYER = PointLayer("crimes", category="type", period="month", max_zoom=11, tile_bytes=40_000)


def crowd(count: int, seed: int = 1) -> Points:
    """Points of a city and its surroundings, half of them in the middle."""
    random = np.random.default_rng(seed)
    near = random.random(count) < 0.5
    longitude = -0.1 + random.normal(0, np.where(near, 0.05, 0.2))
    latitude = 51.5 + random.normal(0, np.where(near, 0.05, 0.2))
    return Points.of(
        np.arange(count) + 1,
        longitude,
        latitude,
        (
            Column("type", random.integers(0, 3, count).astype(np.int32), ("Arson", "Burglary", "Theft")),
            Column("month", random.integers(-1, 2, count).astype(np.int32), ("2020-01", "2020-02")),
            Column("hour", random.integers(0, 24, count).astype(np.int32), tuple(range(24))),
        ),
    )


@pytest.fixture(scope="session")
def points() -> Points:
    """Enough points that low zooms count them."""
    return crowd(4000)


@pytest.fixture(scope="session")
def archive(points: Points, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of `points`."""
    path = tmp_path_factory.mktemp("maps") / "crimes.pmtiles"
    build_points(path, points, LAYER, PROVENANCE)
    return path
