"""One module per page or family of pages; each has a `router` that is listed here."""

from typing import Final

from fastapi import APIRouter

from api.console.pages import (
    agents,
    approvals,
    costs,
    decisions,
    events,
    godmode,
    historian,
    jobs,
    keys,
    learning,
    ledger,
    maps,
    overview,
    paper_claims,
    paper_runs,
    papers,
    policies,
    policy_editor,
    preferences,
    receipts,
    replay,
    runs,
    search,
    switches,
)

ROUTERS: Final[tuple[APIRouter, ...]] = (
    overview.router,
    search.router,
    agents.router,
    jobs.router,
    runs.router,
    costs.router,
    paper_runs.router,
    paper_claims.router,
    papers.router,
    decisions.router,
    events.router,
    policy_editor.router,
    policies.router,
    learning.router,
    replay.router,
    switches.router,
    maps.router,
    approvals.router,
    historian.router,
    receipts.router,
    ledger.router,
    keys.router,
    godmode.router,
    preferences.router,
)
