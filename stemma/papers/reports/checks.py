"""Whether what is said of papers holds: worked out anew from plain rows, apart from what made it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from stemma.papers.reports.model import Finding, Report
from stemma.papers.runs import catalog as runs
from stemma.store.database import Connection

_NEAR: Final = 1e-9


def differences(connection: Connection, report: Report) -> list[str]:
    """What of a report does not follow from the claims and the run that it names."""
    claims = dict(
        connection.execute("SELECT id, value FROM p2n.claims WHERE paper_id = %s", (report.paper_id,)).fetchall()
    )
    measured = {(one.metric, one.split): one.values for one in runs.get_run(connection, report.run_id).measured}
    found = []
    for finding in report.findings:
        values = measured.get((finding.metric, finding.split), ())
        found += [f"{finding.label}: {what}" for what in _wrong(finding, claims.get(finding.claim), values)]
    if (report.claimed, report.observed) != (report.findings[0].claimed, report.findings[0].observed):
        found.append("The report as a whole is not that of its first target.")
    return found


def _wrong(finding: Finding, claimed: float | None, values: tuple[float, ...]) -> list[str]:
    found = []
    if claimed is not None and claimed != finding.claimed:
        found.append(f"the paper claims {claimed:g}, not {finding.claimed:g}")
    if finding.observed is None:
        return found
    mean = sum(values) / len(values) if values else None
    if mean is None or abs(mean - finding.observed) > _NEAR * max(1.0, abs(mean)):
        found.append(f"the run measured {mean}, not {finding.observed:g}")
    gap = (finding.observed - finding.claimed) / max(abs(finding.claimed), 1e-9) * 100
    if finding.gap_percent is None or abs(gap - finding.gap_percent) > _NEAR * max(1.0, abs(gap)):
        found.append(f"the gap is {gap:g} %, not {finding.gap_percent} %")
    return found


def missing_from(leaderboard: bytes, reports: Iterable[Report]) -> list[str]:
    """Which papers are not where they belong on a leaderboard, as it is written."""
    listed = {entry["paper_id"]: entry for entry in json.loads(leaderboard)}
    wanted = {str(report.paper_id): report for report in reports}
    found = [f"{paper} is not there" for paper in wanted.keys() - listed.keys()]
    found += [f"{paper} has no report" for paper in listed.keys() - wanted.keys()]
    for paper in wanted.keys() & listed.keys():
        counts = wanted[paper].reproduced, len(wanted[paper].findings)
        if (listed[paper]["reproduced"], listed[paper]["targets"]) != counts:
            found.append(f"{paper} has {counts[0]} of {counts[1]} reproduced")
    return found
