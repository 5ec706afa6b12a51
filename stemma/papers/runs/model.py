"""What a run of a plan is: its states, its events, what it measured, and the limits of what it may leave."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, LiteralString
from uuid import UUID

CHANNEL: Final[LiteralString] = "stemma_paper_runs"
"""What the database notifies of each run's new events; the payload is the run's id."""

AT_ONCE: Final = 2
"""How many runs execute at the same time; the others wait."""

ARTIFACT_BYTES: Final = 5_000_000
"""The most that logs.txt and events.jsonl hold; the rest is dropped, with a warning (`E_ARTIFACT_TOO_LARGE`)."""

EVENTS: Final = ("stage_update", "log_line", "token", "progress", "metric_update", "sample_pred")
"""The types of events. A notebook may write them itself, as JSON lines with a `type`, to events.jsonl."""


class RunStatus(StrEnum):
    """Where a run stands; the last three are final."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing follows it."""
        return self in FINAL


FINAL: Final = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED})

LAST_STAGES: Final = {
    RunStatus.SUCCEEDED: "run_complete",
    RunStatus.FAILED: "run_error",
    RunStatus.CANCELLED: "run_cancelled",
}
"""The stage that a run's last event tells of, by how it ended."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it stands.

    `alternative` is the plan's alternative that was run; None: what the plan says first. `metrics` are those of the
    final state, as `Measured.document` writes them. `sandbox` is the level that was in force. `deterministic` says
    whether two executions with the same seed gave the same canonical output, whose SHA-256 is `output_sha256`; where it
    is False, `error_message` names the first cell that differs.
    """

    id: UUID
    plan_id: UUID
    paper_id: UUID
    alternative: str | None
    status: RunStatus
    env_hash: str | None
    sandbox: str | None
    job_id: UUID | None
    dagster_run_id: str | None
    output_sha256: str | None
    deterministic: bool | None
    metrics: list[dict[str, Any]] | None
    error_code: str | None
    error_message: str | None
    actor: str
    cancel_requested_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    @property
    def measured(self) -> tuple[Measured, ...]:
        """What it measured; empty until it has ended."""
        return tuple(Measured.from_document(entry) for entry in self.metrics or [])


@dataclass(frozen=True, slots=True)
class Measured:
    """The last value of a metric on a split, for each seed that was run, in the order of the plan's seeds."""

    metric: str
    split: str
    by_seed: tuple[tuple[int, float], ...]

    @property
    def value(self) -> float:
        """That of the first seed."""
        return self.by_seed[0][1]

    @property
    def values(self) -> tuple[float, ...]:
        """One for each seed."""
        return tuple(value for _, value in self.by_seed)

    def document(self) -> dict[str, Any]:
        """As `runs.metrics` and metrics.json keep it."""
        seeds = [{"seed": seed, "value": value} for seed, value in self.by_seed]
        return {"metric": self.metric, "split": self.split, "value": self.value, "seeds": seeds}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Measured:
        """Read one back."""
        seeds = tuple((int(entry["seed"]), float(entry["value"])) for entry in document["seeds"])
        return cls(str(document["metric"]), str(document["split"]), seeds)


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One thing that happened in a run. `seq` is its place among the run's events, from 1, without gaps.

    `payload` is text for `log_line` and `token`, an object for all other types.
    """

    seq: int
    type: str
    ts: datetime
    payload: Any

    @property
    def is_last(self) -> bool:
        """Whether no other follows."""
        return self.type == "stage_update" and self.payload.get("stage") in LAST_STAGES.values()


@dataclass(frozen=True, slots=True)
class SeriesPoint:
    """One value of a curve; `step` counts the points of its run from 1."""

    ts: datetime
    metric: str
    split: str
    value: float
    step: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that a run left under `runs/{run_id}/`; `truncated` where its tail was dropped."""

    name: str
    key: str
    size: int
    truncated: bool
