"""How the studio stands, in figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from stemma.agents.tools.model import Arguments, Found, Tool, Use

if TYPE_CHECKING:
    from stemma.store.database import Connection

_DAYS: Final = 14


class Figures(StrEnum):
    """What can be asked for."""

    HEALTH = "health"
    JOBS = "jobs"
    ASSETS = "assets"
    COSTS = "costs"


class Which(Arguments):
    """Which figures."""

    of: Figures = Field(
        description="health: how each service stands; jobs: how many by kind and state; assets: how fresh each is; "
        "costs: what calls to models cost on each of the last days, in US dollars"
    )


def _health(connection: Connection) -> list[dict[str, Any]]:
    from stemma.telemetry.health import latest

    return [
        {
            "service": seen.name,
            "status": seen.status,
            "latency_p95_seconds": seen.latency_p95,
            "error_rate": seen.error_rate,
            "seen_at": seen.ts,
        }
        for seen in latest(connection)
    ]


def _jobs(connection: Connection) -> list[dict[str, Any]]:
    from stemma.jobs.catalog import count_by_kind_and_state

    counted = sorted(count_by_kind_and_state(connection).items())
    return [{"kind": kind, "state": state, "jobs": jobs} for (kind, state), jobs in counted]


def _assets(connection: Connection) -> list[dict[str, Any]]:
    from stemma.ledger.receipt_catalog import newest_by_asset

    return [
        {
            "asset": found.newest.asset,
            "partitions": found.partitions,
            "materialized_at": found.newest.materialized_at,
            "data_version": found.newest.data_version,
        }
        for found in newest_by_asset(connection)
    ]


def _costs(connection: Connection) -> list[dict[str, Any]]:
    from stemma.telemetry import costs

    return [
        {
            "day": day.day,
            "calls": day.calls,
            "errors": day.errors,
            "tokens_in": day.tokens_in,
            "tokens_out": day.tokens_out,
            "cost_usd": day.cost,
            "calls_without_price": day.unpriced,
        }
        for day in costs.daily(connection, costs.last_days(_DAYS))
    ]


_READ: Final[Mapping[Figures, Callable[[Connection], list[dict[str, Any]]]]] = {
    Figures.HEALTH: _health,
    Figures.JOBS: _jobs,
    Figures.ASSETS: _assets,
    Figures.COSTS: _costs,
}


_NEEDED: Final[Mapping[Figures, str]] = {Figures.ASSETS: "ledger:read", Figures.COSTS: "llm:read"}
"""What the caller needs beside `telemetry:read`, where these figures stand elsewhere as well."""


def _read(use: Use, wanted: Which) -> Found:
    if (permission := _NEEDED.get(wanted.of)) is not None:
        use.context.principal.require(permission)
    found = use.studio.database.read(_READ[wanted.of])
    return Found(found or "There is nothing yet.", facts={"of": wanted.of.value, "rows": len(found)})


METRICS: Final = Tool(
    "read_metrics",
    "Gives the studio's figures: health of its services, jobs by state, freshness of its assets, costs of its models.",
    Which,
    ("telemetry:read",),
    _read,
)
