"""What a paper claims, found by rules and put in order: the surest first, then as printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from stemma.errors import InvalidInput
from stemma.papers.claims.found import Found
from stemma.papers.claims.grounding import find_ground
from stemma.papers.claims.listings import find_in_listings
from stemma.papers.claims.sentences import find_in_sentences
from stemma.papers.claims.tables import find_in_tables
from stemma.papers.pages import Page

MAX_CLAIMS: Final = 500


def read_claims(pages: Sequence[Page]) -> tuple[Found, ...]:
    """The claims of a paper, each with page, box and quote; 500 of the surest at most."""
    found: list[Found] = list(find_in_listings(pages))
    for page in pages:
        found += find_in_tables(page)
        found += find_in_sentences(page)
    return ranked(claim for claim in found if _is_grounded(pages, claim))


def _is_grounded(pages: Sequence[Page], claim: Found) -> bool:
    try:
        find_ground(pages, claim.page, claim.printed, claim.quote)
    except InvalidInput:
        return False
    return True


def ranked(found: Iterable[Found]) -> tuple[Found, ...]:
    """Claims as they are kept: of one that is found twice the surest, the surest first, then in the order of print."""
    kept: dict[tuple[object, ...], Found] = {}
    for claim in sorted(found, key=_order):
        told = claim.metric.lower(), claim.printed, claim.dataset, claim.method
        in_place = claim.page, claim.box
        if told not in kept and in_place not in kept:
            kept[told] = kept[in_place] = claim
    return tuple(sorted(set(kept.values()), key=_order)[:MAX_CLAIMS])


def _order(claim: Found) -> tuple[float, int, float, float, str]:
    return -claim.confidence, claim.page, claim.box[1], claim.box[0], claim.metric
