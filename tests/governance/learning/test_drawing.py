"""What is drawn follows from counts, guardrails and seed, and is drawn with the propensities that are recorded."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from math import exp, lgamma, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.governance.learning.drawing import Draw, draw, new_seed, propensities
from stemma.governance.learning.posteriors import Beta, best, exceeds
from stemma.governance.learning.stats import VariantStats
from stemma.governance.nodes import Learning

COUNTS = st.integers(min_value=0, max_value=100_000)
OTHERS = st.lists(st.tuples(COUNTS, COUNTS, st.booleans()), max_size=4)


def variants(*others: tuple[int, int, bool], baseline: tuple[int, int] = (80, 20)) -> tuple[VariantStats, ...]:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    made = [
        VariantStats(f"v{place}", 0, good, bad, at if stopped else None, "It was stopped." if stopped else None)
        for place, (good, bad, stopped) in enumerate(others)
    ]
    return (VariantStats("baseline", 0, *baseline), *made)


def above(one: Beta, other: Beta) -> float:
    """The probability that the first is above the second, in closed form for a whole alpha."""

    def ln(x: float, y: float) -> float:
        return lgamma(x) + lgamma(y) - lgamma(x + y)

    def term(i: int) -> float:
        return ln(other.alpha + i, other.beta + one.beta) - log(one.beta + i) - ln(1 + i, one.beta)

    return sum(exp(term(i) - ln(other.alpha, other.beta)) for i in range(int(one.alpha)))


@pytest.mark.parametrize(
    ("one", "other"), [((81, 21), (86, 16)), ((1, 1), (500, 120)), ((3000, 1000), (2950, 1001)), ((1, 300), (1, 290))]
)
def test_chances_are_what_the_closed_form_says(one: tuple[int, int], other: tuple[int, int]) -> None:
    first, second = Beta(*one), Beta(*other)
    assert best([first, second])[0] == pytest.approx(above(first, second), abs=1e-5)
    assert exceeds(first, second) == pytest.approx(above(first, second), abs=1e-5)
    assert exceeds(first, second) + exceeds(second, first) == pytest.approx(1, abs=1e-5)
    assert exceeds(first, second, 0.1) < exceeds(first, second) < exceeds(first, second, -0.1)


@given(OTHERS, st.tuples(COUNTS, COUNTS), st.floats(0, 0.2), st.floats(0.2, 1))
def test_propensities_keep_to_the_guardrails(
    others: list[tuple[int, int, bool]], baseline: tuple[int, int], floor: float, cap: float
) -> None:
    chances = propensities(variants(*others, baseline=baseline), Learning(floor=floor, cap=cap))
    running = [f"v{place}" for place, (_, _, stopped) in enumerate(others) if not stopped]
    assert sum(chances.values()) == pytest.approx(1) and all(0 <= chance <= 1 for chance in chances.values())
    assert all(chances[f"v{place}"] == 0 for place, (_, _, stopped) in enumerate(others) if stopped)
    assert sum(chances[name] for name in running) <= cap + 1e-9 and chances["baseline"] >= floor - 1e-9
    least = min(floor, cap / max(len(running), 1), (1 - floor) / max(len(running), 1))
    assert all(chances[name] >= least - 1e-9 for name in running)


@given(OTHERS, st.integers(0, 2**53 - 1))
def test_a_draw_that_was_recorded_is_drawn_again(others: list[tuple[int, int, bool]], seed: int) -> None:
    drawn = draw(variants(*others), Learning(), seed)
    kept = Draw.of_content(json.loads(json.dumps(drawn.content(), sort_keys=True)))
    assert kept == drawn and kept.again == drawn.variant == draw(variants(*others), Learning(), seed).variant
    assert drawn.propensities[drawn.variant] > 0


def test_variants_come_as_often_as_their_propensities_say() -> None:
    stats = variants((85, 15, False), (10, 90, False), (50, 50, True))
    chances = propensities(stats, Learning())
    drawn = Counter(draw(stats, Learning(), seed).variant for seed in range(4_000))
    assert set(drawn) == {"baseline", "v0", "v1"}
    assert all(drawn[name] / 4_000 == pytest.approx(chance, abs=0.025) for name, chance in chances.items())
    assert chances["v0"] == pytest.approx(0.45) and chances["v1"] == pytest.approx(0.05)


def test_seeds_differ_and_are_kept_exactly_by_json() -> None:
    seeds = {new_seed() for _ in range(100)}
    assert len(seeds) == 100 and all(0 <= seed < 2**53 for seed in seeds)
