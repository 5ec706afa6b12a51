"""Word documents, and archives that only claim to be one."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import docx
import pytest

from stemma.knowledge.convert import Unreadable, convert
from stemma.knowledge.models import ConvertedDocument
from stemma.store.settings import Settings

SETTINGS = Settings(home=Path("unused"), max_expanded_bytes=20_000_000)
RELATIONSHIPS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def _document(title: str = "") -> bytes:
    document = docx.Document()
    document.core_properties.title = title
    document.add_heading("Annual report", level=1)
    document.add_paragraph("We grew frogs & newts.")
    document.add_heading("Costs", level=2)
    table = document.add_table(rows=2, cols=2)
    for row, cells in enumerate((("Item", "Price"), ("Pond", "12"))):
        for column, cell in enumerate(cells):
            table.cell(row, column).text = cell
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def _repacked(data: bytes, replace: dict[str, bytes | None]) -> bytes:
    """The archive with parts replaced, added, or (None) left out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        parts = {name: old.read(name) for name in old.namelist()} | replace
        for name, part in parts.items():
            if part is not None:
                new.writestr(name, part)
    return buffer.getvalue()


def _convert(data: bytes, uri: str = "report.docx") -> ConvertedDocument:
    return convert(data, uri=uri, media_type=None, settings=SETTINGS)


def _code(data: bytes) -> str:
    with pytest.raises(Unreadable) as caught:
        _convert(data)
    return caught.value.code


def test_headings_paragraphs_and_tables_are_kept() -> None:
    document = _convert(_document())
    assert [(h.level, h.title) for h in document.headings] == [(1, "Annual report"), (2, "Costs")]
    assert "We grew frogs & newts." in document.text
    assert "| Pond | 12 |" in document.text
    assert document.title == "Annual report"


def test_the_title_of_the_properties_wins() -> None:
    assert _convert(_document("Frogs & newts 2026")).title == "Frogs & newts 2026"


def test_a_word_document_under_another_name_is_recognised() -> None:
    assert "frogs" in _convert(_document(), uri="upload.bin").text


def test_a_bomb_is_refused_by_its_declared_size() -> None:
    assert _code(_repacked(_document(), {"word/media/pad.bin": bytes(30_000_000)})) == "zip_bomb"


def test_a_bomb_is_refused_by_its_ratio_below_the_size_limit() -> None:
    assert _code(_repacked(_document(), {"word/document.xml": b" " * 19_000_000})) == "zip_bomb"


def test_a_bomb_that_lies_about_its_size_is_refused() -> None:
    bomb = bytearray(_repacked(_document(), {"word/media/pad.bin": bytes(30_000_000)}))
    declared = (30_000_000).to_bytes(4, "little")
    assert bomb.count(declared) >= 1
    lying = bytes(bomb).replace(declared, (1000).to_bytes(4, "little"))
    assert _code(lying) == "docx_damaged"


def test_a_document_type_declaration_is_refused() -> None:
    xml = f"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "{"ha" * 100}">
    <!ENTITY b "{"&a;" * 100}">]>
    <w:document xmlns:w="{WORD}"><w:body><w:p><w:r><w:t>&b;</w:t></w:r></w:p></w:body></w:document>"""
    assert _code(_repacked(_document(), {"word/document.xml": xml.encode()})) == "docx_damaged"


def test_linked_files_are_never_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("TOP SECRET")
    drawing = "http://schemas.openxmlformats.org/drawingml/2006/"
    xml = f"""<w:document xmlns:w="{WORD}" xmlns:r="{RELATIONSHIPS}"><w:body><w:p><w:r>
    <w:t>visible words</w:t>
    <w:drawing><wp:inline xmlns:wp="{drawing}wordprocessingDrawing"><a:graphic xmlns:a="{drawing}main">
    <a:graphicData><pic:pic xmlns:pic="{drawing}picture"><pic:blipFill><a:blip r:link="rId99"/></pic:blipFill>
    </pic:pic></a:graphicData></a:graphic></wp:inline></w:drawing></w:r></w:p></w:body></w:document>"""
    relationships = f"""<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
    <Relationship Id="rId99" Type="{RELATIONSHIPS}/image" Target="{secret.as_uri()}" TargetMode="External"/>
    </Relationships>"""
    parts = {"word/document.xml": xml.encode(), "word/_rels/document.xml.rels": relationships.encode()}
    text = _convert(_repacked(_document(), parts)).text
    assert text.strip() == "visible words"


@pytest.mark.parametrize(
    "data",
    [
        b"PK\x03\x04 and then nothing",
        b"words that are no archive",
        _document()[:-200],
        _repacked(_document(), {"word/document.xml": None}),
        _repacked(_document(), {"word/document.xml": b"<w:document"}),
    ],
)
def test_what_is_no_whole_word_document_is_damaged(data: bytes) -> None:
    assert _code(data) == "docx_damaged"
