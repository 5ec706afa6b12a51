"""The square world of Web Mercator (EPSG:3857), its quadtree, and the order of tiles along a Hilbert curve.

A position is a pair of whole numbers below 2^30, from the north-west corner. Thirty levels hold the pixels of zoom 18.
The order is that of PMTiles v3, in which the tiles of a parent lie together: a position's key, shifted by two bits for
each level above, is its cell at that level.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stemma.maps.varints import Integers

LEVELS = 30
EXTENT_BITS = 12
EXTENT = 1 << EXTENT_BITS
MAX_ZOOM = LEVELS - EXTENT_BITS
MAX_LATITUDE = math.degrees(math.atan(math.sinh(math.pi)))
CIRCUMFERENCE = 40_075_016.685578488

Floats = NDArray[np.float64]
Positions = NDArray[np.int32]

_BLOCK = 1 << 18


def positions(longitude: Floats, latitude: Floats) -> tuple[Positions, Positions]:
    """Positions of WGS 84 degrees; the meridian of 180° is that of −180°. Latitudes are within ±MAX_LATITUDE."""
    side = 1 << LEVELS
    x = np.floor((longitude / 360 + 0.5) * side).astype(np.int64) % side
    sine = np.sin(np.radians(latitude))
    y = np.floor((0.5 - np.arctanh(sine) / (2 * np.pi)) * side)
    return x.astype(np.int32), np.clip(y, 0, side - 1).astype(np.int32)


def degrees(x: Positions | Integers | Floats, y: Positions | Integers | Floats) -> tuple[Floats, Floats]:
    """Longitude and latitude of positions."""
    side = 1 << LEVELS
    latitude = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * np.asarray(y, np.float64) / side))))
    return np.asarray(x, np.float64) / side * 360 - 180, latitude


def keys(x: Positions, y: Positions) -> Integers:
    """Where each position lies along the Hilbert curve of all levels."""
    found = np.empty(len(x), np.int64)
    for start in range(0, len(x), _BLOCK):
        some = slice(start, start + _BLOCK)
        found[some] = _hilbert(x[some].astype(np.int64), y[some].astype(np.int64), LEVELS)
    return found


def _hilbert(x: Integers, y: Integers, levels: int) -> Integers:
    key = np.zeros(len(x), np.int64)
    for level in reversed(range(levels)):
        right, lower = x >> level & 1, y >> level & 1
        key <<= 2
        key |= 3 * right ^ lower
        mirrored = -(right & ~lower & 1)
        x, y = x ^ mirrored, y ^ mirrored
        swapped = (x ^ y) & (lower - 1)
        x, y = x ^ swapped, y ^ swapped
    return key


def first_tile_id(zoom: int) -> int:
    """The id of the first tile of a zoom: how many tiles all zooms above have."""
    return ((1 << 2 * zoom) - 1) // 3


def tile_ids(zoom: int, x: Integers, y: Integers) -> Integers:
    """PMTiles ids of tiles."""
    return first_tile_id(zoom) + _hilbert(np.asarray(x, np.int64), np.asarray(y, np.int64), zoom)


def zoom_of(tile_id: int) -> int:
    """The zoom of a PMTiles id."""
    return (3 * tile_id + 1).bit_length() - 1 >> 1


def tiles(zoom: int, ids: Integers) -> tuple[Integers, Integers]:
    """Column and row of tiles of one zoom; undoes `tile_ids`."""
    key = np.asarray(ids, np.int64) - first_tile_id(zoom)
    x, y = np.zeros(len(key), np.int64), np.zeros(len(key), np.int64)
    for level in range(zoom):
        right = key >> 1 & 1
        lower = (key ^ right) & 1
        side = (1 << level) - 1
        swapped = (x ^ y) & (lower - 1)
        x, y = x ^ swapped, y ^ swapped
        mirrored = -(right & ~lower & 1) & side
        x, y = x ^ mirrored, y ^ mirrored
        x |= right << level
        y |= lower << level
        key = key >> 2
    return x, y
