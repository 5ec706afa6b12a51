from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.papers.reports.verdicts import LEAST_SEEDS, Claimed, Verdict, gap_percent, judge

# What the four claim sheets print, and what was observed with scikit-learn 1.9: the bars of the verdicts.
SHEETS = (
    ("Fisher, sepal width", 5.9037, 4, 5.90380475, Verdict.REPRODUCED),
    ("Fisher, petal length", -7.1299, 4, -7.12998132, Verdict.REPRODUCED),
    ("Fisher, petal width", -10.1036, 4, -10.1036641, Verdict.REPRODUCED),
    ("wine, LDA", 98.9, 1, 98.87640449438202, Verdict.REPRODUCED),
    ("wine, QDA", 99.4, 1, 99.43820224719101, Verdict.REPRODUCED),
    ("wine, 1-NN", 96.1, 1, 95.50561797752809, Verdict.NOT_REPRODUCED),
    ("GunPoint", 0.9133, 4, 0.9133333333, Verdict.REPRODUCED),
    ("OSULeaf", 0.5207, 4, 0.5206611570, Verdict.REPRODUCED),
)
NUMBERS = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))
DECIMALS = st.integers(0, 8)


def claimed(value: float, decimals: int, units: float = 1.0) -> Claimed:
    return Claimed(value, decimals, units * 10.0**-decimals)


@pytest.mark.parametrize(
    ("value", "decimals", "observed", "verdict"), [row[1:] for row in SHEETS], ids=[r[0] for r in SHEETS]
)
def test_the_sheets_are_judged_right(value: float, decimals: int, observed: float, verdict: Verdict) -> None:
    found = judge(claimed(value, decimals), [observed])
    assert found.verdict is verdict
    assert found.observed == observed
    assert found.gap_percent == pytest.approx((observed - value) / abs(value) * 100)


def test_the_reason_names_the_digits() -> None:
    assert "95.5: 6 units of the last place off" in judge(claimed(96.1, 1), [95.5056]).reason
    assert "98.9: the same" in judge(claimed(98.9, 1), [98.8764]).reason
    assert "5.9038: one unit of the last place off, as far as it may be" in judge(claimed(5.9037, 4), [5.9038]).reason


def test_a_plan_may_ask_for_the_very_digits_or_let_more_pass() -> None:
    assert judge(claimed(0.8, 1, units=0.5), [0.86]).verdict is Verdict.NOT_REPRODUCED
    assert judge(claimed(0.8, 1, units=0.5), [0.84]).verdict is Verdict.REPRODUCED
    assert judge(claimed(96.1, 1, units=7), [95.5056]).verdict is Verdict.REPRODUCED


@pytest.mark.parametrize(
    ("values", "reason"),
    [([], "did not measure"), ([math.nan], "no number"), ([math.inf, 1.0], "no number"), ([1e200], "no number")],
)
def test_what_was_not_measured_is_inconclusive(values: list[float], reason: str) -> None:
    found = judge(claimed(98.9, 1), values)
    assert found.verdict is Verdict.INCONCLUSIVE and reason in found.reason
    assert found.observed is None and found.gap_percent is None


def test_two_executions_that_differ_tell_nothing() -> None:
    assert judge(claimed(98.9, 1), [98.9], repeatable=False).verdict is Verdict.INCONCLUSIVE


def test_a_gap_under_another_method_is_inconclusive_and_a_match_is_a_match() -> None:
    instead = "A linear SVM stands in for MSM-T."
    gap = judge(claimed(97.5, 1), [96.5536], substituted=instead)
    assert gap.verdict is Verdict.INCONCLUSIVE and instead in gap.reason
    assert judge(claimed(97.5, 1), [97.5], substituted=instead).verdict is Verdict.REPRODUCED


def test_seeds_give_an_interval_that_decides() -> None:
    seeds = [96.4, 96.6, 96.5, 96.6, 96.4]
    out = judge(claimed(97.5, 1), seeds, seeded=True)
    assert out.verdict is Verdict.NOT_REPRODUCED and "leaves the paper's value out" in out.reason
    inside = judge(claimed(96.6, 1), seeds, seeded=True)
    assert inside.verdict is Verdict.REPRODUCED
    assert inside.interval is not None and inside.interval.low < 96.5 < inside.interval.high
    assert inside.gap_interval is not None and inside.gap_interval.low == gap_percent(96.6, inside.interval.low)


def test_the_interval_is_the_prediction_interval_of_student_s_t() -> None:
    found = judge(claimed(3.0, 1), [1.0, 2.0, 3.0, 4.0, 5.0], seeded=True).interval
    # t(0.975, 4) = 2.7764, s = sqrt(2.5), n = 5.
    assert found is not None
    assert found.high - 3.0 == pytest.approx(2.7764 * math.sqrt(2.5) * math.sqrt(1.2), rel=1e-6)


def test_seeds_that_lie_far_apart_or_are_few_tell_nothing() -> None:
    wide = judge(claimed(96.6, 1), [80.0, 99.0, 90.0, 97.0, 85.0], seeded=True)
    assert wide.verdict is Verdict.INCONCLUSIVE and "too far apart" in wide.reason
    few = judge(claimed(96.6, 1), [96.6] * (LEAST_SEEDS - 1), seeded=True)
    assert few.verdict is Verdict.INCONCLUSIVE and "are needed" in few.reason


@given(NUMBERS, DECIMALS)
def test_a_value_reproduces_itself(value: float, decimals: int) -> None:
    assert judge(claimed(round(value, decimals), decimals), [value]).verdict is Verdict.REPRODUCED


@given(NUMBERS, NUMBERS, DECIMALS)
def test_a_sign_changes_nothing(value: float, observed: float, decimals: int) -> None:
    one, other = (judge(claimed(sign * value, decimals), [sign * observed]) for sign in (1, -1))
    assert one.verdict is other.verdict


@given(NUMBERS, NUMBERS, DECIMALS, st.integers(1, 5))
def test_a_plan_that_lets_more_pass_never_takes_a_verdict_back(
    value: float, observed: float, decimals: int, units: int
) -> None:
    strict = judge(claimed(value, decimals, units), [observed]).verdict
    lax = judge(claimed(value, decimals, 2 * units), [observed]).verdict
    assert strict is not Verdict.REPRODUCED or lax is Verdict.REPRODUCED


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.floats(), max_size=7),
    st.integers(0, 20),
    st.booleans(),
)
def test_whatever_was_measured_is_judged(value: float, values: list[float], decimals: int, seeded: bool) -> None:
    found = judge(Claimed(value, decimals, 10.0**-decimals), values, seeded=seeded)
    assert found.reason
    assert found.gap_percent is None or math.isfinite(found.gap_percent)
