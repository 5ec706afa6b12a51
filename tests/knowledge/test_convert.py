"""Choosing the format, decoding text, and the Markdown, reStructuredText and HTML readers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemma.knowledge.convert import Unreadable, convert, converter_version
from stemma.knowledge.models import ConvertedDocument
from stemma.store.settings import Settings

SETTINGS = Settings(home=Path("unused"), max_document_bytes=1_000_000, max_expanded_bytes=2_000_000)


def _convert(data: bytes | str, uri: str = "note.md", media_type: str | None = None) -> ConvertedDocument:
    raw = data.encode() if isinstance(data, str) else data
    return convert(raw, uri=uri, media_type=media_type, settings=SETTINGS)


def _code(data: bytes | str, uri: str = "note.md", media_type: str | None = None) -> str:
    with pytest.raises(Unreadable) as caught:
        _convert(data, uri, media_type)
    assert caught.value.message
    return caught.value.code


def _outline(document: ConvertedDocument) -> list[tuple[int, str, str]]:
    lines = [document.text[heading.start :].split("\n", 1)[0] for heading in document.headings]
    return [(h.level, h.title, line) for h, line in zip(document.headings, lines, strict=True)]


def test_markdown_keeps_its_text_and_finds_both_kinds_of_headings() -> None:
    source = (
        "# Top *one*\r\n\r\nIntro\r\n\r\nSecond `x`\r\n---\r\n\r\n```\r\n# not a heading\r\n```\r\n\r\n"
        "    # nor this\r\n\r\n### [Third](http://x) ![logo](y) ###\r\nend\r\n"
    )
    document = _convert(source)
    assert document.text == source.replace("\r\n", "\n")
    assert _outline(document) == [
        (1, "Top one", "# Top *one*"),
        (2, "Second x", "Second `x`"),
        (3, "Third", "### [Third](http://x) ![logo](y) ###"),
    ]
    assert (document.title, document.media_type) == ("Top one", "text/markdown")


def test_front_matter_gives_the_title_and_is_not_text() -> None:
    document = _convert("---\ntitle: The plan\ntags: [a]\n---\n# Goals\n\nShip.\n")
    assert (document.title, document.text) == ("The plan", "# Goals\n\nShip.\n")
    assert document.headings[0].start == 0


@pytest.mark.parametrize("source", ["---\nnot a mapping\n---\nword\n", "---\n: [broken\n---\nword\n", "---\nword\n"])
def test_what_only_looks_like_front_matter_stays(source: str) -> None:
    assert _convert(source).text == source


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("# Plan\n\n## A\n\n## B\n", "Plan"),
        ("## Sponsors\n\n## Features\n\n## Installation\n", "road-map"),
        ("# Road map\n\ntext\n\n# Other\n\ntext\n", "Road map"),
        ("word " * 200 + "\n\n# Late\n", "road-map"),
        ("# ![logo](x.png)\n\ntext\n", "road-map"),
        ("text without any heading", "road-map"),
    ],
)
def test_the_title_is_a_heading_only_where_it_names_the_whole(source: str, title: str) -> None:
    assert _convert(source, uri="notes/road-map.md").title == title


def test_restructured_text_finds_sections_by_their_adornment() -> None:
    source = (
        "=====\nTitle\n=====\n\nIntro\n\nFirst ``x``\n-----------\n\ntext\n\nDeep\n~~~~\n\n"
        "text::\n\n    Not\n    ---\n\nSecond\n------\n\n====  ====\ncell  cell\n====  ====\n"
    )
    document = _convert(source, uri="pypi:thing", media_type="text/x-rst; charset=UTF-8")
    assert [(h.level, h.title) for h in document.headings] == [
        (1, "Title"),
        (2, "First x"),
        (3, "Deep"),
        (2, "Second"),
    ]
    assert document.text == source
    assert document.title == "Title"
    assert document.headings[0].start == 0


def test_html_becomes_markdown_without_scripts_and_navigation() -> None:
    page = (
        "<title>My page</title><script>evil()</script><style>p{}</style><nav>Menu</nav>"
        "<h1>Hello</h1><p>one<p>two<ul><li>a<li>b</ul><img src='http://x/y.png' alt='pic'>"
        "<h2>Part</h2><pre>code\n  kept</pre>"
    )
    document = _convert(page, uri="page.html")
    assert document.title == "My page"
    assert [(h.level, h.title) for h in document.headings] == [(1, "Hello"), (2, "Part")]
    assert "  kept" in document.text
    assert "- a\n- b" in document.text
    for gone in ("evil", "Menu", "p{}", "y.png", "My page"):
        assert gone not in document.text


def test_html_in_a_declared_charset_is_decoded_by_it() -> None:
    page = '<meta charset="windows-1251"><p>Привет, мир'.encode("windows-1251")
    assert "Привет, мир" in _convert(page, uri="page.htm").text


def test_html_nested_beyond_reason_is_refused() -> None:
    assert _code("<div>" * 20_000 + "word", uri="page.html") == "html_damaged"


def test_plain_text_has_no_headings() -> None:
    document = _convert("# not markdown\n\ntext", uri="notes/read me.txt")
    assert (document.headings, document.title, document.media_type) == ((), "read me", "text/plain")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_text_in_other_encodings_is_read(encoding: str) -> None:
    text = "Déjà vu à la carte: une tempête d’été brûle les forêts près du château, où l’âne dort.\n" * 5
    assert _convert(text.encode(encoding), uri="a.txt").text == text


def test_a_byte_order_mark_that_lies_is_an_unknown_encoding() -> None:
    assert _code(b"\xef\xbb\xbfcaf\xe9 \xff\xfe", uri="a.txt") == "encoding_unknown"


def test_lone_surrogates_and_carriage_returns_are_cleaned() -> None:
    assert _convert("a\r\nb\rc", uri="a.txt").text == "a\nb\nc"
    assert _code(b"\xff\xfea\x00\x00\xd8b\x00", uri="a.txt") == "encoding_unknown"


def test_nul_bytes_in_text_are_refused() -> None:
    assert _code(b"plain words " * 20 + b"\x00 and more", uri="a.md") == "contains_nul"
    assert _code("a\x00b".encode("utf-16"), uri="a.txt") == "contains_nul"


@pytest.mark.parametrize(
    "data",
    [
        b"\x7fELF\x02\x01\x01" + b"text" * 50,
        b"MZ\x90" + b"text" * 50,
        b"\x89PNG\r\n\x1a\n",
        bytes(range(256)) * 20,
    ],
)
def test_binary_data_under_the_name_of_a_text_is_not_text(data: bytes) -> None:
    assert _code(data, uri="readme.md") == "not_text"


@pytest.mark.parametrize("data", [b"", b" \n\t ", b"\xef\xbb\xbf", b"--- !! ---", b"<html><script>x()</script>"])
def test_a_document_without_words_is_empty(data: bytes) -> None:
    assert _code(data, uri="page.html") == "empty"


@pytest.mark.parametrize(
    ("uri", "media_type"),
    [
        ("a.exe", None),
        ("table.csv", None),
        ("a.md", "image/png"),
        ("pypi:x", None),
        ("a.zip", "application/zip"),
    ],
)
def test_other_types_are_refused_with_what_is_supported(uri: str, media_type: str | None) -> None:
    with pytest.raises(Unreadable) as caught:
        _convert("some words", uri, media_type)
    assert caught.value.code == "unsupported_type"
    assert ".docx" in str(caught.value)


def test_an_unspecific_declared_type_defers_to_the_extension_and_a_specific_one_wins() -> None:
    assert _convert("# A\n\nb", "a.md", "text/plain").media_type == "text/markdown"
    assert _convert("# A\n\nb", "a.md", "application/octet-stream").media_type == "text/markdown"
    assert _convert("# A\n\nb", "a.txt", "text/markdown").media_type == "text/markdown"
    assert _convert("# A\n\nb", "pypi:jaraco.text", "text/markdown").media_type == "text/markdown"


def test_documents_over_the_limit_are_refused() -> None:
    assert _code(b"a " * 600_000, uri="a.txt") == "too_large"


def test_the_converter_names_the_libraries_that_it_depends_on() -> None:
    assert "markdownify=" in _convert("<p>word", uri="a.html").converter
    assert _convert("word").converter == converter_version("text/markdown")


@given(st.text(alphabet=st.sampled_from("ab#=-*`~ \n\t>[]()!<&|:._"), max_size=200))
def test_headings_ascend_and_stay_inside_any_text(source: str) -> None:
    for uri, media_type in (("a.md", None), ("pypi:x", "text/x-rst")):
        try:
            document = _convert(source, uri, media_type)
        except Unreadable as error:
            assert error.code == "empty"
            continue
        starts = [heading.start for heading in document.headings]
        assert starts == sorted(set(starts))
        assert all(0 <= start < len(document.text) for start in starts)
        assert all(1 <= h.level <= 6 and h.title == h.title.strip() != "" for h in document.headings)


@given(st.binary(max_size=400), st.sampled_from(["a.md", "a.txt", "a.html", "a.rst", "a.pdf", "a.docx"]))
def test_any_bytes_are_read_or_refused_with_a_reason(data: bytes, uri: str) -> None:
    try:
        document = _convert(data, uri)
    except Unreadable as error:
        assert error.code
    else:
        assert "\x00" not in document.text
        document.text.encode()
