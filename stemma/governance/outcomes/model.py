"""What an outcome is: as it is observed, and as it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

Metric = bool | float | str | list[float] | list[str]


@dataclass(frozen=True, slots=True)
class NewOutcome:
    """What was observed of a decision. Metrics that are known already are replaced, others are kept."""

    decision_id: UUID
    metrics: Mapping[str, Metric]
    observed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of what came of a decision.

    `success` is what its node's reward makes of the metrics, None for neither. `counted` says whether it stands in the
    statistics of the variant: its decision took effect as drawn. `revision` counts how often it was told anew.
    """

    decision_id: UUID
    metrics: Mapping[str, Metric]
    success: bool | None
    counted: bool
    observed_at: datetime
    revision: int
    updated_at: datetime
    updated_by: str
