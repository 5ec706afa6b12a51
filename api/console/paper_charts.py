"""What the pages of papers draw as SVG: gaps around a zero line, shares of verdicts, curves of a run, two scores.

As in `charts`, here is only where the marks stand; the page shows the same figures beside each drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from markupsafe import Markup

from api.console.charts import Curve
from stemma.papers.kid.storyboard import Score
from stemma.papers.reports.model import Finding
from stemma.papers.reports.verdicts import Verdict

_WIDTH: Final = 240
_HEIGHT: Final = 24
_LEAST: Final = 2.0
_KINDS: Final = 4


def widest(findings: Sequence[Finding]) -> float:
    """The largest gap that is drawn, in percent, so that several drawings have one scale."""
    drawn = [abs(one.gap_percent) for one in findings if one.gap_percent is not None]
    ends = [abs(end) for one in findings if one.gap_interval for end in (one.gap_interval.low, one.gap_interval.high)]
    return max([*drawn, *ends], default=0.0)


def gap(found: Finding, scale: float) -> Markup:
    """A gap as a bar from the zero line, with the interval over seeds, where one is drawn from -`scale` to `scale`."""

    def at(percent: float) -> float:
        return _WIDTH / 2 * (1 + percent / (scale or 1.0) * 0.96)

    marks = Markup('<line class="zero" x1="{0}" x2="{0}" y1="0" y2="{1}"/>').format(_WIDTH / 2, _HEIGHT)
    if found.gap_percent is not None:
        left, right = sorted((at(0.0), at(found.gap_percent)))
        marks += Markup('<rect class="{}" x="{:.1f}" y="6" width="{:.1f}" height="12" rx="2"/>').format(
            found.verdict.value, min(left, _WIDTH / 2 - _LEAST / 2), max(right - left, _LEAST)
        )
    if found.gap_interval is not None:
        low, high = at(found.gap_interval.low), at(found.gap_interval.high)
        marks += Markup('<path class="span" d="M{0:.1f},7v10M{0:.1f},12H{1:.1f}M{1:.1f},7v10"/>').format(low, high)
    return Markup('<svg class="gap" viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true">{}</svg>').format(
        _WIDTH, _HEIGHT, marks
    )


def shares(counts: Sequence[tuple[Verdict, int]]) -> Markup:
    """How many targets have each verdict, as one bar in parts."""
    total = sum(count for _, count in counts) or 1
    starts = [0, *accumulate(count for _, count in counts)]
    marks = Markup("").join(
        Markup('<rect class="{}" x="{:.1f}" y="6" width="{:.1f}" height="12"/>').format(
            verdict.value, start / total * _WIDTH, count / total * _WIDTH
        )
        for start, (verdict, count) in zip(starts, counts, strict=False)
        if count
    )
    return Markup('<svg class="gap" viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true">{}</svg>').format(
        _WIDTH, _HEIGHT, marks
    )


def traces(drawn: Sequence[Curve], *, title: str, width: int = 560, height: int = 140) -> Markup:
    """A line for each curve on the same axes, from the lowest value to the highest; a single point is a dot."""
    xs, ys = ([point[axis] for curve in drawn for point in curve.points] for axis in (0, 1))
    left, low = min(xs, default=0.0), min(ys, default=0.0)
    across, up = (max(xs, default=1.0) - left) or 1.0, (max(ys, default=1.0) - low) or 1.0

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return 4 + (point[0] - left) / across * (width - 8), 4 + (1 - (point[1] - low) / up) * (height - 8)

    marks = Markup("").join(_trace(number, [at(point) for point in curve.points]) for number, curve in enumerate(drawn))
    return Markup('<svg class="traces" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, height, title, marks
    )


def _trace(number: int, points: Sequence[tuple[float, float]]) -> Markup:
    line = Markup('<polyline class="line-{}" points="{}"/>').format(
        number % _KINDS, " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    )
    dots = [Markup('<circle class="line-{}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(number % _KINDS, x, y)
            for x, y in points[-1:]]  # fmt: skip
    return line + Markup("").join(dots)


def scores(score: Score, *, title: str) -> Markup:
    """The paper's score beside ours, as high as they are; a negative one is as high as without its sign."""
    highest = max(abs(score.paper), abs(score.ours)) or 1.0
    marks = Markup("").join(
        Markup(
            '<rect class="{}" x="{}" y="{:.1f}" width="60" height="{:.1f}" rx="4"/>'
            '<text x="{}" y="{:.1f}">{}</text><text class="name" x="{}" y="196">{}</text>'
        ).format(kind, x, 170 - high, high, x + 30, 160 - high, said, x + 30, name)
        for kind, x, name, said, high in (
            ("paper", 60, "The paper", score.paper_said, max(abs(score.paper) / highest * 130, _LEAST)),
            ("ours", 180, "Our test", score.ours_said, max(abs(score.ours) / highest * 130, _LEAST)),
        )
    )
    return Markup(
        '<svg class="picture scores" viewBox="0 0 300 200" role="img" aria-label="{}">{}'
        '<path class="ground" d="M30,170h240"/></svg>'
    ).format(title, marks)
