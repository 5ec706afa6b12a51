"""What a person does to claims: edit, accept, reject. Each is a revision and an entry of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from stemma.access.principal import Principal
from stemma.errors import InvalidInput, PreconditionFailed
from stemma.ledger.change import Change
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.papers import catalog
from stemma.papers.claims.grounding import find_ground
from stemma.papers.model import Claim, ClaimStatus
from stemma.papers.pages import Page
from stemma.store.database import Connection, database_time

_UPDATE: Final = """
    UPDATE p2n.claims SET metric = %(metric)s, value = %(value)s, printed = %(printed)s, decimals = %(decimals)s,
        unit = %(unit)s, dataset = %(dataset)s, method = %(method)s, split = %(split)s, page = %(page)s, box = %(box)s,
        quote = %(quote)s, origin = %(origin)s, status = %(status)s, revision = %(revision)s,
        updated_at = %(updated_at)s, updated_by = %(updated_by)s
    WHERE id = %(id)s AND revision = %(revision)s - 1
"""
_ACTIONS: Final = {"accepted": "claim.accepted", "rejected": "claim.rejected"}


@dataclass(frozen=True, slots=True)
class ClaimEdit:
    """What is changed of a claim; None leaves it. An empty text takes away what may be unknown.

    A new `printed` or `page` has to hold: the page has to print these digits.
    """

    metric: str | None = None
    printed: str | None = None
    page: int | None = None
    unit: str | None = None
    dataset: str | None = None
    method: str | None = None
    split: str | None = None
    status: ClaimStatus | None = None


def edit_claim(
    connection: Connection,
    principal: Principal,
    claim_id: UUID,
    edit: ClaimEdit,
    pages: Sequence[Page],
    *,
    seen: frozenset[str],
) -> Change[Claim]:
    """Change a claim as it was seen; `seen` are ETags of which one has to be its present one.

    Raises Forbidden, NotFound, PreconditionFailed(claim_changed); InvalidInput (`edit_empty`, `claim_without_number`,
    `claim_not_on_page`), NotFound(page_not_found).
    """
    principal.require("papers:review")
    claim = catalog.get_claim(connection, claim_id)
    changed_meanwhile = PreconditionFailed(
        "claim_changed",
        "The claim is no longer as it was seen.",
        field="If-Match",
        hint="Read it again, then decide.",
    )
    if claim.etag not in seen:
        raise changed_meanwhile
    edited = _edited(claim, edit, pages)
    changes = {
        field.name: [getattr(claim, field.name), getattr(edited, field.name)]
        for field in fields(ClaimEdit)
        if getattr(claim, field.name) != getattr(edited, field.name)
    }
    if not changes:
        raise InvalidInput("edit_empty", "This changes nothing of the claim.", hint="Name what is to be changed.")
    edited = replace(
        edited,
        origin="person" if set(changes) - {"status"} else claim.origin,
        revision=claim.revision + 1,
        updated_at=database_time(connection),
        updated_by=principal.actor,
    )
    row: dict[str, Any] = {name: getattr(edited, name) for name in Claim.__slots__}
    row["box"] = Jsonb(list(edited.box))
    action = _ACTIONS.get(edited.status, "claim.edited") if set(changes) == {"status"} else "claim.edited"
    meta = {"paper": str(claim.paper_id), "revision": edited.revision, "changes": changes}
    entries = audited(principal, action, resource=f"claim/{claim.id}", meta=meta, critical=True)
    return Change(entries, (Statement(_UPDATE, row, rows=1, refusal=changed_meanwhile),), lambda _: edited)


def _edited(claim: Claim, edit: ClaimEdit, pages: Sequence[Page]) -> Claim:
    if edit.metric is not None and not edit.metric.strip():
        raise InvalidInput("metric_missing", "A claim needs to say what it measures.", field="metric")
    edited = replace(
        claim,
        metric=claim.metric if edit.metric is None else edit.metric.strip(),
        unit=_text(claim.unit, edit.unit),
        dataset=_text(claim.dataset, edit.dataset),
        method=_text(claim.method, edit.method),
        split=_text(claim.split, edit.split),
        status=edit.status or claim.status,
    )
    if edit.printed is None and edit.page is None:
        return edited
    page, printed = edit.page or claim.page, edit.printed or claim.printed
    ground = find_ground(pages, page, printed, claim.quote)
    number = ground.number
    return replace(
        edited,
        value=number.value,
        printed=number.printed,
        decimals=number.decimals,
        page=page,
        box=ground.box,
        quote=ground.quote,
    )


def _text(before: str | None, given: str | None) -> str | None:
    return before if given is None else given.strip() or None
