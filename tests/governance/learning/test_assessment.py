"""A variant is better, harmful, or neither, by counts alone; looking often does not make it so."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from stemma.governance.learning.assessment import Standing
from stemma.governance.learning.promotion import assess
from stemma.governance.learning.stats import VariantStats
from stemma.governance.nodes import Harm, Learning

BASELINE = VariantStats("baseline", 2_000, 1_400, 600)
STOPPED = VariantStats("v", 0, 900, 100, datetime(2026, 1, 1, tzinfo=UTC), "It lost money.")


@pytest.mark.parametrize(
    ("variant", "standing"),
    [
        (VariantStats("v", 0, 800, 200), Standing.BETTER),
        (VariantStats("v", 0, 150, 20), Standing.TOO_FEW),
        (VariantStats("v", 0, 730, 270), Standing.UNDECIDED),
        (VariantStats("v", 0, 30, 70), Standing.HARMFUL),
        (VariantStats("v", 0, 0, 3), Standing.TOO_FEW),
        (VariantStats("v"), Standing.TOO_FEW),
        (STOPPED, Standing.STOPPED),
    ],
)
def test_a_variant_stands_as_its_outcomes_say(variant: VariantStats, standing: Standing) -> None:
    found = assess([BASELINE, variant], Learning())
    (one,) = found.variants
    assert one.standing is standing and one.why
    assert found.candidate == ("v" if standing is Standing.BETTER else None)
    assert [harmful.rate.variant for harmful in found.harmful] == (["v"] if standing is Standing.HARMFUL else [])
    assert -1 <= one.low <= one.difference <= one.high <= 1
    assert json.loads(json.dumps(found.content()))["variants"][0]["standing"] == standing


def test_the_best_of_several_is_the_candidate_and_margins_are_kept() -> None:
    several = [BASELINE, VariantStats("a", 0, 1_600, 400), VariantStats("b", 0, 1_750, 250)]
    assert assess(several, Learning()).candidate == "b"
    assert assess(several, Learning(margin=0.3)).candidate is None
    assert assess([BASELINE, VariantStats("v", 0, 100, 100)], Learning(harm=Harm(margin=0.4))).harmful == ()


def test_looking_often_does_not_make_a_variant_better() -> None:
    """The rates themselves are those of the benchmark; here a few seeded runs, looked at after every hundred."""

    def proposed(rate: float, run: int) -> bool:
        chance = np.random.default_rng(run)
        stats = [VariantStats("baseline"), VariantStats("v")]
        for _ in range(40):
            won = [int(chance.binomial(50, each)) for each in (0.7, rate)]
            stats = [
                replace(one, successes=one.successes + good, failures=one.failures + 50 - good)
                for one, good in zip(stats, won, strict=True)
            ]
            if assess(stats, Learning()).candidate:
                return True
        return False

    assert sum(proposed(0.8, run) for run in range(5)) == 5
    assert sum(proposed(0.7, run) for run in range(10)) <= 1
