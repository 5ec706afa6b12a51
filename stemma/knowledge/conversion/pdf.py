"""PDF by pypdfium2, page by page, with headings from the outline located on their pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from stemma.knowledge.conversion.decoding import clean
from stemma.knowledge.conversion.pdfium import opened
from stemma.knowledge.conversion.titles import shortened
from stemma.knowledge.conversion.unreadable import Unreadable
from stemma.knowledge.models import Heading

VERSION = "pdf-1"

_LINE_END_HYPHEN = re.compile("[\x02\ufffe](?:\r?\n)?(.?)")
_JUNK_TITLE = re.compile(r"untitled|microsoft (word|powerpoint) - |.*\.(docx?|dvi|tex|indd|pptx?)$", re.IGNORECASE)
_MAX_OUTLINE = 10_000
_TYPOGRAPHIC = {"'": "['’‘]", '"': '["“”]', "-": "[-–—]", "–": "[-–—]", "’": "['’]"}
_PAGE_BREAK = "\n\n"


@dataclass(frozen=True, slots=True)
class _Bookmark:
    level: int
    title: str
    page: int


def read_pdf(
    data: bytes, *, fallback_title: str, max_expanded_bytes: int
) -> tuple[str, str, tuple[Heading, ...], tuple[int, ...]]:
    """Turn a PDF into (text, title, headings, offset at which each page starts).

    Words that PDFium reports as hyphenated at a line end are joined, keeping hyphens that belong to them.
    Raises Unreadable: `pdf_encrypted`, `pdf_damaged`, `pdf_without_text` (scanned pages), `too_large` (text over
    `max_expanded_bytes`).
    """
    pages, bookmarks, metadata_title = _extract(data, max_expanded_bytes)
    if not any(map(str.strip, pages)):
        raise Unreadable(
            "pdf_without_text",
            f"None of the {len(pages)} pages holds text; they are probably scanned images.",
            hint="Run text recognition (OCR) on it first.",
        )
    starts, offset = [], 0
    for page in pages:
        starts.append(offset)
        offset += len(page) + len(_PAGE_BREAK)
    text = _PAGE_BREAK.join(pages)
    title = metadata_title if metadata_title and not _JUNK_TITLE.match(metadata_title) else _first_line(pages)
    return text, title or fallback_title, _located(bookmarks, pages, starts), tuple(starts)


def _extract(data: bytes, limit: int) -> tuple[list[str], list[_Bookmark], str]:
    with opened(data) as document:
        pages, size = [], 0
        for index in range(len(document)):
            pages.append(_page_text(document, index))
            size += len(pages[-1])
            if size > limit:
                raise Unreadable("too_large", f"The PDF holds more than {limit:,} characters of text.")
        if not pages:
            raise Unreadable("pdf_damaged", "The PDF has no pages.")
        return pages, _outline(document), shortened(clean(document.get_metadata_dict().get("Title", "")))


def _page_text(document: Any, index: int) -> str:
    page = document[index]
    try:
        text_page = page.get_textpage()
        try:
            text = text_page.get_text_range(errors="ignore")
        finally:
            text_page.close()
    finally:
        page.close()
    return clean(_LINE_END_HYPHEN.sub(_joined, text)).strip("\n")


def _joined(hyphen: re.Match[str]) -> str:
    """A syllable hyphen goes; one before a capital or a digit (Cribari-Neto, COVID-19) belongs to the word."""
    following = hyphen[1]
    return f"-{following}" if following.isupper() or following.isdigit() else following


def _outline(document: Any) -> list[_Bookmark]:
    bookmarks = []
    for bookmark in document.get_toc(max_depth=6):
        destination = bookmark.get_dest()
        page = destination.get_index() if destination else None
        title = shortened(clean(bookmark.get_title()))
        if page is not None and 0 <= page < len(document) and title:
            bookmarks.append(_Bookmark(min(bookmark.level + 1, 6), title, page))
        if len(bookmarks) == _MAX_OUTLINE:
            break
    return bookmarks


def _located(bookmarks: list[_Bookmark], pages: list[str], starts: list[int]) -> tuple[Heading, ...]:
    headings: list[Heading] = []
    for bookmark in bookmarks:
        page, page_start = pages[bookmark.page], starts[bookmark.page]
        earliest = max(headings[-1].start if headings else 0, page_start)
        found = _find_line(page, bookmark.title, earliest - page_start)
        start = earliest if found is None else page_start + found
        headings.append(Heading(start, bookmark.level, bookmark.title))
    return tuple(headings)


def _find_line(page: str, title: str, position: int) -> int | None:
    """Where a line with this title starts, section number or not; a line of its own is preferred."""
    words = r"\s+".join(
        "".join(_TYPOGRAPHIC.get(character) or re.escape(character) for character in word) for word in title.split()
    )
    numbered = rf"^(?:(?:\d+|[A-Z])(?:\.\d+)*\.?[ \t]+)?(?i:{words})"
    for pattern in (rf"{numbered}[ \t]*$", rf"{numbered}\b"):
        match = re.compile(pattern, re.MULTILINE).search(page, position)
        if match:
            return match.start()
    return None


def _first_line(pages: list[str]) -> str:
    for page in pages:
        for line in page.splitlines():
            if any(map(str.isalpha, line)):
                return shortened(line)
    return ""
