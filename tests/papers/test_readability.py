from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.papers.kid.readability import count_syllables, measure

SPOKEN = {
    1: "a the made same does close wine makes scored asked played tree three guess times grouped 8",
    2: "paper promise number needed wanted boxes table tables little people closest neighbor measure places pages "
    "changes pictures story again machine outside science people's flower quiet agree 7 12",
    3: "computer different idea area banana 9.5",
    4: "experiment information mathematics 98.9",
}
WORDS = st.lists(st.sampled_from(" ".join(SPOKEN.values()).split()), min_size=1, max_size=12)


@pytest.mark.parametrize(("count", "word"), [(count, word) for count, text in SPOKEN.items() for word in text.split()])
def test_a_word_has_the_syllables_that_it_is_spoken_with(count: int, word: str) -> None:
    assert count_syllables(word) == count


def test_the_grade_is_that_of_the_formula() -> None:
    found = measure("The people made a promise. It was a number.")
    assert (found.sentences, found.words, found.syllables) == (2, 9, 12)
    assert found.grade == pytest.approx(0.39 * 4.5 + 11.8 * 12 / 9 - 15.59, abs=0.01)


def test_a_scholar_s_sentence_is_not_for_children() -> None:
    text = "Contemporary statistical methodology necessitates considerable mathematical sophistication."
    assert measure(text).grade > 20


@pytest.mark.parametrize("text", ["", " \n", "…", "—?!"])
def test_a_text_without_words_has_no_grade(text: str) -> None:
    assert measure(text).grade == 0


@given(WORDS)
def test_two_sentences_are_no_harder_than_one_of_the_same_words(words: list[str]) -> None:
    one = measure(f"{' '.join(words)} {' '.join(words)}.")
    two = measure(f"{' '.join(words)}. {' '.join(words)}.")
    assert two.grade <= one.grade and two.syllables == one.syllables


@given(st.text(max_size=200))
def test_any_text_is_measured(text: str) -> None:
    found = measure(text)
    assert found.words <= found.syllables or found.words == 0
    assert found.sentences <= max(found.words, 0)
