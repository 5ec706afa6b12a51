"""Pages of PDFs as words with boxes, and what cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stemma.errors import StemmaError
from stemma.papers.pages import from_json, picture, read_pages, title_of, to_json
from stemma.store.settings import Settings

SETTINGS = Settings(home=Path("unused"), papers_max_pages=3)


def test_words_have_boxes_where_they_are_printed(make_pdf: Callable[..., bytes]) -> None:
    (page,) = read_pages(make_pdf(["Hello 3.14", "left\tright 42"]), SETTINGS)
    assert [line.text for line in page.lines] == ["Hello 3.14", "left right 42"]
    hello, number = page.lines[0].words
    left, top, right, bottom = hello.box
    # Baselines lie 780 points above the bottom of A4, whose height is 842.
    assert left == pytest.approx(72, abs=2) and bottom == pytest.approx(842 - 780, abs=2)
    assert top < bottom and right < number.box[0]
    assert page.lines[1].words[1].box[0] == pytest.approx(182, abs=2)
    assert from_json(to_json((page,))) == (page,)


def test_boxes_of_a_turned_page_are_as_it_is_shown(make_pdf: Callable[..., bytes]) -> None:
    (page,) = read_pages(make_pdf(["Hello"], rotate=90, top=300), SETTINGS)
    left, top, right, bottom = page.lines[0].words[0].box
    # Turned clockwise, a word runs down, as far from the left as it stood from the bottom.
    assert bottom - top > right - left
    assert left == pytest.approx(300, abs=3) and top == pytest.approx(72, abs=2)


def test_a_title_is_what_is_printed_largest(file_of: Callable[[str], Path]) -> None:
    pages = read_pages(file_of("s2_fisher_iris.pdf").read_bytes(), SETTINGS)
    assert title_of(pages) == "Fisher's compound measurement separating Iris setosa and I. versicolor"


def test_a_page_is_shown_as_a_picture(make_pdf: Callable[..., bytes]) -> None:
    data = make_pdf(["Hello"])
    assert picture(data, 1).startswith(b"\x89PNG")
    with pytest.raises(StemmaError) as refused:
        picture(data, 2)
    assert refused.value.code == "page_not_found"


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda pdf: b"", "file_empty"),
        (lambda pdf: b"<html>not a PDF</html>", "not_a_pdf"),
        (lambda pdf: b"%PDF-1.7\nnothing else", "pdf_damaged"),
        (lambda pdf: pdf(["Hello"])[:400], "pdf_damaged"),
        (lambda pdf: pdf(["Hello"], password="secret"), "pdf_encrypted"),
        (lambda pdf: pdf([], []), "pdf_without_text"),
        (lambda pdf: pdf(*(["Hello"] for _ in range(4))), "too_many_pages"),
    ],
)
def test_what_cannot_be_read_says_why(
    make: Callable[[Callable[..., bytes]], bytes], code: str, make_pdf: Callable[..., bytes]
) -> None:
    with pytest.raises(StemmaError) as refused:
        read_pages(make(make_pdf), SETTINGS)
    assert (refused.value.code, refused.value.field) == (code, "file")


def test_a_pdf_that_lies_about_its_pages_is_refused(make_pdf: Callable[..., bytes]) -> None:
    lying = make_pdf(["Hello"]).replace(b"/Count 1", b"/Count 9")
    assert b"/Count 9" in lying
    with pytest.raises(StemmaError) as refused:
        read_pages(lying, SETTINGS)
    assert refused.value.code in ("pdf_damaged", "too_many_pages")


def test_what_is_printed_beside_the_page_is_not_read(make_pdf: Callable[..., bytes]) -> None:
    (page,) = read_pages(make_pdf(["Hello\tyou\tthere\tand\tthere\tand\toutside"]), SETTINGS)
    assert "outside" not in page.text and "Hello" in page.text
