"""Learning: how the variants of a policy do and which is to become the baseline; what refusing saved; and day by day,
how they stood and what drifted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from markupsafe import Markup

from api.access import allow
from api.console.charts import Curve, Pair, curves, pairs
from api.console.rendering import render
from api.deps import DatabaseDep, PageDep
from api.limits import limited
from stemma.access.principal import Principal
from stemma.errors import Conflict, NotFound, StemmaError
from stemma.governance.learning import catalog, estimates
from stemma.governance.learning.standing import Standing, learning_nodes, standing
from stemma.governance.learning.stats import VariantStats
from stemma.governance.learning.valued import SUCCESS
from stemma.governance.memory import catalog as memory
from stemma.governance.memory.catalog import DriftReport
from stemma.governance.nodes import Node
from stemma.rules.language import Type
from stemma.store.database import Connection

router = APIRouter(prefix="/learning", route_class=limited("console"), include_in_schema=False)

_POINTS: Final = 120
_WIDE: Final = 0.9999
_DAYS: Final = 14
_LAST: Final = 2_000

ReaderDep = Annotated[Principal, allow("decide:read")]
NodeQuery = Annotated[str, Query(max_length=100)]


@router.get("")
def show(
    request: Request, principal: ReaderDep, database: DatabaseDep, page: PageDep, node: NodeQuery = ""
) -> Response:
    """The variants of one node, and their promotions."""
    stand, error, promotions = None, None, None
    with database.snapshot() as connection:
        nodes, chosen = _nodes(connection, node)
        if chosen is not None:
            try:
                stand = standing(connection, chosen)
            except StemmaError as refused:
                error = refused
            promotions = catalog.list_promotions(connection, node=chosen.name, cursor=page.cursor, limit=page.limit)
    return render(
        request,
        "pages/learning.html",
        nodes=nodes,
        node=chosen,
        stand=stand,
        error=error,
        chart=_chart(stand) if stand else None,
        ends=_ends(stand.stats) if stand else None,
        promotions=promotions,
    )


@router.get("/savings")
def show_savings(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    node: NodeQuery = "",
    metric: Annotated[str, Query(max_length=63)] = "",
) -> Response:
    """What was given and observed, and what that which was not given would have been worth, each by itself."""
    found, error, metrics = None, None, []
    with database.snapshot() as connection:
        nodes, chosen = _nodes(connection, node)
        if chosen is not None:
            metrics = [*_metrics(chosen), SUCCESS]
            try:
                found = estimates.savings(connection, chosen, metric=metric or metrics[0], last=_LAST)
            except StemmaError as refused:
                error = refused
    return render(
        request,
        "pages/learning_savings.html",
        status=error.status if error and not isinstance(error, Conflict) else 200,
        nodes=nodes,
        node=chosen,
        metrics=metrics,
        metric=metric or (metrics[0] if metrics else ""),
        found=found,
        error=error,
        last=_LAST,
    )


@router.get("/days")
def show_days(request: Request, principal: ReaderDep, database: DatabaseDep, node: NodeQuery = "") -> Response:
    """The last days: what each taught, how the variants stood, and whether anything drifted."""
    snapshots, scorecards, drift = None, None, None
    with database.snapshot() as connection:
        nodes, chosen = _nodes(connection, node)
        if chosen is not None:
            snapshots = memory.list_snapshots(connection, chosen.name, limit=_DAYS)
            scorecards = memory.list_scorecards(connection, chosen.name, limit=_DAYS)
            drift = memory.list_drift(connection, chosen.name, limit=_DAYS)
    newest = drift.data[0] if drift and drift.data else None
    return render(
        request,
        "pages/learning_days.html",
        nodes=nodes,
        node=chosen,
        snapshots=snapshots,
        scorecards=scorecards,
        drift=drift,
        newest=newest,
        measures=[(measure, _beside(measure)) for measure in newest.content["measures"]] if newest else [],
        compared=newest is not None and any(one["psi"] is not None for one in newest.content["measures"]),
        alarms=_alarms(drift.data) if drift else {},
    )


def _nodes(connection: Connection, name: str) -> tuple[list[Node], Node | None]:
    """Every node that tries variants, and the one that is named, or the first."""
    nodes = list(learning_nodes(connection))
    if not name:
        return nodes, nodes[0] if nodes else None
    found = next((node for node in nodes if node.name == name), None)
    if found is None:
        hint = "The page Learning lists those that do."
        raise NotFound("node_unknown", f"No node {name!r} tries variants.", field="node", hint=hint)
    return nodes, found


def _metrics(node: Node) -> list[str]:
    return [name for name, kind in node.reward.metrics.items() if kind is Type.NUMBER]


def _ends(stats: Sequence[VariantStats]) -> tuple[float, float]:
    """Between which rates the posteriors lie."""
    both = [one.posterior.interval(_WIDE) for one in stats]
    return min(low for low, _ in both), max(high for _, high in both)


def _chart(stand: Standing) -> Markup:
    low, high = _ends(stand.stats)
    rates = [low + (high - low) * step / _POINTS for step in range(_POINTS + 1)]
    drawn = [Curve(one.variant, tuple(zip(rates, one.posterior.density(rates), strict=True))) for one in stand.stats]
    return curves(drawn, title="How likely each rate of success is, for each variant")


def _beside(measure: Mapping[str, Any]) -> Markup:
    """The distribution of a measure before and now, as shares."""
    before, now = (_shares(measure[side]) for side in ("reference", "current"))
    figures = [Pair(*one) for one in zip(measure["kinds"], before, now, strict=True)]
    return pairs(figures, title=f"Shares of {measure['of']} before, and in the last days")


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]


def _alarms(reports: Sequence[DriftReport]) -> dict[Any, list[str]]:
    """What alarmed on each day on which anything did."""
    named = {one.day: [each["of"] for each in one.content["measures"] if each["alarmed"]] for one in reports}
    return {day: names for day, names in named.items() if names}
