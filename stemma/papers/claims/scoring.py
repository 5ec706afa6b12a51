"""How well claims are read, beside what a person found who read the same pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stemma.papers.claims.found import Found


@dataclass(frozen=True, slots=True)
class Label:
    """A claim that a person found: its value as printed, a word of its metric, and every page that prints it so."""

    printed: str
    metric: str
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """How many claims were found, how many of them are right, and how many there are."""

    found: int
    right: int
    there: int

    @property
    def precision(self) -> float:
        """The share of what was found that is right; 1 where nothing was."""
        return self.right / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """The share of what is there that was found; 1 where nothing is."""
        return self.right / self.there if self.there else 1.0

    def __add__(self, other: Score) -> Score:
        return Score(self.found + other.found, self.right + other.right, self.there + other.there)


def score(found: Sequence[Found], labels: Sequence[Label]) -> Score:
    """Compare; a claim is right by digits, page and metric together, and each label answers for one claim."""
    open_labels = list(labels)
    right = 0
    for claim in found:
        match = next((label for label in open_labels if _is(claim, label)), None)
        if match is not None:
            open_labels.remove(match)
            right += 1
    return Score(len(found), right, len(labels))


def _is(claim: Found, label: Label) -> bool:
    same = claim.printed == label.printed and claim.page in label.pages
    return same and label.metric.lower() in claim.metric.lower()
