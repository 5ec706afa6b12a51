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


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure of a bar chart."""

    label: str
    value: float


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


def _height(value: float, highest: float, height: int) -> float:
    return max(value / highest * height, _LEAST)
