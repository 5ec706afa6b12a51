"""Charts as SVG that the server draws; the page shows a table with the same figures beside each.

Here is only where the marks stand; colours come from the style sheets, by class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

_GAP: Final = 3.0
_LEAST: Final = 2.0
_KINDS: Final = 4


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure of a bar chart."""

    label: str
    value: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a chart, by its points from left to right."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two figures to be compared, such as the same share before and now."""

    label: str
    before: float
    after: float


def bars(figures: Sequence[Bar], *, title: str, width: int = 560, height: int = 96) -> Markup:
    """A bar for each figure, from the left; a zero is drawn as a hairline. `title` says what is shown to whoever
    cannot see it. The drawing takes the width of its place.
    """
    highest = max((figure.value for figure in figures), default=0.0) or 1.0
    step = width / max(len(figures), 1)
    marks = Markup("").join(
        Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="2"/>').format(
            "bar" if figure.value else "bar none",
            place * step + _GAP / 2,
            height - _height(figure.value, highest, height),
            max(step - _GAP, 1.0),
            _height(figure.value, highest, height),
        )
        for place, figure in enumerate(figures)
    )
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(width, height, title, marks)


def curves(drawn: Sequence[Curve], *, title: str, width: int = 560, height: int = 140) -> Markup:
    """A filled line for each curve, on the same axes, which end with their points; told apart by the class `line-N`."""
    xs, ys = ([point[axis] for curve in drawn for point in curve.points] for axis in (0, 1))
    left, right, highest = min(xs, default=0.0), max(xs, default=1.0), max(ys, default=0.0) or 1.0
    across = (right - left) or 1.0

    def at(point: tuple[float, float]) -> str:
        return f"{(point[0] - left) / across * width:.1f},{height - point[1] / highest * (height - _GAP):.1f}"

    lines = Markup("").join(
        Markup('<path class="line-{}" d="M0,{} L{} L{},{}"/>').format(
            number % _KINDS, height, " ".join(at(point) for point in curve.points), width, height
        )
        for number, curve in enumerate(drawn)
    )
    return Markup(
        '<svg class="chart curves" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(width, height, title, lines)


def pairs(figures: Sequence[Pair], *, title: str, width: int = 560, height: int = 72) -> Markup:
    """Two bars for each pair, side by side, the first of them pale."""
    highest = max((max(figure.before, figure.after) for figure in figures), default=0.0) or 1.0
    step = width / max(len(figures), 1)
    bar = max((step - 2 * _GAP) / 2, 1.0)
    marks = Markup("").join(
        Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="2"/>').format(
            name,
            place * step + _GAP + number * bar,
            height - _height(value, highest, height),
            bar,
            _height(value, highest, height),
        )
        for place, figure in enumerate(figures)
        for number, (name, value) in enumerate((("before", figure.before), ("bar", figure.after)))
    )
    return Markup(
        '<svg class="chart small" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(width, height, title, marks)


def _height(value: float, highest: float, height: int) -> float:
    return max(value / highest * height, _LEAST)
