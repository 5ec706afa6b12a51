"""A report from a plan and its runs: a pure function. Keeping it is the business of `publishing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from stemma.papers.model import Paper, Plan
from stemma.papers.plan import PlanDocument, Target, parse_plan
from stemma.papers.reports.model import Attempt, Citation, Finding, Report, RunFile
from stemma.papers.reports.verdicts import Claimed, Verdict, judge
from stemma.papers.runs.model import Artifact, Run, RunStatus


def build(paper: Paper, plan: Plan, run: Run, tried: Mapping[str, Run], files: Sequence[Artifact]) -> Report:
    """The report of a paper.

    `run` is the one of what the plan says first; `tried` are those of its alternatives, by their names, of which only
    those count that measure a target with a gap. `files` are what `run` left.
    """
    document = parse_plan(plan.document)
    findings = tuple(_finding(document, target, run) for target in document.targets)
    gaps = {finding.metric for finding in findings if finding.has_gap}
    attempts = tuple(
        _attempt(document, one.name, gaps, tried.get(one.name))
        for one in document.alternatives
        if gaps.intersection(one.targets)
    )
    first = findings[0]
    return Report(
        paper_id=paper.id,
        title=paper.title,
        kind=paper.kind,
        plan_id=plan.id,
        plan_version=plan.version,
        run_id=run.id,
        completed_at=run.completed_at,
        sandbox=run.sandbox,
        env_hash=run.env_hash,
        output_sha256=run.output_sha256,
        deterministic=run.deterministic,
        claimed=first.claimed,
        observed=first.observed,
        gap_percent=first.gap_percent,
        verdict=first.verdict,
        reason=first.reason,
        findings=findings,
        attempts=attempts,
        artifacts=tuple(RunFile(**asdict(file)) for file in files),
    )


def _attempt(document: PlanDocument, name: str, gaps: set[str], run: Run | None) -> Attempt:
    succeeded = run is not None and run.status is RunStatus.SUCCEEDED
    measured = [target for target in document.measured_by(name) if target.metric in gaps] if succeeded else []
    findings = tuple(_finding(document, target, run) for target in measured if run is not None)
    return Attempt(
        name=name,
        description=document.alternative(name).description,
        targets=tuple(one.metric for one in document.measured_by(name) if one.metric in gaps),
        run_id=run.id if run else None,
        status=run.status.value if run else "not_run",
        error=run.error_message if run and run.status is RunStatus.FAILED else None,
        findings=findings,
        closes=tuple(one.metric for one in findings if one.verdict is Verdict.REPRODUCED),
    )


def _finding(document: PlanDocument, target: Target, run: Run) -> Finding:
    claimed = Claimed(target.claimed, target.decimals, target.tolerance)
    values = _values(run, target)
    found = judge(
        claimed,
        values,
        seeded=document.stochastic,
        repeatable=run.deterministic is not False,
        substituted=document.method.substitution,
    )
    return Finding(
        claim=target.claim,
        metric=target.metric,
        split=target.split,
        label=target.label,
        unit=target.unit,
        printed=target.printed,
        claimed=target.claimed,
        observed=found.observed,
        observed_printed=None if found.observed is None else claimed.printed_like(found.observed),
        gap_percent=found.gap_percent,
        seeds=len(values),
        interval=found.interval,
        gap_interval=found.gap_interval,
        verdict=found.verdict,
        reason=found.reason,
        citation=Citation(page=target.page, box=target.box, quote=target.quote),
    )


def _values(run: Run, target: Target) -> tuple[float, ...]:
    for measured in run.measured:
        if (measured.metric, measured.split) == (target.metric, target.split):
            return measured.values
    return ()
