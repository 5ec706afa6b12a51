"""Everything Dagster sees, assembled in one function; nothing else builds a `Definitions`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets import (
    agents,
    agents_checks,
    costs,
    costs_checks,
    governance,
    governance_checks,
    knowledge,
    knowledge_checks,
    maps,
    maps_checks,
    paper_reports,
    paper_reports_checks,
    paper_runs,
    papers,
    papers_checks,
    telemetry,
)
from assets.job_runs import claiming_in_process
from assets.jobs import KIND_JOBS, governance_days, knowledge_refresh, usage_days, usage_weeks
from resources.browser import BrowserResource
from resources.progress import ProgressLog
from resources.store import StoreResource
from schedules.agents import distil_memory
from schedules.governance import aggregate_day, distil_day
from schedules.knowledge import reread_sources
from schedules.telemetry import usage_day, usage_week
from sensors.approvals import approvals
from sensors.automation import automation
from sensors.decisions import decisions
from sensors.governance import late_days
from sensors.jobs import jobs_cancelled, jobs_done, jobs_failed, jobs_lost, jobs_waiting
from sensors.journal import failed_runs
from sensors.knowledge import inbox
from sensors.learning import learning
from sensors.maps import map_sources
from sensors.notify import notify
from sensors.paper_runs import paper_runs_lost
from sensors.papers import papers_taken_in
from sensors.receipts import receipts
from sensors.telemetry import alerts


def build_defs(resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """The asset graph with its checks, jobs, sensors and schedules; tests and the command line swap resources."""
    resources: dict[str, Any] = {"store": StoreResource(), "progress": ProgressLog(), "browser": BrowserResource()}
    return dg.Definitions(
        assets=dg.load_assets_from_modules(
            [agents, costs, knowledge, governance, maps, papers, paper_runs, paper_reports, telemetry]
        ),
        asset_checks=dg.load_asset_checks_from_modules(
            [
                agents_checks,
                costs_checks,
                knowledge_checks,
                governance_checks,
                maps_checks,
                papers_checks,
                paper_reports_checks,
            ]
        ),
        jobs=[knowledge_refresh, governance_days, usage_days, usage_weeks, *KIND_JOBS],
        sensors=[
            inbox,
            map_sources,
            papers_taken_in,
            late_days,
            alerts,
            approvals,
            decisions,
            receipts,
            failed_runs,
            learning,
            notify,
            paper_runs_lost,
            automation,
            jobs_waiting,
            jobs_lost,
            jobs_done,
            jobs_failed,
            jobs_cancelled,
        ],
        schedules=[reread_sources, aggregate_day, distil_day, distil_memory, usage_day, usage_week],
        resources={**resources, **(resource_overrides or {})},
        executor=claiming_in_process,
    )


defs = build_defs()
