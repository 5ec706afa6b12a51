"""Word documents (DOCX) by way of mammoth's HTML, behind a guard against archives that unpack without end."""

from __future__ import annotations

import io
import zipfile
import zlib

from stemma.knowledge.conversion.html import read_html
from stemma.knowledge.conversion.unreadable import Unreadable
from stemma.knowledge.models import Heading

VERSION = "docx-1"
MAIN_PART = "word/document.xml"

_CORE_PART = "docProps/core.xml"
_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_MAX_MEMBERS = 10_000
_MAX_RATIO = 200
_RATIO_MATTERS_FROM = 10_000_000
_BLOCK = 1 << 20


def read_docx(data: bytes, *, fallback_title: str, max_expanded_bytes: int) -> tuple[str, str, tuple[Heading, ...]]:
    """Turn a DOCX into (Markdown, title, headings); pictures are left out, linked files are never opened.

    Raises Unreadable `zip_bomb` before unpacking more than `max_expanded_bytes`, `docx_damaged` for anything
    that is not a whole Word document.
    """
    import mammoth

    guard(data, max_expanded_bytes)
    try:
        result = mammoth.convert_to_html(
            io.BytesIO(data),
            convert_image=_no_image,
            external_file_access=False,
            include_embedded_style_map=False,
        )
    except RecursionError as error:
        raise _damaged("its parts are nested too deeply") from error
    except Exception as error:  # mammoth raises whatever its parsers raise on a damaged part
        raise _damaged(f"{type(error).__name__}: {error}") from error
    text, title, headings = read_html(result.value, fallback_title=fallback_title)
    return text, _core_title(data) or title, headings


def is_docx(data: bytes) -> bool:
    """Whether a ZIP archive holds the main part of a Word document."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return MAIN_PART in archive.NameToInfo
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return False


def guard(data: bytes, max_expanded_bytes: int) -> None:
    """Refuse a ZIP by its declared sizes first, then by really unpacking it in blocks, keeping nothing."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            declared = sum(member.file_size for member in members)
            ratio = declared / max(len(data), 1)
            if len(members) > _MAX_MEMBERS or declared > max_expanded_bytes:
                raise _bomb(f"{len(members)} parts of {declared:,} bytes in all")
            if ratio > _MAX_RATIO and declared > _RATIO_MATTERS_FROM:
                raise _bomb(f"{declared:,} bytes out of {len(data):,}")
            _unpack(archive, members, max_expanded_bytes)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, OSError) as error:
        raise _damaged(str(error) or type(error).__name__) from error
    except RuntimeError as error:
        raise Unreadable("docx_encrypted", "The document is encrypted.", hint="Save it without a password.") from error


def _unpack(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], limit: int) -> None:
    left = limit
    for member in members:
        is_xml = member.filename.endswith((".xml", ".rels"))
        with archive.open(member) as stream:
            head = True
            while block := stream.read(_BLOCK):
                left -= len(block)
                if left < 0:
                    raise _bomb(f"more than {limit:,} bytes")
                if is_xml and head and b"<!DOCTYPE" in block[:4096].upper():
                    raise _damaged(f"{member.filename} declares a document type, which Word never does")
                head = False


def _no_image(_: object) -> list[object]:
    return []


def _core_title(data: bytes) -> str | None:
    from xml.etree import ElementTree

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if _CORE_PART not in archive.NameToInfo:
            return None
        core = archive.read(_CORE_PART)
    try:
        title = ElementTree.fromstring(core).findtext(_TITLE)  # noqa: S314 (the guard refused DOCTYPE)
    except ElementTree.ParseError:
        return None
    return " ".join(title.split()) or None if title else None


def _damaged(detail: str) -> Unreadable:
    return Unreadable(
        "docx_damaged",
        f"The Word document cannot be read: {detail}.",
        hint="Open it in Word and save it again.",
    )


def _bomb(detail: str) -> Unreadable:
    return Unreadable("zip_bomb", f"The document unpacks to too much: {detail}.", hint="It is not a normal document.")
