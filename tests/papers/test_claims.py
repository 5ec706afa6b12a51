"""What papers claim, as rules find it, beside what a person found in the same pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.errors import InvalidInput
from stemma.papers.claims.found import Found
from stemma.papers.claims.grounding import find_ground
from stemma.papers.claims.numbers import parse_number
from stemma.papers.claims.reading import read_claims
from stemma.papers.claims.scoring import Label, Score, score
from stemma.papers.pages import read_pages
from stemma.store.settings import Settings

SETTINGS = Settings(home=Path("unused"))
LABELLED: dict[str, list[tuple[str, str, list[int]]]] = json.loads(
    Path(__file__).with_name("labelled.json").read_text()
)


def found_in(path: Path) -> tuple[Found, ...]:
    return read_claims(read_pages(path.read_bytes(), SETTINGS))


def scored(path: Path) -> Score:
    labels = [Label(value, metric, tuple(pages)) for value, metric, pages in LABELLED[path.name]]
    return score(found_in(path), labels)


@pytest.mark.parametrize("name", [name for name in LABELLED if name.startswith("s")])
def test_every_claim_of_a_sheet_is_found_and_nothing_else(name: str, file_of: Callable[[str], Path]) -> None:
    result = scored(file_of(name))
    assert (result.precision, result.recall) == (1.0, 1.0)


@pytest.mark.parametrize("name", ["betareg.pdf", "rq.pdf"])
def test_claims_of_papers_are_found(name: str, file_of: Callable[[str], Path]) -> None:
    result = scored(file_of(name))
    assert result.precision >= 0.95 and result.recall >= 0.95


def test_a_claim_says_what_was_measured_on_what_and_how(file_of: Callable[[str], Path]) -> None:
    lda, _, nearest = found_in(file_of("s1_wine_loo.pdf"))
    assert (lda.metric, lda.value, lda.printed, lda.decimals, lda.unit) == ("LOO accuracy", 98.9, "98.9", 1, "%")
    assert (lda.dataset, lda.method, lda.split, lda.page) == ("wine", "LDA", "leave-one-out", 2)
    assert nearest.method == "1NN (z-transformed)" and nearest.quote.endswith("LOO accuracy (%) 96.1")
    assert lda.box[3] < nearest.box[1]


def test_a_listing_is_read_with_the_call_that_made_it(file_of: Callable[[str], Path]) -> None:
    income = next(claim for claim in found_in(file_of("betareg.pdf")) if claim.printed == "-0.01230")
    assert (income.metric, income.dataset, income.decimals) == ("coefficient income", "FoodExpenditure", 5)
    assert income.method == "betareg(formula = I(food/income) ~ income + persons, data = FoodExpenditure)"


def test_a_sentence_is_proposed_with_what_it_says(make_pdf: Callable[..., bytes]) -> None:
    pages = read_pages(
        make_pdf(["The method is new. It reaches an", "accuracy of 93.5% on the Pima data. It is fast."]), SETTINGS
    )
    (claim,) = read_claims(pages)
    assert (claim.metric, claim.printed, claim.unit, claim.dataset) == ("accuracy", "93.5", "%", "Pima")
    assert claim.quote == "It reaches an accuracy of 93.5% on the Pima data." and claim.confidence < 0.9


def test_columns_are_told_apart_and_empty_cells_filled(make_pdf: Callable[..., bytes]) -> None:
    lines = ["Table 3. Results", "Dataset\tMethod\tAccuracy (%)", "iris\tLDA\t98.0", "\tQDA\t97.3"]
    claims = read_claims(read_pages(make_pdf(lines), SETTINGS))
    assert [(c.dataset, c.method, c.metric, c.unit, c.printed) for c in claims] == [
        ("iris", "LDA", "Accuracy", "%", "98.0"),
        ("iris", "QDA", "Accuracy", "%", "97.3"),
    ]


def test_text_without_results_claims_nothing(make_pdf: Callable[..., bytes]) -> None:
    assert (
        read_claims(read_pages(make_pdf(["In 1936, 150 flowers of 3 kinds were measured (p. 179)."]), SETTINGS)) == ()
    )


def test_a_value_that_the_page_does_not_print_is_refused(make_pdf: Callable[..., bytes]) -> None:
    pages = read_pages(make_pdf(["accuracy 0.81", "error 0.19"]), SETTINGS)
    assert find_ground(pages, 1, "0.19").quote == "error 0.19"
    for printed, code in (
        ("0.8", "claim_not_on_page"),
        ("0.810", "claim_not_on_page"),
        ("high", "claim_without_number"),
    ):
        with pytest.raises(InvalidInput) as refused:
            find_ground(pages, 1, printed)
        assert refused.value.code == code


@pytest.mark.parametrize(
    ("text", "value", "decimals", "unit"),
    [
        ("−7.1299", -7.1299, 4, None),
        ("(98.9%)", 98.9, 1, "%"),
        ("1,234.50", 1234.5, 2, None),
        ("6.3e-05", 6.3e-05, 6, None),
        ("0.606,", 0.606, 3, None),
        ("12.", 12.0, 0, None),
    ],
)
def test_numbers_are_read_as_printed(text: str, value: float, decimals: int, unit: str | None) -> None:
    number = parse_number(text)
    assert number is not None
    assert (number.value, number.decimals, number.unit) == (value, decimals, unit)


@pytest.mark.parametrize("text", ["3rd", "x2", "1.2.3", "", "-", ".", "%", "1e999", "12-14", "nan", "1_000"])
def test_what_is_no_number_is_none(text: str) -> None:
    assert parse_number(text) is None


@given(st.integers(-(10**9), 10**9), st.integers(0, 9))
def test_a_printed_decimal_is_had_back(digits: int, decimals: int) -> None:
    printed = f"{digits / 10**decimals:.{decimals}f}"
    number = parse_number(printed)
    assert number is not None
    assert (number.printed, number.value, number.decimals) == (printed, float(printed), decimals)
