"""What a report says: of each target of a plan what was claimed and observed, and which alternative closes a gap."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from stemma.papers.model import Box, PaperKind
from stemma.papers.reports.verdicts import Interval, Verdict

AttemptStatus = Literal["not_run", "pending", "running", "succeeded", "failed", "cancelled"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Citation(_Part):
    """Where the paper says it."""

    page: int = Field(description="From 1", examples=[2])
    box: Box = Field(description="Left, top, right, bottom in points from the top left corner of the page")
    quote: str = Field(description="The line that it stands in, verbatim")


class Finding(_Part):
    """One target: what the paper claims of it, what was observed, and what is to be said of that."""

    claim: UUID = Field(description="Id of the claim")
    metric: str = Field(description="How the run reported it", examples=["accuracy_lda"])
    split: str = Field(examples=["leave-one-out"])
    label: str = Field(examples=["LDA, LOO accuracy"])
    unit: str | None = Field(examples=["%"])
    printed: str = Field(description="The value as the page has it", examples=["98.9"])
    claimed: float = Field(examples=[98.9])
    observed: float | None = Field(description="The mean over seeds; null where it was not measured")
    observed_printed: str | None = Field(description="The same, as the page would print it", examples=["98.9"])
    gap_percent: float | None = Field(description="(observed - claimed) / max(|claimed|, 1e-9) * 100")
    seeds: int = Field(description="How many values there are")
    interval: Interval | None = Field(description="Where one more seed would lie, 95 % of the time")
    gap_interval: Interval | None = Field(description="The same of the gap, in percent")
    verdict: Verdict
    reason: str
    citation: Citation

    @property
    def has_gap(self) -> bool:
        """Whether it was measured and is not what the paper claims."""
        return self.verdict is not Verdict.REPRODUCED and self.observed is not None


class Attempt(_Part):
    """An alternative of the plan that was named for a gap, and what came of it."""

    name: str
    description: str
    targets: tuple[str, ...] = Field(description="The metrics with a gap that it measures")
    run_id: UUID | None
    status: AttemptStatus
    error: str | None = Field(description="Why it failed")
    findings: tuple[Finding, ...]
    closes: tuple[str, ...] = Field(description="The metrics whose gap is none with it")


class RunFile(_Part):
    """A file that the run left."""

    name: str = Field(examples=["metrics.json"])
    key: str = Field(description="Its key in the file store")
    size: int = Field(description="Bytes")
    truncated: bool = Field(description="Its tail was dropped (E_ARTIFACT_TOO_LARGE)")


class Report(_Part):
    """A paper's report. What it says as a whole is said of the plan's first target."""

    schema_version: Literal[1] = 1
    paper_id: UUID
    title: str
    kind: PaperKind
    plan_id: UUID
    plan_version: int
    run_id: UUID
    completed_at: datetime | None = Field(description="When the run ended")
    sandbox: str | None = Field(description="The level that was in force")
    env_hash: str | None
    output_sha256: str | None = Field(description="Of what both executions gave")
    deterministic: bool | None
    claimed: float
    observed: float | None
    gap_percent: float | None
    verdict: Verdict
    reason: str
    findings: tuple[Finding, ...]
    attempts: tuple[Attempt, ...]
    artifacts: tuple[RunFile, ...]

    @property
    def reproduced(self) -> int:
        """How many targets are."""
        return sum(finding.verdict is Verdict.REPRODUCED for finding in self.findings)

    @property
    def gaps(self) -> tuple[Finding, ...]:
        """The targets with one."""
        return tuple(finding for finding in self.findings if finding.has_gap)

    @property
    def to_try(self) -> tuple[str, ...]:
        """The alternatives that were not run and are named for a gap that none closes yet."""
        unclosed = {finding.metric for finding in self.gaps if self.closed_by(finding.metric) is None}
        open_ones = (one for one in self.attempts if one.status == "not_run" and unclosed.intersection(one.targets))
        return tuple(attempt.name for attempt in open_ones)

    @property
    def is_open(self) -> bool:
        """Whether an alternative that may close a gap has not ended, or not begun."""
        return bool(self.to_try) or any(one.status in ("pending", "running") for one in self.attempts)

    def closed_by(self, metric: str) -> str | None:
        """The first alternative that leaves no gap of a metric."""
        return next((attempt.name for attempt in self.attempts if metric in attempt.closes), None)

    @property
    def citations(self) -> Sequence[Citation]:
        """Where the paper says what its targets are."""
        return [finding.citation for finding in self.findings]
