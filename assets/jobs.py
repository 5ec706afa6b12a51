"""Named selections of assets and ops that sensors, schedules and jobs start, and that a person can launch in the
Dagster UI.

A kind of job (`stemma.jobs.kinds`) is carried out by the Dagster job that has its name here.
"""

import time

import dagster as dg

from assets import agents, costs, governance, knowledge, maps, paper_reports, paper_runs, papers, telemetry
from stemma.jobs import kinds

knowledge_refresh = dg.define_asset_job(
    "knowledge_refresh",
    selection=dg.AssetSelection.groups("knowledge"),
    description="Read one source, then bring its chunks, its embeddings and the search index up to date",
)

governance_days = dg.define_asset_job(
    "governance_days",
    selection=dg.AssetSelection.groups("governance"),
    description="All that is remembered of some days",
)

usage_days = dg.define_asset_job(
    "usage_days",
    selection=dg.AssetSelection.assets(
        costs.costs_daily, telemetry.telemetry_latency, telemetry.telemetry_error_budget, telemetry.telemetry_health
    ),
    description="What calls to models cost and how they and the services did, on some days",
)
usage_weeks = dg.define_asset_job(
    "usage_weeks",
    selection=dg.AssetSelection.assets(costs.costs_weekly),
    description="What calls to models cost in some weeks",
)


@dg.op
def pause(context: dg.OpExecutionContext) -> None:
    """Wait as long as the job says, and write its line."""
    from stemma.jobs import running

    job = running.current()
    if job is None:
        context.log.info("There is no job; nothing was done.")
        return
    given = kinds.Pause.model_validate(job.job.input)
    time.sleep(given.seconds)
    job.log(given.message)


@dg.job(name=kinds.find("noop").dagster_job, description=kinds.find("noop").description)
def noop() -> None:
    """One op that does nothing."""
    pause()


_MADE = {
    "convert": [knowledge.documents],
    "embed": [knowledge.chunks, knowledge.embeddings],
    "search-index": [knowledge.search_index],
    "map:build": [maps.features, maps.tiles],
    "agents:distil": [agents.semantic_memory],
    "paper:pages": [papers.pages],
    "paper:extract": [papers.claims],
    "paper:plan": [papers.plan],
    "paper:report": [paper_reports.gap_report, paper_reports.papers_leaderboard],
    "paper:materialize": [papers.pages, papers.claims, papers.plan],
    "paper:run": [paper_runs.run],
    "governance:aggregate": [governance.entity_features, governance.decision_embeddings],
    "governance:distil": [
        governance.knowledge_snapshots,
        governance.governance_scorecards,
        governance.governance_drift,
    ],
}

# Of these, no more run at once than the instance says.
_TAGS = {"paper:run": {"stemma/workload": "notebook"}}

_BY_KIND = {
    name: dg.define_asset_job(
        kinds.find(name).dagster_job,
        selection=dg.AssetSelection.assets(*made),
        description=kinds.find(name).description,
        tags=_TAGS.get(name),
    )
    for name, made in _MADE.items()
}
map_build, agents_distil = _BY_KIND["map:build"], _BY_KIND["agents:distil"]
paper_materialize = _BY_KIND["paper:materialize"]
governance_aggregate, governance_distil = (_BY_KIND[name] for name in ("governance:aggregate", "governance:distil"))

KIND_JOBS = [noop, *_BY_KIND.values()]
