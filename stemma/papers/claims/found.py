"""A claim as it was found, before anybody keeps it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from stemma.papers.model import Box, ClaimOrigin

ACCEPTED_AT: Final = 0.9
"""Who is so sure that nobody has to look first; what is less sure is proposed."""

_SPLITS: Final = {
    r"\bLOO\b|leave[- ]one[- ]out": "leave-one-out",
    r"(\d+)[- ]fold": "{0}-fold",
    r"\bcross[- ]validat": "cross-validation",
    r"\btest(ing)?\b|held[- ]out": "test",
    r"\bvalidation\b|\bdev(elopment)?\b": "validation",
    r"\btrain(ing)?\b": "train",
}


@dataclass(frozen=True, slots=True)
class Found:
    """What `stemma.papers.model.Claim` is made of."""

    metric: str
    value: float
    printed: str
    decimals: int
    unit: str | None
    dataset: str | None
    method: str | None
    split: str | None
    page: int
    box: Box
    quote: str
    confidence: float
    origin: ClaimOrigin = "rules"


def split_of(*texts: str | None) -> str | None:
    """On which part of the data something was measured, by the words that say so."""
    for pattern, name in _SPLITS.items():
        for text in texts:
            if text and (found := re.search(pattern, text, re.IGNORECASE)):
                return name.format(*found.groups())
    return None
