"""PDF: pages, outline, titles, and the ways in which one cannot be read."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

from stemma.knowledge.convert import Unreadable, convert
from stemma.knowledge.models import ConvertedDocument
from stemma.store.settings import Settings

SETTINGS = Settings(home=Path("unused"))


def _pdf(*pages: list[str], title: str = "", outline: bool = False, password: str | None = None) -> bytes:
    """One PDF; lines that start with # are put into the outline without the #."""
    buffer = io.BytesIO()
    canvas = Canvas(buffer, encrypt=StandardEncryption(password) if password is not None else None)
    canvas.setTitle(title)
    for number, lines in enumerate(pages):
        for index, line in enumerate(lines):
            text = line.removeprefix("#")
            if outline and line.startswith("#"):
                key = f"{number}-{index}"
                canvas.bookmarkPage(key)
                canvas.addOutlineEntry(text, key, level=0)
            canvas.drawString(72, 780 - 20 * index, text)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _convert(data: bytes, uri: str = "paper.pdf", settings: Settings = SETTINGS) -> ConvertedDocument:
    return convert(data, uri=uri, media_type=None, settings=settings)


def _code(data: bytes, settings: Settings = SETTINGS) -> str:
    with pytest.raises(Unreadable) as caught:
        _convert(data, settings=settings)
    return caught.value.code


def test_each_page_starts_where_its_text_starts() -> None:
    document = _convert(_pdf(["First page", "has two lines"], ["Second page"], [], ["Fourth page"]))
    assert len(document.page_starts) == 4
    assert document.text[document.page_starts[1] :].startswith("Second page")
    assert document.text[document.page_starts[3] :].startswith("Fourth page")
    assert list(document.page_starts) == sorted(document.page_starts)
    assert document.media_type == "application/pdf"


def test_syllables_are_joined_and_hyphens_of_names_are_kept() -> None:
    text = _convert(_pdf(["the regres-", "sion of Cribari-", "Neto is old"])).text
    assert "the regression of Cribari-Neto is old" in text


def test_the_outline_gives_headings_at_their_lines() -> None:
    first = ["About the Method of this paper", "#Method", "We did it.", "#It's done"]
    document = _convert(_pdf(first, ["text", "#Results", "Good."], outline=True, title="A fine paper"))
    assert document.title == "A fine paper"
    found = [(h.title, document.text[h.start :].split("\n")[0]) for h in document.headings]
    assert found == [("Method", "Method"), ("It's done", "It's done"), ("Results", "Results")]


@pytest.mark.parametrize("title", ["", "untitled", "Microsoft Word - draft.doc", "paper.tex"])
def test_without_a_useful_title_the_first_line_is_it(title: str) -> None:
    assert _convert(_pdf(["12", "On Frogs", "text"], title=title)).title == "On Frogs"


def test_a_pdf_under_another_name_is_still_a_pdf() -> None:
    assert _convert(_pdf(["Some words"]), uri="notes.txt").media_type == "application/pdf"


def test_an_encrypted_pdf_says_so_and_one_that_opens_without_a_password_is_read() -> None:
    assert _code(_pdf(["secret"], password="hunter2")) == "pdf_encrypted"
    assert "open words" in _convert(_pdf(["open words"], password="")).text


def test_scanned_pages_have_no_text() -> None:
    assert _code(_pdf([], [])) == "pdf_without_text"


@pytest.mark.parametrize("damage", [lambda data: data[:60], lambda _: b"%PDF-1.7\nnothing here"])
def test_a_damaged_pdf_is_refused(damage: Callable[[bytes], bytes]) -> None:
    assert _code(damage(_pdf(["words " * 10]))) == "pdf_damaged"


def test_text_without_end_is_refused(tmp_path: Path) -> None:
    small = Settings(home=tmp_path, max_expanded_bytes=100)
    assert _code(_pdf(*[["many words on each page"]] * 20), settings=small) == "too_large"


def test_pdfs_are_read_from_several_threads() -> None:
    files = [_pdf(*[[f"file {number} page {page}"] for page in range(5)]) for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        documents = list(pool.map(_convert, files))
    assert [f"file {number} page 4" in document.text for number, document in enumerate(documents)] == [True] * 8
