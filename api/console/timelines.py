"""A run's timeline as SVG that the server draws, one drawing per row of a table, and its moments for a table beside it.

Here is only where the marks stand, in percent of the drawing's width, so that it fits any screen; colours come from
the style sheets, by class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from markupsafe import Markup

from stemma.runs.model import RunDetail, Step

_LEAST_SPAN: Final = timedelta(milliseconds=1)
_MARKS: Final = {"made": "◆", "passed": "✓", "missed": "✕"}


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of time; `tone` is its class."""

    start: datetime
    end: datetime
    tone: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of a row: `made`, `passed` or `missed`."""

    at: datetime
    kind: str
    label: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its name, a note beside it, its state, its bars and marks, and how long it took."""

    name: str
    note: str
    state: str
    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...] = ()
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment of a run, in words."""

    at: datetime
    what: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """The rows of a run between two times. `waited_before` says that it waited longer than is drawn."""

    start: datetime
    end: datetime
    rows: tuple[Row, ...]
    moments: tuple[Moment, ...]
    waited_before: bool = False
    _ticks: tuple[float, ...] = field(default=(0.0, 0.25, 0.5, 0.75, 1.0))

    def draw(self, row: Row) -> Markup:
        """The drawing of one row."""
        bars = Markup("").join(
            Markup('<line class="{}" x1="{:.2f}%" x2="{:.2f}%" y1="50%" y2="50%"/>').format(
                one.tone, self._place(one.start), self._place(one.end)
            )
            for one in row.bars
        )
        marks = Markup("").join(
            Markup('<text class="{}" x="{:.2f}%" y="{}">{}<title>{}</title></text>').format(
                one.kind, self._place(one.at), "50%" if one.kind == "made" else "18%", _MARKS[one.kind], one.label
            )
            for one in row.marks
        )
        grid = Markup("").join(
            Markup('<line class="tick" x1="{0:.0f}%" x2="{0:.0f}%" y1="0" y2="100%"/>').format(tick * 100)
            for tick in self._ticks
        )
        return Markup('<svg class="gantt" height="28" aria-hidden="true">{}{}{}</svg>').format(grid, bars, marks)

    def axis(self) -> list[tuple[float, float]]:
        """Where the ticks stand, from 0 to 1, and how many seconds after the run was asked for."""
        span = (self.end - self.start).total_seconds()
        before = (self.start - self.moments[0].at).total_seconds() if self.moments else 0.0
        return [(tick, before + tick * span) for tick in self._ticks]

    def _place(self, at: datetime) -> float:
        # The ends of bars are round and stand out a little.
        return 1 + 98 * min(1.0, max(0.0, (at - self.start) / (self.end - self.start)))


def of_run(detail: RunDetail, now: datetime) -> Timeline:
    """The timeline of a run, until now where it has not ended."""
    run = detail.run
    end = max(run.ended_at or now, run.created_at + _LEAST_SPAN)
    start = run.created_at
    waited_before = False
    if run.started_at is not None:
        ran = max(end - run.started_at, _LEAST_SPAN)
        waited_before = run.started_at - start > 2 * ran
        start = run.started_at - ran / 4 if waited_before else start
    rows = [_waiting(detail, end), *(_step(detail, step, end) for step in detail.steps)]
    return Timeline(start, end, tuple(rows), tuple(sorted(_moments(detail), key=lambda one: one.at)), waited_before)


def _waiting(detail: RunDetail, end: datetime) -> Row:
    run = detail.run
    until = run.started_at or end
    launched = min(detail.launched_at or until, until)
    bars = (Bar(run.created_at, launched, "queued"), Bar(launched, until, "starting"))
    state = run.state.value if run.started_at is None else "done"
    steps = [step.key for step in detail.steps]
    # What no step of the list tells of, such as a check that was evaluated on its own.
    return Row(
        "Waiting",
        "",
        state,
        bars,
        _marks(detail, None, steps),
        (until - run.created_at).total_seconds(),
    )


def _step(detail: RunDetail, step: Step, end: datetime) -> Row:
    started = step.started_at or end
    ended = step.ended_at or end
    note = f"{step.attempts} attempts" if step.attempts > 1 else ""
    took = (ended - started).total_seconds() if step.started_at else None
    return Row(step.key, note, step.state, (Bar(started, ended, step.state),), _marks(detail, step.key, ()), took)


def _marks(detail: RunDetail, step: str | None, others: Sequence[str]) -> tuple[Mark, ...]:
    def here(key: str | None) -> bool:
        return key == step if step is not None else key not in others

    made = [Mark(one.at, "made", f"Materialized {one.subject}") for one in detail.made if here(one.step)]
    checks = [
        Mark(one.at, "passed" if one.passed else "missed", f"{'Passed' if one.passed else 'Failed'}: {one.name}")
        for one in detail.checks
        if here(one.step)
    ]
    return (*made, *checks)


def _moments(detail: RunDetail) -> list[Moment]:
    run = detail.run
    found = [Moment(run.created_at, "Asked for")]
    known = (
        (detail.enqueued_at, "Queued"),
        (detail.launched_at, "Launched"),
        (run.started_at, "Started"),
        (run.ended_at, {"done": "Ended well", "failed": "Failed"}.get(run.state.value, "Ended")),
    )
    found += [Moment(at, what) for at, what in known if at is not None]
    for step in detail.steps:
        found += [Moment(step.started_at, "Step started", step.key)] if step.started_at else []
        found += [Moment(step.ended_at, f"Step {step.state}", step.key)] if step.ended_at else []
    found += [Moment(one.at, "Materialized", one.subject) for one in detail.made]
    found += [
        Moment(one.at, "Check passed" if one.passed else "Check failed", f"{one.name} of {one.asset}")
        for one in detail.checks
    ]
    return found
