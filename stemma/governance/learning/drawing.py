"""Drawing the variant that decides: Thompson sampling within guardrails, from a seed, with its propensities.

Thompson sampling draws a rate from each posterior and takes the variant with the highest. Here the probability of that
is worked out for each variant (`posteriors.best`), bent to the guardrails, and one variant is taken by a number that
follows from the seed: so the propensities that are recorded are those that were drawn with, exactly.

The guardrails: a variant that was stopped is not drawn. Those beside the baseline have together at most `cap`, the
baseline at least `floor`; each of them has at least `floor`, or its part of `cap` where that is less; what lies between
is theirs by their chances.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stemma.governance.learning.posteriors import best
from stemma.governance.learning.stats import VariantStats
from stemma.governance.nodes import Learning
from stemma.governance.policy import BASELINE

_SEED_BITS: Final = 53


@dataclass(frozen=True, slots=True)
class Draw:
    """Which variant was drawn, by what seed, with which propensities (they sum to 1) from which posteriors
    (`(alpha, beta)`); a variant that was stopped has the propensity 0.
    """

    variant: str
    seed: int
    propensities: Mapping[str, float]
    posteriors: Mapping[str, tuple[float, float]]

    def content(self) -> dict[str, Any]:
        """What is recorded of it, as JSON."""
        return {
            "variant": self.variant,
            "seed": self.seed,
            "propensities": dict(self.propensities),
            "posteriors": {name: list(both) for name, both in self.posteriors.items()},
        }

    @classmethod
    def of_content(cls, content: Mapping[str, Any]) -> Draw:
        """The draw that was recorded."""
        posteriors = {name: (float(alpha), float(beta)) for name, (alpha, beta) in content["posteriors"].items()}
        return cls(content["variant"], content["seed"], dict(content["propensities"]), posteriors)

    @property
    def again(self) -> str:
        """The variant that the recorded seed and propensities draw: the same, unless somebody changed one of them."""
        return _taken(self.propensities, self.seed)


def new_seed() -> int:
    """A seed for one draw; it fits the integers that JSON keeps exactly."""
    return secrets.randbits(_SEED_BITS)


def draw(stats: Sequence[VariantStats], guardrails: Learning, seed: int) -> Draw:
    """Draw a variant; `stats` are those of all variants of the policy, the baseline among them."""
    chances = propensities(stats, guardrails)
    posteriors = {one.variant: (one.posterior.alpha, one.posterior.beta) for one in stats}
    return Draw(_taken(chances, seed), seed, chances, posteriors)


def propensities(stats: Sequence[VariantStats], guardrails: Learning) -> dict[str, float]:
    """With which probability each variant is drawn."""
    running = [one for one in stats if one.stopped_at is None or one.variant == BASELINE]
    chances = dict(zip((one.variant for one in running), best([one.posterior for one in running]), strict=True))
    others = {name: chance for name, chance in chances.items() if name != BASELINE}
    given = dict.fromkeys((one.variant for one in stats), 0.0)
    if others:
        cap = min(guardrails.cap, 1.0 - guardrails.floor)
        floor = min(guardrails.floor, cap / len(others))
        total = sum(others.values())
        spread = min(max(total, floor * len(others)), cap) - floor * len(others)
        for name, chance in others.items():
            given[name] = floor + spread * (chance / total if total else 1 / len(others))
    given[BASELINE] = 1.0 - sum(given[name] for name in others)
    return given


def _taken(chances: Mapping[str, float], seed: int) -> str:
    """By names in order, because JSON objects have none."""
    at = random.Random(seed).random()  # noqa: S311 - what is drawn has to be drawn again
    names = sorted(name for name, chance in chances.items() if chance > 0.0)
    for name in names:
        at -= chances[name]
        if at < 0.0:
            return name
    return names[-1]
