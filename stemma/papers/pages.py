"""The pages of a PDF as words with boxes, in the lines that they are printed in, and pictures of them.

What the words say is `claims`' business.
"""

from __future__ import annotations

import ctypes
import io
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stemma.errors import InvalidInput, NotFound, TooLarge, UnsupportedType
from stemma.knowledge.conversion.pdfium import opened
from stemma.knowledge.conversion.titles import shortened
from stemma.knowledge.conversion.unreadable import Unreadable
from stemma.papers.model import Box
from stemma.papers.versions import PAGES
from stemma.store.settings import Settings

_HEAD: Final = 1024
_HYPHENS: Final = {"\x02": "-", "\ufffe": "-", "\xad": "-"}
_PRECISION: Final = 100


@dataclass(frozen=True, slots=True)
class Word:
    """What is printed without a gap, its box in points from the top left corner, and the size of its type."""

    text: str
    box: Box
    size: float

    @property
    def middle(self) -> float:
        """The height of its middle."""
        return (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True, slots=True)
class Line:
    """Words that stand side by side, from left to right."""

    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        """The words with a space between them."""
        return " ".join(word.text for word in self.words)

    @property
    def size(self) -> float:
        """The size of its largest type."""
        return max(word.size for word in self.words)


@dataclass(frozen=True, slots=True)
class Page:
    """A page: its number from 1, its width and height in points, its lines in the order in which they are read."""

    number: int
    width: float
    height: float
    lines: tuple[Line, ...]

    @property
    def text(self) -> str:
        """Its lines, one below the other."""
        return "\n".join(line.text for line in self.lines)


def read_pages(data: bytes, settings: Settings) -> tuple[Page, ...]:
    """The pages of a PDF.

    Raises InvalidInput (`file_empty`, `pdf_encrypted`, `pdf_damaged`, `pdf_without_text`), UnsupportedType
    (`not_a_pdf`) and TooLarge (`too_many_pages`, `too_large`), each with field="file".
    """
    _check_head(data)
    try:
        with opened(data) as document:
            pages = _read_all(document, settings)
    except Unreadable as error:
        refusal = TooLarge if error.code == "too_large" else InvalidInput
        raise refusal(error.code, error.message, field="file", hint=error.hint) from error
    if not any(page.lines for page in pages):
        raise InvalidInput(
            "pdf_without_text",
            f"None of the {len(pages)} pages holds text; they are probably scanned images.",
            field="file",
            hint="Run text recognition (OCR) on it first.",
        )
    return pages


def _check_head(data: bytes) -> None:
    if not data:
        raise InvalidInput("file_empty", "The file is empty.", field="file", hint="Send a file with content.")
    if b"%PDF-" not in data[:_HEAD]:
        hint = "Papers are read from PDFs alone."
        raise UnsupportedType("not_a_pdf", "The file is no PDF, whatever its name says.", field="file", hint=hint)


def _read_all(document: Any, settings: Settings) -> tuple[Page, ...]:
    count = len(document)
    if count > settings.papers_max_pages:
        raise TooLarge(
            "too_many_pages",
            f"The PDF has {count:,} pages; at most {settings.papers_max_pages:,} are read.",
            field="file",
            hint="Take out the pages that matter, or raise STEMMA_PAPERS_MAX_PAGES.",
        )
    if not count:
        raise Unreadable("pdf_damaged", "The PDF has no pages.")
    pages, characters = [], 0
    for index in range(count):
        pages.append(_read_page(document, index, settings.max_expanded_bytes - characters))
        characters += len(pages[-1].text)
    return tuple(pages)


def _read_page(document: Any, index: int, limit: int) -> Page:
    page = document[index]
    try:
        width, height = page.get_size()
        text_page = page.get_textpage()
        try:
            if text_page.count_chars() > limit:
                raise Unreadable("too_large", "The PDF holds more text than is read.")
            lines = tuple(_merged(_lines(page, text_page, width, height)))
        finally:
            text_page.close()
    finally:
        page.close()
    return Page(index + 1, round(width, 2), round(height, 2), lines)


@dataclass(slots=True)
class _Growing:
    """A word while its characters are read; the box is in the coordinates of the PDF."""

    text: str
    left: float
    bottom: float
    right: float
    top: float
    size: float


def _lines(page: Any, text_page: Any, width: float, height: float) -> Iterator[Line]:
    """PDFium's lines: it puts line ends where the next character stands below, and spaces where there is a gap."""
    words: list[Word] = []
    for grown in _words(text_page):
        if grown is None:
            if words:
                yield Line(tuple(words))
            words = []
        elif (box := _box(page, grown, width, height)) is not None:
            words.append(Word(grown.text, box, round(grown.size, 1)))
    if words:
        yield Line(tuple(words))


def _words(text_page: Any) -> Iterator[_Growing | None]:
    """The words of a page, and None where a line ends."""
    import pypdfium2.raw as pdfium

    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    grown: _Growing | None = None
    for index in range(text_page.count_chars()):
        character = _character(pdfium.FPDFText_GetUnicode(text_page, index))
        if character.isspace() or not character:
            if grown is not None:
                yield grown
            grown = None
            if character in "\r\n" and character:
                yield None
            continue
        pdfium.FPDFText_GetCharBox(text_page, index, left, right, bottom, top)
        if grown is None:
            size = pdfium.FPDFText_GetFontSize(text_page, index)
            grown = _Growing(character, left.value, bottom.value, right.value, top.value, size)
        else:
            grown.text += character
            grown.left, grown.right = min(grown.left, left.value), max(grown.right, right.value)
            grown.bottom, grown.top = min(grown.bottom, bottom.value), max(grown.top, top.value)
    if grown is not None:
        yield grown


def _character(code: int) -> str:
    """A character as it is kept; empty for what has none that could be stored."""
    character = chr(code) if 0 < code < 0xD800 or 0xDFFF < code < 0x110000 else ""
    character = _HYPHENS.get(character, character)
    return character if character.isprintable() or character.isspace() else ""


def _box(page: Any, word: _Growing, width: float, height: float) -> Box | None:
    """A word's box as the page is shown, turned and cropped; None for what lies outside of it."""
    import pypdfium2.raw as pdfium

    across, down = ctypes.c_int(), ctypes.c_int()
    corners = []
    for x, y in ((word.left, word.top), (word.right, word.bottom)):
        scaled = round(width * _PRECISION), round(height * _PRECISION)
        if not pdfium.FPDF_PageToDevice(page, 0, 0, *scaled, 0, x, y, across, down):
            return None
        corners.append((across.value / _PRECISION, down.value / _PRECISION))
    (x0, y0), (x1, y1) = corners
    box = min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
    inside = box[2] > 0 and box[3] > 0 and box[0] < width and box[1] < height
    return box if inside else None


def _merged(lines: Iterator[Line]) -> Iterator[Line]:
    """Lines of one height that follow each other from left to right are one: the cells of a table's row."""
    before: Line | None = None
    for line in lines:
        if before is not None and _goes_on(before, line):
            before = Line((*before.words, *line.words))
            continue
        if before is not None:
            yield before
        before = line
    if before is not None:
        yield before


def _goes_on(before: Line, line: Line) -> bool:
    last, first = before.words[-1], line.words[0]
    apart = abs(last.middle - first.middle)
    return first.box[0] >= last.box[2] and apart < 0.3 * min(last.size, first.size)


def title_of(pages: Sequence[Page]) -> str:
    """The lines of the largest type on the first page that has any; empty where that says nothing."""
    first = next((page for page in pages if page.lines), None)
    if first is None:
        return ""
    sized = [line for line in first.lines if any(map(str.isalpha, line.text))]
    if not sized:
        return ""
    largest = max(line.size for line in sized)
    start = next(index for index, line in enumerate(sized) if line.size >= 0.97 * largest)
    words = [sized[start].text]
    for line in sized[start + 1 :]:
        if line.size < 0.97 * largest:
            break
        words.append(line.text)
    # A page in one size has no title but its first line.
    uniform = statistics.median(line.size for line in sized) >= 0.97 * largest
    return shortened(words[0] if uniform else " ".join(words))


def to_json(pages: Sequence[Page]) -> bytes:
    """Pages as they are stored; equal pages give equal bytes."""
    stored = {
        "version": PAGES,
        "pages": [
            {
                "number": page.number,
                "width": page.width,
                "height": page.height,
                "lines": [[[word.text, *word.box, word.size] for word in line.words] for line in page.lines],
            }
            for page in pages
        ],
    }
    return json.dumps(stored, ensure_ascii=False, separators=(",", ":")).encode()


def from_json(data: bytes) -> tuple[Page, ...]:
    """Pages that `to_json` stored."""
    return tuple(
        Page(page["number"], page["width"], page["height"], tuple(map(_stored_line, page["lines"])))
        for page in json.loads(data)["pages"]
    )


def _stored_line(words: list[list[Any]]) -> Line:
    return Line(tuple(Word(text, (left, top, right, bottom), size) for text, left, top, right, bottom, size in words))


def picture(data: bytes, number: int, *, scale: float = 2.0) -> bytes:
    """A page as PNG, `scale` pixels for a point.

    Raises NotFound(page_not_found), InvalidInput(pdf_damaged, pdf_encrypted).
    """
    try:
        with opened(data) as document:
            if not 1 <= number <= len(document):
                raise page_not_found(number)
            page = document[number - 1]
            # What a PDF claims to be metres wide is shown smaller.
            bitmap = page.render(scale=min(scale, 4000 / max(1.0, *page.get_size())))
            image = bitmap.to_pil()
    except Unreadable as error:
        raise InvalidInput(error.code, error.message, field="file", hint=error.hint) from error
    written = io.BytesIO()
    image.convert("RGB").save(written, "PNG")
    return written.getvalue()


def page_not_found(number: int) -> NotFound:
    """What is raised for a page that a paper does not have."""
    return NotFound("page_not_found", f"The paper has no page {number}.", field="page")
