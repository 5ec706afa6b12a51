"""From bytes that claim to be text to clean text: encoding, line ends and characters that no text may hold.

What the text means (headings, markup) is not decided here.
"""

from __future__ import annotations

import codecs
import re

from stemma.knowledge.conversion.unreadable import Unreadable

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BINARY_MAGIC = (
    b"\x7fELF", b"MZ", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf",
    b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe", b"\xfe\xed\xfa", b"\xd0\xcf\x11\xe0", b"SQLite format 3",
    b"PK\x03\x04", b"RIFF", b"OggS", b"\x00asm",
)  # fmt: skip
_CONTROL = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1b"))
_CONTROL_SHARE = 0.02
_CHAOS_TOLERANCE = 0.1
_SURROGATES = re.compile("[\ud800-\udfff]")
_DECLARED_CHARSET = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?([A-Za-z0-9_.:-]{1,40})""", re.IGNORECASE)


def decode(data: bytes, *, html: bool = False) -> str:
    """Decode by byte order mark, strict UTF-8, a charset that HTML declares, or charset-normalizer's guess.

    Raises Unreadable `not_text` for binary data, `contains_nul` for U+0000 (PostgreSQL text cannot hold it)
    and `encoding_unknown` when no encoding fits.
    """
    text = _decoded(data, html=html)
    if "\x00" in text:
        raise Unreadable(
            "contains_nul",
            "The text contains NUL bytes, which no text file should.",
            hint="Save it again as UTF-8 text.",
        )
    return clean(text)


def clean(text: str) -> str:
    """Normalise line ends to LF and remove what a database text cannot hold: NUL and lone surrogates."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")
    return _SURROGATES.sub("", text)


def _decoded(data: bytes, *, html: bool) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return _strict(data, encoding)
    if data.startswith(_BINARY_MAGIC) or _control_share(data) > _CONTROL_SHARE:
        raise Unreadable("not_text", "This is binary data, not text.", hint="Check the file's name and content.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return _from_declaration(data) if html and _DECLARED_CHARSET.search(data[:4096]) else _guessed(data)


def _strict(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise Unreadable(
            "encoding_unknown",
            f"The file starts like {encoding} but breaks its rules at byte {error.start}.",
            hint="Save it again as UTF-8.",
        ) from error


def _control_share(data: bytes) -> float:
    sample = data[:65536]
    return (len(sample) - len(sample.translate(None, _CONTROL))) / max(len(sample), 1)


def _from_declaration(data: bytes) -> str:
    declared = _DECLARED_CHARSET.search(data[:4096])
    assert declared is not None
    try:
        return data.decode(declared.group(1).decode("ascii"))
    except (LookupError, UnicodeDecodeError):
        return _guessed(data)


def _guessed(data: bytes) -> str:
    """charset-normalizer's best guess, or Windows-1252, by far the commonest of them, where that reads as
    well."""
    from charset_normalizer import from_bytes

    matches = from_bytes(data, preemptive_behaviour=False)
    best = matches.best()
    if best is None:
        raise Unreadable("encoding_unknown", "No known text encoding fits the file.", hint="Save it again as UTF-8.")
    for match in matches:
        alike = match.chaos <= best.chaos + _CHAOS_TOLERANCE and match.coherence >= best.coherence
        if match.encoding == "cp1252" and alike:
            return str(match)
    return str(best)
