"""Learning: how the variants of a policy do, which of them is to become the baseline, and what has drifted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from api.access import allow
from api.console.charts import Curve, curves
from api.console.rendering import render
from api.deps import DatabaseDep, PageDep
from api.limits import limited
from stemma.access.principal import Principal
from stemma.errors import NotFound, StemmaError
from stemma.governance.learning import catalog
from stemma.governance.learning.standing import Standing, learning_nodes, standing
from stemma.governance.learning.stats import VariantStats
from stemma.governance.nodes import Node

router = APIRouter(prefix="/learning", route_class=limited("console"), include_in_schema=False)

_POINTS: Final = 120
_WIDE: Final = 0.9999

ReaderDep = Annotated[Principal, allow("decide:read")]


@router.get("")
def show(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    page: PageDep,
    node: Annotated[str, Query(max_length=100)] = "",
) -> Response:
    """One node at a time: its variants, promotions, scorecards and drift."""
    with database.snapshot() as connection:
        nodes = list(learning_nodes(connection))
        chosen = _chosen(nodes, node)
        stands: Standing | StemmaError | None = None
        promotions = None
        if chosen is not None:
            try:
                stands = standing(connection, chosen)
            except StemmaError as error:
                stands = error
            promotions = catalog.list_promotions(connection, node=chosen.name, cursor=page.cursor, limit=page.limit)
    stand = stands if isinstance(stands, Standing) else None
    return render(
        request,
        "pages/learning.html",
        nodes=nodes,
        node=chosen,
        stand=stand,
        refused=stands if isinstance(stands, StemmaError) else None,
        chart=_chart(stand.stats) if stand else None,
        ends=_ends(stand.stats) if stand else None,
        promotions=promotions,
    )


def _chosen(nodes: Sequence[Node], name: str) -> Node | None:
    if not name:
        return nodes[0] if nodes else None
    found = next((node for node in nodes if node.name == name), None)
    if found is None:
        hint = "The page Learning lists those that there are."
        raise NotFound("node_unknown", f"No node {name!r} tries variants.", field="node", hint=hint)
    return found


def _ends(stats: Sequence[VariantStats]) -> tuple[float, float]:
    """Between which rates the posteriors lie."""
    both = [one.posterior.interval(_WIDE) for one in stats]
    return min(low for low, _ in both), max(high for _, high in both)


def _chart(stats: Sequence[VariantStats]) -> Any:
    low, high = _ends(stats)
    rates = [low + (high - low) * step / _POINTS for step in range(_POINTS + 1)]
    drawn = [Curve(one.variant, tuple(zip(rates, one.posterior.density(rates), strict=True))) for one in stats]
    return curves(drawn, title="How likely each rate of success is, for each variant")
