"""What has to hold of a paper's claims and plan, whoever made them."""

from __future__ import annotations

from collections.abc import Sequence

from stemma.errors import StemmaError
from stemma.papers import steps
from stemma.papers.claims.grounding import find_ground
from stemma.papers.model import Claim, Paper, Plan
from stemma.papers.plan import parse_plan
from stemma.store.files import FileStore


def unprinted(files: FileStore, paper: Paper, claims: Sequence[Claim]) -> list[str]:
    """What is wrong with the claims that are not rejected: no quote, an empty box, digits that the page lacks."""
    standing = [claim for claim in claims if claim.status != "rejected"]
    if not standing:
        return []
    pages = steps.stored_pages(files, paper)
    problems = []
    for claim in standing:
        left, top, right, bottom = claim.box
        try:
            find_ground(pages, claim.page, claim.printed, claim.quote)
        except StemmaError as error:
            problems.append(f"{claim.metric}: {error.message}")
            continue
        if not (left < right and top < bottom and claim.quote):
            problems.append(f"{claim.metric}: {claim.printed} has no place on page {claim.page}")
    return problems


def unfounded(plan: Plan | None, claims: Sequence[Claim]) -> list[str]:
    """What of a plan does not stand in the claims: targets of claims that are gone, rejected or changed."""
    if plan is None:
        return []
    known = {claim.id: claim for claim in claims}
    problems = []
    for target in parse_plan(plan.document).targets:
        claim = known.get(target.claim)
        if claim is None or claim.status == "rejected":
            problems.append(f"{target.metric} measures a claim that does not stand")
        elif (claim.value, claim.page) != (target.claimed, target.page):
            problems.append(f"{target.metric} is about {target.printed}, the claim says {claim.printed}")
    return problems
