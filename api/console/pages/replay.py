"""Replay: what another policy would have said of the last decisions, what the shadow says, and whether every decision
can be made again.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from api.access import allow
from api.console.rendering import render
from api.deps import DatabaseDep
from api.limits import limited
from stemma.access.principal import Principal
from stemma.errors import NotFound, StemmaError
from stemma.governance import policies
from stemma.governance.decisions.replaying import replay_all
from stemma.governance.learning import shadow
from stemma.governance.learning.replay import replay
from stemma.governance.policy import BASELINE
from stemma.registry import catalog

router = APIRouter(prefix="/replay", route_class=limited("console"), include_in_schema=False)

_LAST: Final = 200
_MOST: Final = 2_000
_POLICIES: Final = 200

ReaderDep = Annotated[Principal, allow("decide:read")]
LastQuery = Annotated[int, Query(ge=1, le=_MOST)]


@router.get("")
def show(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    policy: Annotated[str, Query(max_length=200)] = "",
    variant: Annotated[str, Query(max_length=63)] = "",
    last: LastQuery = _LAST,
    again: bool = False,
) -> Response:
    """Another policy on the contexts of the last decisions, or every decision by what is recorded of it."""
    found, made_again, reference, error = None, None, None, None
    with database.snapshot() as connection:
        known = catalog.list_newest(connection, policies.KIND, limit=_POLICIES).data
        try:
            if policy.strip():
                loaded = policies.load(connection, policy.strip())
                reference = loaded.reference
                found = replay(connection, loaded, last=last, variant=variant.strip() or BASELINE)
            elif again:
                made_again = replay_all(connection)
        except StemmaError as refused:
            error = refused
    given: dict[str, Any] = {"policy": policy, "variant": variant, "last": last}
    return render(
        request,
        "pages/replay.html",
        status=error.status if error else 200,
        store=error is None,
        known=known,
        given=given,
        most=_MOST,
        reference=reference,
        found=found,
        made_again=made_again,
        error=error,
    )


@router.get("/shadow")
def show_shadow(
    request: Request,
    principal: ReaderDep,
    database: DatabaseDep,
    node: Annotated[str, Query(max_length=100)] = "",
    last: LastQuery = _LAST,
) -> Response:
    """What runs in the shadow, and what it says beside what was decided."""
    found = None
    with database.snapshot() as connection:
        candidates = shadow.candidates(connection)
        chosen = next((one for one in candidates if one.node == node), None) if node else next(iter(candidates), None)
        if node and chosen is None:
            hint = "Set one at the switches of the node."
            raise NotFound("shadow_unset", f"Nothing runs in the shadow at {node!r}.", field="node", hint=hint)
        if chosen is not None:
            found = shadow.compared(connection, chosen.node, last=last)
    return render(request, "pages/shadow.html", candidates=candidates, chosen=chosen, found=found)
