from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from stemma.papers.kid.readability import GRADE, measure
from stemma.papers.kid.storyboard import Found, Storyboard, Told, tell, with_ending
from stemma.papers.reports.verdicts import Verdict

CLAIMS = {
    "iris": Told("5.9037", "", "coef sepal width", "iris", "Fisher discriminant"),
    "wine": Told("98.9", "%", "LOO accuracy", "wine", "LDA"),
    "neighbors": Told("0.9133", "", "accuracy", "GunPoint", "1-NN ED"),
    "cells": Told("97.5", "%", "10-fold CV accuracy", "breast cancer wisconsin (diagnostic)", "linear plane"),
    "food": Told("0.5602", "", "slope", "Engel food expenditure", "quantile regression"),
    "else": Told("12", "s", "latency", "requests", "a queue"),
}
MATCH = Found(98.9, 98.8764, "98.9", Verdict.REPRODUCED)


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
@pytest.mark.parametrize("verdict", [None, *Verdict])
def test_every_page_is_for_the_third_grade(claim: Told, verdict: Verdict | None) -> None:
    # Figures are read digit by digit; a long one is hard whatever stands around it.
    short = replace(claim, printed=claim.printed[:4])
    found = verdict and Found(1.0, 1.1, short.printed, verdict, closed=verdict is Verdict.NOT_REPRODUCED)
    told = tell([short], found)
    assert 5 <= len(told.pages) <= 7
    assert told.read().grade <= GRADE
    for page in told.pages:
        assert measure(page.body).grade <= GRADE, page.body
        assert measure(page.alt_text).grade <= GRADE, page.alt_text


def test_pictures_follow_what_the_paper_looks_at() -> None:
    pictures = {name: [page.visual_hint for page in tell([claim]).pages] for name, claim in CLAIMS.items()}
    assert pictures["iris"] == ["paper", "flower", "wall", "ruler", "robot", "bars"]
    assert pictures["neighbors"][1:3] == ["wave", "neighbors"]
    assert pictures["food"][1:3] == ["coins", "line"]
    assert pictures["else"][1:3] == ["dots", "robot"]


def test_before_a_run_the_last_page_waits() -> None:
    told = tell([CLAIMS["wine"]])
    assert told.score is None
    assert "not done the test yet" in told.pages[-1].body


def test_after_a_run_the_last_page_has_both_scores_described() -> None:
    told = with_ending(tell([CLAIMS["wine"]]), [CLAIMS["wine"]], MATCH)
    assert told.score is not None and (told.score.paper, told.score.ours) == (98.9, 98.8764)
    assert "They match!" in told.pages[-1].body
    assert "The left bar is the paper. It stands at 98.9%." in told.pages[-1].alt_text
    assert told.pages[:-1] == tell([CLAIMS["wine"]]).pages[:-1]


def test_a_gap_that_an_alternative_closes_is_told() -> None:
    found = Found(96.1, 95.5056, "95.5", Verdict.NOT_REPRODUCED)
    apart = tell([CLAIMS["wine"]], found)
    assert "do not match" in apart.pages[-1].body and "not as tall" in apart.pages[-1].alt_text
    assert "in a new way" not in apart.pages[-1].body
    assert "in a new way" in tell([CLAIMS["wine"]], replace(found, closed=True)).pages[-1].body


def test_a_paper_without_claims_has_a_story_too() -> None:
    told = tell([])
    assert "did not find one yet" in told.pages[0].body and told.score is None


def test_a_storyboard_needs_its_pages_and_words_for_its_pictures() -> None:
    document = tell([CLAIMS["wine"]]).model_dump(mode="json")
    assert Storyboard.model_validate(document) == tell([CLAIMS["wine"]])
    for broken in (
        {**document, "pages": document["pages"][:4]},
        {**document, "pages": [{**document["pages"][0], "alt_text": ""}, *document["pages"][1:]]},
        {**document, "pages": [{**document["pages"][0], "visual_hint": "dragon"}, *document["pages"][1:]]},
        {**document, "glossary": []},
    ):
        with pytest.raises(ValidationError):
            Storyboard.model_validate(broken)
    assert set(document) == {"pages", "glossary", "score", "told_by"}
