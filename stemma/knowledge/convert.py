"""Any supported document to text with title, headings and pages: which format it is, and who reads it.

The formats themselves live in `stemma.knowledge.conversion`; files and the database do not belong here.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Literal

from stemma.knowledge.conversion import decoding, docx, html, markdown, pdf, restructured
from stemma.knowledge.conversion.titles import shortened, title_from_uri
from stemma.knowledge.conversion.unreadable import Unreadable, too_large
from stemma.knowledge.models import ConvertedDocument
from stemma.store.settings import Settings

__all__ = ["SUPPORTED", "Unreadable", "convert", "converter_version", "media_type_of"]

Format = Literal["markdown", "rst", "plain", "html", "pdf", "docx"]

_MEDIA_TYPES: dict[Format, str] = {
    "markdown": "text/markdown",
    "rst": "text/x-rst",
    "plain": "text/plain",
    "html": "text/html",
    "pdf": "application/pdf",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
}
_BY_MEDIA_TYPE: dict[str, Format] = {media_type: name for name, media_type in _MEDIA_TYPES.items()} | {
    "text/x-markdown": "markdown",
    "text/prs.fallenstein.rst": "rst",
    "application/xhtml+xml": "html",
}
_BY_EXTENSION: dict[str, Format] = {
    ".md": "markdown", ".markdown": "markdown", ".rst": "rst", ".txt": "plain", ".text": "plain", "": "plain",
    ".html": "html", ".htm": "html", ".xhtml": "html", ".pdf": "pdf", ".docx": "docx",
}  # fmt: skip
_VERSIONS: dict[Format, tuple[str, tuple[str, ...]]] = {
    "markdown": (markdown.VERSION, ()),
    "rst": (restructured.VERSION, ()),
    "plain": ("plain-1", ()),
    "html": (f"{html.VERSION}+{markdown.VERSION}", ("markdownify", "beautifulsoup4")),
    "pdf": (pdf.VERSION, ("pypdfium2",)),
    "docx": (
        f"{docx.VERSION}+{html.VERSION}+{markdown.VERSION}",
        ("mammoth", "markdownify", "beautifulsoup4"),
    ),
}
_UNSPECIFIC = frozenset({"text/plain", "application/octet-stream", "application/zip", ""})

SUPPORTED = "Markdown (.md), reStructuredText (.rst), plain text (.txt), HTML (.html), PDF (.pdf) and Word (.docx)"


def convert(data: bytes, *, uri: str, media_type: str | None, settings: Settings) -> ConvertedDocument:
    """Read one document, given its bytes, its name and what its sender says that it is.

    Raises Unreadable with a stable code when it cannot be read: `unsupported_type`, `not_text`,
    `contains_nul`, `encoding_unknown`, `empty`, `too_large`, `zip_bomb`, `pdf_encrypted`, `pdf_damaged`,
    `pdf_without_text`, `docx_damaged`, `docx_encrypted`, `html_damaged`.
    """
    if len(data) > settings.max_document_bytes:
        raise too_large(len(data), settings)
    if not data.strip():
        raise _empty()
    kind = _format(data, uri, media_type)
    document = _read(kind, data, uri, settings)
    if not any(map(str.isalnum, document.text)):
        raise _empty()
    if len(document.text) > settings.max_expanded_bytes:
        raise Unreadable("too_large", f"The document holds more than {settings.max_expanded_bytes:,} characters.")
    return document


def media_type_of(data: bytes, *, uri: str, media_type: str | None) -> str:
    """The media type under which `convert` would read this; raises Unreadable `unsupported_type`."""
    return _MEDIA_TYPES[_format(data, uri, media_type)]


def converter_version(media_type: str) -> str:
    """What a conversion of this media type depends on: our code's version and its libraries'."""
    own, libraries = _VERSIONS[_BY_MEDIA_TYPE[media_type]]
    return " ".join([own, *(f"{library}={version(library)}" for library in libraries)])


def _empty() -> Unreadable:
    return Unreadable("empty", "The document holds no words.")


def _format(data: bytes, uri: str, media_type: str | None) -> Format:
    if b"%PDF-" in data[:1024]:
        return "pdf"
    claimed = _claimed(uri, media_type)
    if data.startswith(b"PK\x03\x04") and docx.is_docx(data):
        return "docx"
    if claimed is None:
        what = media_type or PurePosixPath(uri).suffix or "this type"
        raise Unreadable(
            "unsupported_type", f"Documents of type {what} are not read.", hint=f"Supported are {SUPPORTED}."
        )
    return claimed


def _claimed(uri: str, media_type: str | None) -> Format | None:
    declared = (media_type or "").partition(";")[0].strip().lower()
    by_type = _BY_MEDIA_TYPE.get(declared)
    if by_type is not None and declared not in _UNSPECIFIC:
        return by_type
    if declared and declared not in _UNSPECIFIC:
        return None
    return by_type if ":" in uri and "/" not in uri else _BY_EXTENSION.get(PurePosixPath(uri).suffix.lower())


def _read(kind: Format, data: bytes, uri: str, settings: Settings) -> ConvertedDocument:
    fallback = title_from_uri(uri)
    pages: tuple[int, ...] = ()
    if kind == "pdf":
        limit = settings.max_expanded_bytes
        text, title, headings, pages = pdf.read_pdf(data, fallback_title=fallback, max_expanded_bytes=limit)
    elif kind == "docx":
        limit = settings.max_expanded_bytes
        text, title, headings = docx.read_docx(data, fallback_title=fallback, max_expanded_bytes=limit)
    elif kind == "html":
        text, title, headings = html.read_html(decoding.decode(data, html=True), fallback_title=fallback)
    elif kind == "markdown":
        text, title, headings = markdown.read_markdown(decoding.decode(data), fallback_title=fallback)
    elif kind == "rst":
        text, title, headings = restructured.read_restructured(decoding.decode(data), fallback_title=fallback)
    else:
        text, title, headings = decoding.decode(data), fallback, ()
    return ConvertedDocument(
        text=text,
        title=shortened(title) or fallback,
        media_type=_MEDIA_TYPES[kind],
        converter=converter_version(_MEDIA_TYPES[kind]),
        headings=headings,
        page_starts=pages,
    )
