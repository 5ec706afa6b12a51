"""What is told of a built archive, zoom by zoom; counting belongs to who builds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ZoomFigures:
    """How a zoom shows the points: `exact` ones as themselves, `counted` ones in cells; `largest` tile in bytes."""

    zoom: int
    tiles: int
    exact: int
    counted: int
    largest: int
