"""What a run is: its state, its steps, what it made and checked, and the events that tell of it.

Times are aware and in UTC. What a run logged may hold anything: `Event.message` is redacted where it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal
from uuid import UUID

from stemma.jobs.model import JOB_TAG
from stemma.ledger.receipts import subject
from stemma.redaction import redact

ACTOR_TAG: Final = "stemma/actor"

_LONGEST_LINE: Final = 4000
_STARTED_BY: Final = (
    ("dagster/schedule_name", "schedule"),
    ("dagster/sensor_name", "sensor"),
    ("dagster/backfill", "backfill"),
)

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
StepState = Literal["running", "done", "failed", "skipped"]

LEVELS: Final[tuple[Level, ...]] = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
"""From the least to the most urgent."""


class RunState(StrEnum):
    """Where a run stands; the last three are final."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing follows it."""
        return self in (RunState.DONE, RunState.FAILED, RunState.CANCELLED)


def actor_of(tags: Mapping[str, str]) -> str:
    """For whom a run with these tags is: who said so, else what started it. Dagster's own page knows no users."""
    if ACTOR_TAG in tags:
        return tags[ACTOR_TAG]
    if "user" in tags:
        return f"user:{tags['user']}"
    return next((f"{kind}:{tags[tag]}" for tag, kind in _STARTED_BY if tag in tags), "dagster")


@dataclass(frozen=True, slots=True)
class Run:
    """A run as Dagster keeps it; `job_name` is the Dagster job's, `assets` what it was asked to make, if assets."""

    id: str
    job_name: str
    state: RunState
    tags: Mapping[str, str]
    assets: tuple[str, ...]
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def title(self) -> str:
        """What it does, in words: Dagster's own names for runs of assets say nothing."""
        if self.job_name.startswith("__"):
            return f"Materialization of {self.assets[0]}" if len(self.assets) == 1 else "Materialization"
        return self.job_name.removeprefix("job_").replace("_", " ")

    @property
    def actor(self) -> str:
        """For whom it is."""
        return actor_of(self.tags)

    @property
    def job_id(self) -> UUID | None:
        """The job that it is for."""
        given = self.tags.get(JOB_TAG, "")
        try:
            return UUID(given)
        except ValueError:
            return None

    def seconds(self, now: datetime) -> float | None:
        """How long it has run; None before it started."""
        return None if self.started_at is None else ((self.ended_at or now) - self.started_at).total_seconds()


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was begun; `attempts` counts how often."""

    key: str
    state: StepState
    started_at: datetime | None
    ended_at: datetime | None
    attempts: int


@dataclass(frozen=True, slots=True)
class Made:
    """A materialization with the figures of its metadata, by their names."""

    asset: str
    partition: str | None
    step: str | None
    at: datetime
    figures: Mapping[str, float]

    @property
    def subject(self) -> str:
        """What was materialized."""
        return subject(self.asset, self.partition)


@dataclass(frozen=True, slots=True)
class Check:
    """What a check of an asset found."""

    name: str
    asset: str
    partition: str | None
    step: str | None
    at: datetime
    passed: bool
    blocking: bool
    description: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a run's log. `seq` is its place in the log, from 1."""

    seq: int
    at: datetime
    level: Level
    kind: str
    step: str | None
    unredacted: str
    check: Check | None = None

    @property
    def message(self) -> str:
        """What it says; redacted and cut."""
        return redact(self.unredacted[:_LONGEST_LINE]).text

    def is_at_least(self, level: Level) -> bool:
        """Whether it is as urgent as this level, or more."""
        return LEVELS.index(self.level) >= LEVELS.index(level)


@dataclass(frozen=True, slots=True)
class Log:
    """A part of a run's log; `position` is the seq to go on after, `more` says that there is something already."""

    events: tuple[Event, ...]
    position: int
    more: bool
    state: RunState


@dataclass(frozen=True, slots=True)
class RunDetail:
    """A run with its steps, what it made, and the first events of its log."""

    run: Run
    enqueued_at: datetime | None
    launched_at: datetime | None
    steps: tuple[Step, ...]
    made: tuple[Made, ...]
    log: Log

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks that those events tell of."""
        return tuple(event.check for event in self.log.events if event.check is not None)
