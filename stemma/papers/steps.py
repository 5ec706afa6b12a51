"""What the steps of the pipeline leave in the tables: pages that were read, claims that were found, or why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID, uuid5

from psycopg.types.json import Jsonb

from stemma.errors import NotFound, StemmaError
from stemma.ledger.change import Change
from stemma.ledger.journal import transition
from stemma.ledger.writer import Statement
from stemma.papers import catalog
from stemma.papers.claims.found import ACCEPTED_AT, Found
from stemma.papers.intake import subject
from stemma.papers.model import Claim, Paper
from stemma.papers.pages import Page, from_json
from stemma.redaction import redact
from stemma.store.database import Connection, database_time
from stemma.store.files import FileStore
from stemma.store.outputs import Artifact, Listing

_CLAIMS: Final = UUID("a2b4d1f0-7c1e-4b8e-9a62-5f0d3e9c7b21")
_REASON: Final = 1000

_READ: Final = """
    UPDATE p2n.papers SET pages_key = %(pages_key)s, pages = %(pages)s, error_code = NULL, error_message = NULL,
        status = CASE status WHEN 'failed' THEN 'ingested' ELSE status END, updated_at = %(now)s
    WHERE id = %(id)s
"""
_EXTRACTED: Final = """
    UPDATE p2n.papers SET status = CASE status WHEN 'planned' THEN status ELSE 'extracted' END, error_code = NULL,
        error_message = NULL, updated_at = %(now)s
    WHERE id = %(id)s
"""
_FAILED: Final = """
    UPDATE p2n.papers SET status = CASE status WHEN 'ingested' THEN 'failed' ELSE status END,
        error_code = %(code)s, error_message = %(message)s, updated_at = %(now)s
    WHERE id = %(id)s
"""
# What a person touched is the person's: its revision has grown. What a model proposed waits for a person.
_FORGET: Final = """
    DELETE FROM p2n.claims WHERE paper_id = %(paper)s AND revision = 1 AND origin = 'rules' AND NOT id = ANY(%(kept)s)
"""
_KEEP: Final = """
    INSERT INTO p2n.claims (id, paper_id, position, metric, value, printed, decimals, unit, dataset, method, split,
        page, box, quote, confidence, origin, status, revision, created_at, updated_at, updated_by)
    VALUES (%(id)s, %(paper_id)s, %(position)s, %(metric)s, %(value)s, %(printed)s, %(decimals)s, %(unit)s, %(dataset)s,
        %(method)s, %(split)s, %(page)s, %(box)s, %(quote)s, %(confidence)s, %(origin)s, %(status)s, 1, %(created_at)s,
        %(updated_at)s, %(updated_by)s)
    ON CONFLICT (id) DO UPDATE SET position = excluded.position, metric = excluded.metric, unit = excluded.unit,
        dataset = excluded.dataset, method = excluded.method, split = excluded.split, quote = excluded.quote,
        confidence = excluded.confidence, origin = excluded.origin, status = excluded.status,
        updated_at = excluded.updated_at, updated_by = excluded.updated_by
    WHERE claims.revision = 1
"""


def pages_read(connection: Connection, paper: Paper, pages_key: str, pages: int) -> Change[None] | None:
    """That a paper's pages were read and are kept under a key of the file store; None where that is known."""
    if (paper.pages_key, paper.pages, paper.error_code) == (pages_key, pages, None):
        return None
    values = {"id": paper.id, "pages_key": pages_key, "pages": pages, "now": database_time(connection)}
    entry = transition("paper.read", subject=subject(paper.id), actor="asset:papers/pages", data={"pages": pages})
    return Change((entry,), (Statement(_READ, values, rows=1),), lambda _: None)


def claims_found(connection: Connection, paper: Paper, found: Sequence[Found], *, actor: str) -> Change[int] | None:
    """Keep what was found, in place of what was found before; what a person edited, accepted or rejected stays.

    The result is how many claims are other than before; None instead of a change where all is as it was. A claim of
    which nobody has to be asked is accepted.
    """
    now = database_time(connection)
    before = {claim.id: claim for claim in catalog.list_claims(connection, paper.id)}
    claims = [claim_of(paper, position, one, now, actor) for position, one in enumerate(found, start=1)]
    fresh = [claim for claim in claims if claim.id not in before or before[claim.id].revision == 1]
    changed = [claim for claim in fresh if claim.id not in before or _facts(before[claim.id]) != _facts(claim)]
    kept = [claim.id for claim in claims]
    gone = [
        claim
        for claim in before.values()
        if claim.revision == 1 and claim.origin == "rules" and claim.id not in set(kept)
    ]
    if not changed and not gone and paper.status != "ingested" and paper.error_code is None:
        return None
    statements = [Statement(_EXTRACTED, {"id": paper.id, "now": now}, rows=1)]
    if gone:
        statements.append(Statement(_FORGET, {"paper": paper.id, "kept": kept}))
    statements += [Statement(_KEEP, {**_facts(claim), **_frame(claim)}) for claim in changed]
    accepted = sum(claim.status == "accepted" for claim in claims)
    data = {"claims": len(claims), "accepted": accepted, "changed": len(changed), "gone": len(gone)}
    entry = transition("claims.extracted", subject=subject(paper.id), actor=actor, data=data)
    return Change((entry,), tuple(statements), lambda _: len(changed) + len(gone))


def claims_proposed(
    connection: Connection, paper: Paper, found: Sequence[Found], *, actor: str, model: str
) -> Change[int]:
    """Put what a model found beside the claims that there are, for a person to accept; what is there stays as it is.

    The result is how many are new.
    """
    now = database_time(connection)
    before = catalog.list_claims(connection, paper.id)
    taken = {claim.id for claim in before}
    first = max((claim.position for claim in before), default=0) + 1
    claims = {claim.id: claim for claim in (claim_of(paper, first, one, now, actor) for one in found)}
    new = [
        replace(claim, position=first + place)
        for place, claim in enumerate(claim for claim in claims.values() if claim.id not in taken)
    ]
    data = {"proposed": len(new), "model": model}
    entry = transition("claims.proposed", subject=subject(paper.id), actor=actor, data=data)
    statements = [Statement(_KEEP, {**_facts(claim), **_frame(claim)}) for claim in new]
    return Change((entry,), tuple(statements), lambda _: len(new))


def step_failed(connection: Connection, paper: Paper, step: str, error: StemmaError) -> Change[None]:
    """That a step failed, and why; what was made before stays."""
    message = redact(str(error)).text[:_REASON]
    values = {"id": paper.id, "code": error.code, "message": message, "now": database_time(connection)}
    data = {"step": step, "code": error.code, "reason": message}
    entry = transition("paper.step_failed", subject=subject(paper.id), actor=f"asset:papers/{step}", data=data)
    return Change((entry,), (Statement(_FAILED, values, rows=1),), lambda _: None)


def claim_of(paper: Paper, position: int, found: Found, now: datetime, actor: str) -> Claim:
    """What was found, as a claim in its first revision; one of which nobody has to be asked is accepted."""
    # The same digits in the same place are the same claim, however often it is read.
    place = f"{paper.id} {found.page} {' '.join(f'{side:.0f}' for side in found.box)} {found.printed}"
    return Claim(
        id=uuid5(_CLAIMS, place),
        paper_id=paper.id,
        position=position,
        metric=found.metric,
        value=found.value,
        printed=found.printed,
        decimals=found.decimals,
        unit=found.unit,
        dataset=found.dataset,
        method=found.method,
        split=found.split,
        page=found.page,
        box=found.box,
        quote=found.quote,
        confidence=found.confidence,
        origin=found.origin,
        status="accepted" if found.confidence >= ACCEPTED_AT and found.origin == "rules" else "proposed",
        revision=1,
        created_at=now,
        updated_at=now,
        updated_by=actor,
    )


def _facts(claim: Claim) -> dict[str, object]:
    """What makes a claim another one than before."""
    frame = _frame(claim)
    return {name: getattr(claim, name) for name in Claim.__slots__ if name not in frame and name != "revision"}


def _frame(claim: Claim) -> dict[str, object]:
    return {
        "created_at": claim.created_at,
        "updated_at": claim.updated_at,
        "updated_by": claim.updated_by,
        "box": Jsonb(list(claim.box)),
    }


def stored_pages(files: FileStore, paper: Paper) -> tuple[Page, ...]:
    """The pages of a paper as they were read; raises NotFound(paper_not_read) before that."""
    if paper.pages_key is None:
        hint = f"`stemma papers materialize {paper.id}` reads it."
        raise NotFound("paper_not_read", "The pages of the paper were not read yet.", field="paper_id", hint=hint)
    return from_json(files.read(paper.pages_key))


def claims_artifact(paper: Paper, claims: Sequence[Claim]) -> Artifact:
    """The listing of a paper's claims, which is another one as soon as one of them is."""
    listing = Listing()
    for claim in claims:
        listing.add(str(claim.id), claim.metric, claim.printed, claim.unit, claim.dataset, claim.method, claim.split)
        listing.add(claim.page, " ".join(f"{side:.2f}" for side in claim.box), claim.quote, claim.status)
    return listing.artifact(f"claims/{paper.id}")
