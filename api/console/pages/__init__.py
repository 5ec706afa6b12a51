"""One module per page or family of pages; each has a `router` that is listed here."""

from typing import Final

from fastapi import APIRouter

from api.console.pages import (
    approvals,
    decisions,
    events,
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
    jobs.router,
    runs.router,
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
    preferences.router,
)
