"""The Overview: whether the studio is well, how fresh what it made is, what ran last and what wants attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Request, Response

from api.access import allow
from api.console.charts import Bar, bars
from api.console.rendering import render
from api.deps import DatabaseDep, LedgerDep, SettingsDep
from api.limits import limited
from stemma.access.principal import Principal
from stemma.approvals.catalog import list_approvals
from stemma.knowledge.catalog import SourceSummary, list_sources
from stemma.ledger.entries import Entry
from stemma.ledger.feed import Filter, count_by_day, list_entries, read_tails
from stemma.ledger.journal import HISTORIAN
from stemma.ledger.receipt_catalog import AssetFreshness, RunReceipts, newest_by_asset, newest_runs
from stemma.store.database import Connection
from stemma.telemetry.checks import check_all

router = APIRouter(route_class=limited("console"), include_in_schema=False)

_DAYS: Final = 30
_MOST_ALERTS: Final = 6
_MOST_RUNS: Final = 8
_MOST_PENDING: Final = 100
_ALERT_KINDS: Final = ("alert", "run.failed")


@dataclass(frozen=True, slots=True)
class History:
    """What the ledger tells of the last weeks."""

    entries: int
    assets: tuple[AssetFreshness, ...]
    runs: tuple[RunReceipts, ...]
    alerts: tuple[Entry, ...]
    days: tuple[Bar, ...]


@router.get("/")
def show(
    request: Request,
    principal: Annotated[Principal, allow(None, counted="console")],
    settings: SettingsDep,
    database: DatabaseDep,
    ledger: LedgerDep,
) -> Response:
    """Each part is shown to whoever may read it; what the database does not answer is left out."""
    checks = check_all(settings, database, ledger.status())
    sources: tuple[SourceSummary, ...] | None = None
    history: History | None = None
    pending: int | None = None
    if checks["database"].status == "ok":
        with database.snapshot() as connection:
            if principal.may("ingest:read"):
                sources = list_sources(connection)
            if principal.may("ledger:read"):
                history = _read_history(connection, datetime.now(UTC))
            if principal.may("approvals:read"):
                pending = len(list_approvals(connection, state="pending", limit=_MOST_PENDING).data)
    return render(
        request,
        "pages/overview.html",
        checks=checks,
        sources=sources,
        history=history,
        pending=pending,
        chart=bars(history.days, title=f"State transitions on each of the last {_DAYS} days") if history else None,
        next_steps=_next_steps(sources, history),
    )


def _read_history(connection: Connection, now: datetime) -> History:
    alerts = [
        entry
        for kind in _ALERT_KINDS
        for entry in list_entries(connection, HISTORIAN, Filter(kind=kind), limit=_MOST_ALERTS).data
    ]
    first = (now - timedelta(days=_DAYS - 1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return History(
        entries=sum(read_tails(connection).values()),
        assets=newest_by_asset(connection),
        runs=newest_runs(connection, _MOST_RUNS),
        alerts=tuple(sorted(alerts, key=lambda entry: entry.seq, reverse=True)[:_MOST_ALERTS]),
        days=_days(count_by_day(connection, HISTORIAN, first), first.date()),
    )


def _days(counts: Mapping[date, int], first: date) -> tuple[Bar, ...]:
    days = (first + timedelta(days=number) for number in range(_DAYS))
    return tuple(Bar(day.isoformat(), counts.get(day, 0)) for day in days)


def _next_steps(sources: tuple[SourceSummary, ...] | None, history: History | None) -> list[str]:
    """What is left to do in a new studio, as the names of what the template explains."""
    steps = []
    if sources is not None and not any(source.documents for source in sources):
        steps.append("documents")
    if history is not None and not history.assets:
        steps.append("materialize")
    return steps
