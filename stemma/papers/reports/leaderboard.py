"""The leaderboard: which papers' claims are reproduced, by the newest report of each."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from stemma.ledger.entries import canonical
from stemma.papers.model import PaperKind
from stemma.papers.reports.catalog import newest_reports
from stemma.papers.reports.model import Report
from stemma.papers.reports.verdicts import Verdict
from stemma.store.database import Connection

FILE: Final = "papers/leaderboard.json"


class Standing(BaseModel):
    """How one paper stands. Papers with the same figures share a place."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    place: int = Field(ge=1)
    paper_id: UUID
    title: str
    kind: PaperKind
    verdict: Verdict = Field(description="Of the plan's first target")
    targets: int = Field(description="How many there are")
    reproduced: int
    not_reproduced: int
    inconclusive: int
    closed: int = Field(description="How many gaps an alternative of the plan closes")
    gap_percent: float | None = Field(description="Of the plan's first target")
    widest_gap_percent: float | None = Field(description="The largest of all targets, without its sign")
    run_id: UUID
    completed_at: datetime | None


def rank(reports: Iterable[Report]) -> tuple[Standing, ...]:
    """The papers, those first of which the larger share is reproduced, then those whose widest gap is smaller."""
    ordered = sorted(reports, key=lambda report: (*_merit(report), report.title, str(report.paper_id)))
    standings: list[Standing] = []
    before = None
    for number, report in enumerate(ordered, 1):
        place = standings[-1].place if standings and _merit(report) == before else number
        before = _merit(report)
        standings.append(_standing(place, report))
    return tuple(standings)


def read_leaderboard(connection: Connection) -> tuple[Standing, ...]:
    """The leaderboard as it is now."""
    return rank(kept.report for kept in newest_reports(connection))


def leaderboard_bytes(standings: Iterable[Standing]) -> bytes:
    """The file of it: RFC 8785, so that the same standings are the same bytes."""
    return canonical([standing.model_dump(mode="json") for standing in standings])


def _standing(place: int, report: Report) -> Standing:
    verdicts = [finding.verdict for finding in report.findings]
    return Standing(
        place=place,
        paper_id=report.paper_id,
        title=report.title,
        kind=report.kind,
        verdict=report.verdict,
        targets=len(verdicts),
        reproduced=report.reproduced,
        not_reproduced=verdicts.count(Verdict.NOT_REPRODUCED),
        inconclusive=verdicts.count(Verdict.INCONCLUSIVE),
        closed=sum(report.closed_by(finding.metric) is not None for finding in report.gaps),
        gap_percent=report.gap_percent,
        widest_gap_percent=_widest(report),
        run_id=report.run_id,
        completed_at=report.completed_at,
    )


def _merit(report: Report) -> tuple[float, float]:
    widest = _widest(report)
    return -report.reproduced / len(report.findings), float("inf") if widest is None else widest


def _widest(report: Report) -> float | None:
    return max((abs(one.gap_percent) for one in report.findings if one.gap_percent is not None), default=None)
