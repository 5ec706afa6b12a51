"""What a template is: which claims it can measure, on which data, and the code that measures them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from stemma.papers.model import Claim
from stemma.papers.plan import Alternative, Cell, Dataset, Environment, Method, Parameters, Target

FIVE_SEEDS: Final = (0, 1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class Measurable:
    """How a template would measure a claim: on which data, reported as which metric and split, by which parameters."""

    dataset: Dataset
    metric: str
    split: str
    parameters: Parameters


@dataclass(frozen=True, slots=True)
class Template:
    """A way to measure claims of one kind. `measure` says how it would measure one, None for what it cannot.

    `alternatives` are those that make sense for the targets of a plan. A stochastic one is run with five seeds.
    """

    name: str
    method: Method
    packages: tuple[str, ...]
    measure: Callable[[Claim], Measurable | None]
    cells: tuple[Cell, ...]
    alternatives: Callable[[Sequence[Target]], tuple[Alternative, ...]]
    stochastic: bool = False

    @property
    def environment(self) -> Environment:
        """What its notebooks run in."""
        return Environment(packages=self.packages)


def no_alternatives(targets: Sequence[Target]) -> tuple[Alternative, ...]:
    """For a method that leaves nothing open."""
    return ()


def says(text: str | None, *patterns: str) -> bool:
    """Whether any of the patterns occurs in what a claim says of itself; case does not count."""
    return text is not None and any(re.search(pattern, text, re.IGNORECASE) for pattern in patterns)


def slug(text: str) -> str:
    """A name of letters, digits and dashes for what a paper calls by words."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "value"
