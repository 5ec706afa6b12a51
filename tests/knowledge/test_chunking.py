"""What holds for the chunks of any document, and what structure does to them."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from stemma.errors import InvalidInput
from stemma.knowledge.chunking import Chunker, bundled_tokenizer
from stemma.knowledge.conversion.markdown import read_markdown
from stemma.knowledge.markup import noise_spans
from stemma.knowledge.models import Chunk, ConvertedDocument, Heading
from stemma.store.settings import Settings

CHUNKER = Chunker(bundled_tokenizer())
SMALL = Chunker(bundled_tokenizer(), chunk_tokens=48, overlap_tokens=8)
TOKENIZER = Tokenizer.from_file(str(bundled_tokenizer()))
TOKENIZER.no_truncation()
TOKENIZER.no_padding()

_WORDS = st.sampled_from(
    ["frog", "newts", "pond", "ultracrepidarian", "Ünïcode", "漢字", "한국어", "x" * 130, "🐸", "`c`"]
)
_LINES = st.lists(_WORDS, min_size=1, max_size=40).map(" ".join)
_BLOCKS = st.one_of(
    _LINES,
    _LINES.map(lambda line: line + ". " + line),
    st.lists(_LINES, min_size=1, max_size=6).map(lambda lines: "```\n" + "\n".join(lines) + "\n```"),
    st.lists(_LINES, min_size=1, max_size=4).map(lambda lines: "\n".join(f"- {line}" for line in lines)),
    st.integers(1, 6).map(lambda level: f"{'#' * level} Part {level}"),
    st.sampled_from(
        [
            "![badge](https://img.shields.io/x.svg)",
            "<!-- a comment of some length -->",
            "***",
            "[x]: http://y",
        ]
    ),
    st.text(max_size=60),
)
_DOCUMENTS = st.lists(_BLOCKS, max_size=14).map("\n\n".join)


def _markdown(text: str, title: str = "Pond life") -> ConvertedDocument:
    body, found, headings = read_markdown(text.replace("\r", ""), fallback_title=title)
    return ConvertedDocument(text=body, title=found, media_type="text/markdown", converter="test", headings=headings)


def _plain(text: str, page_starts: tuple[int, ...] = ()) -> ConvertedDocument:
    return ConvertedDocument(
        text=text, title="Pond", media_type="text/plain", converter="test", page_starts=page_starts
    )


def _prose(words: int, seed: str = "frog") -> str:
    sentences = [f"The {seed} number {n} lives in the pond and sings to the moon." for n in range(words // 12 + 1)]
    return " ".join(sentences)


def _check(document: ConvertedDocument, chunks: list[Chunk], limit: int) -> None:
    assert [chunk.ordinal for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert chunk.text == document.text[chunk.start : chunk.end] != ""
        assert chunk.token_count == len(TOKENIZER.encode(chunk.embed_text).ids) <= limit
    assert all(left.start < right.start and left.end < right.end for left, right in pairwise(chunks))


def _uncovered(document: ConvertedDocument, chunks: list[Chunk]) -> str:
    """Words outside chunks, noise lines and heading lines."""
    excused = [(chunk.start, chunk.end) for chunk in chunks] + list(noise_spans(document.text, document.media_type))
    for heading in document.headings:
        word = re.compile(r"\w").search(document.text, heading.start)
        assert word is not None
        end = document.text.find("\n", word.start())
        excused.append((heading.start, end if end >= 0 else len(document.text)))
    left = list(document.text)
    for start, end in excused:
        left[start:end] = " " * (end - start)
    return "".join(re.findall(r"\w", "".join(left)))


@given(_DOCUMENTS)
@hypothesis_settings(max_examples=150, deadline=None)
def test_chunks_of_any_document_quote_it_fit_the_model_and_cover_every_word(text: str) -> None:
    document = _markdown(text)
    for chunker in (SMALL, CHUNKER):
        chunks = chunker.chunk(document)
        _check(document, chunks, chunker.chunk_tokens)
        assert _uncovered(document, chunks) == ""
        assert bool(chunks) or not re.search(r"\w", document.text)


@given(st.text(max_size=400), st.lists(st.integers(0, 400), max_size=5))
@hypothesis_settings(max_examples=100, deadline=None)
def test_any_text_with_any_pages_is_covered_whole(text: str, pages: list[int]) -> None:
    document = _plain(text, (0, *sorted(page for page in pages if page <= len(text))) if pages else ())
    chunks = SMALL.chunk(document)
    _check(document, chunks, 48)
    covered = {offset for chunk in chunks for offset in range(chunk.start, chunk.end)}
    assert [c for offset, c in enumerate(text) if not c.isspace() and offset not in covered] == []
    for chunk in chunks:
        if document.page_starts:
            assert chunk.page_first is not None
            assert chunk.page_last is not None
            assert 1 <= chunk.page_first <= chunk.page_last <= len(document.page_starts)
        else:
            assert chunk.page_first is chunk.page_last is None


@given(st.integers(0, 4), st.integers(1, 900))
@hypothesis_settings(max_examples=40, deadline=None)
def test_editing_one_section_leaves_the_chunks_of_the_others_as_they_are(section: int, words: int) -> None:
    bodies = [_prose(150 + 200 * number, seed=f"newt{number}") for number in range(5)]
    before = _sectioned(bodies)
    bodies[section] = _prose(words + 40, seed="heron")
    after = _sectioned(bodies)

    def others(document: ConvertedDocument) -> list[str]:
        chunks = CHUNKER.chunk(document)
        return [chunk.embed_text for chunk in chunks if chunk.heading_path != (f"Section {section}",)]

    assert others(after) == others(before)


def _sectioned(bodies: list[str]) -> ConvertedDocument:
    return _markdown("# Pond\n\n" + "\n\n".join(f"## Section {n}\n\n{body}" for n, body in enumerate(bodies)))


def test_an_edit_at_the_end_of_a_section_touches_only_the_windows_that_hold_it() -> None:
    paragraphs = [_prose(90, seed=f"toad{number}") for number in range(12)]
    before = {chunk.embed_text for chunk in CHUNKER.chunk(_plain("\n\n".join(paragraphs)))}
    paragraphs[-1] = _prose(90, seed="heron")
    after = {chunk.embed_text for chunk in CHUNKER.chunk(_plain("\n\n".join(paragraphs)))}
    assert len(after - before) <= 2 < len(after)


def test_the_context_names_title_and_headings_and_the_title_is_not_repeated() -> None:
    document = _markdown(f"# Pond\n\n{_prose(60)}\n\n## Frogs\n\n### Green\n\n{_prose(60)}\n")
    first, last = CHUNKER.chunk(document)
    assert (first.context, first.heading_path) == ("Pond", ())
    assert (last.context, last.heading_path) == ("Pond › Frogs › Green", ("Frogs", "Green"))
    assert last.text.startswith("## Frogs\n\n### Green\n\nThe frog")
    assert last.embed_text == f"{last.context}\n{last.text}"


def test_a_context_of_enormous_headings_is_cut_and_leaves_room_for_text() -> None:
    document = ConvertedDocument(
        text="words of the body " * 300,
        title="title " * 40,
        media_type="text/plain",
        converter="test",
        headings=(Heading(0, 1, "middle " * 300), Heading(0, 2, "deepest " * 300)),
    )
    chunks = CHUNKER.chunk(document)
    _check(document, chunks, 256)
    context = chunks[0].context
    assert len(TOKENIZER.encode(context, add_special_tokens=False).ids) <= CHUNKER.context_tokens
    assert context.startswith("title title")
    assert context.endswith("deepest")
    assert chunks[0].token_count > 200


def test_tiny_neighbours_share_a_chunk_under_the_heading_that_both_have() -> None:
    document = _markdown("# Pond\n\n## Frogs\n\nGreen.\n\n## Newts\n\nBlack.\n\n## Herons\n\n" + _prose(120))
    chunks = CHUNKER.chunk(document)
    assert [chunk.heading_path for chunk in chunks] == [(), ("Herons",)]
    assert chunks[0].text == "# Pond\n\n## Frogs\n\nGreen.\n\n## Newts\n\nBlack."


def test_a_heading_without_text_goes_with_what_follows_it_or_else_with_what_precedes() -> None:
    document = _markdown(f"# Pond\n\n## Empty\n\n## Full\n\n{_prose(80)}\n\n## Last\n")
    (chunk,) = CHUNKER.chunk(document)
    assert chunk.heading_path == ("Full",)
    assert chunk.text.endswith("## Last")


def test_badges_comments_and_link_definitions_are_left_out() -> None:
    badge = "[![CI](https://img.shields.io/ci.svg)](https://ci.example.org/pond)"
    text = (
        f"# Pond\n\n{badge} {badge}\n{badge}\n<p align='center'>\n  <img\n   src='logo.png'>\n</p>\n"
        f"<!-- a comment\n\nover lines -->\n\n{_prose(60)}\n\n[ci]: https://ci.example.org\n"
    )
    (chunk,) = CHUNKER.chunk(_markdown(text))
    assert chunk.text == _prose(60)


def test_a_document_of_markup_alone_still_has_a_chunk() -> None:
    text = "![Frog](https://img.shields.io/frog.svg)\n"
    (chunk,) = CHUNKER.chunk(_markdown(text))
    assert chunk.text == text.strip()
    assert CHUNKER.chunk(_plain("")) == CHUNKER.chunk(_plain(" \n ")) == []


def test_fenced_code_is_never_taken_for_markup() -> None:
    code = "```html\n<img src='a.png'>\n<!-- note -->\n[x]: http://y\n```"
    assert noise_spans(f"{code}\n\n<img src='a.png'>\n", "text/markdown") == ((len(code) + 2, len(code) + 19),)


def test_restructured_images_and_targets_are_left_out() -> None:
    image = ".. image:: a.png\n   :target: https://ci.example.org/pond/frog/newt/heron/badge/main\n   :alt: Frog"
    text = f"Pond\n====\n\n{image}\n\n{_prose(60)}\n\n.. _x: http://y\n"
    document = ConvertedDocument(text, "Pond", "text/x-rst", "test", (Heading(0, 1, "Pond"),))
    (chunk,) = CHUNKER.chunk(document)
    assert chunk.text == _prose(60)


def test_windows_of_one_section_overlap_by_at_most_the_setting() -> None:
    text = _prose(1500)
    chunks = CHUNKER.chunk(_plain(text))
    assert len(chunks) > 5
    for left, right in pairwise(chunks):
        shared = text[right.start : left.end]
        assert 0 < len(TOKENIZER.encode(shared, add_special_tokens=False).ids) <= 32
        assert right.text.startswith("The frog number")
        assert left.text.endswith("moon.")
    disjoint = Chunker(bundled_tokenizer(), 256, 0).chunk(_plain(text))
    assert all(left.end <= right.start for left, right in pairwise(disjoint))


def test_code_and_tables_are_cut_between_lines() -> None:
    rows = "\n".join(f"| frog {n} | green with spots, {n} of them | pond number {n} |" for n in range(60))
    code = "\n".join(f"    result_{n} = compute(frog, newt, {n})  # the number, {n}" for n in range(60))
    for text in (rows, f"```python\n{code}\n```"):
        for chunk in CHUNKER.chunk(_markdown(text)):
            assert chunk.start == 0 or text[chunk.start - 1] == "\n"
            assert chunk.end == len(text) or text[chunk.end] == "\n"


def test_paragraphs_are_preferred_to_lines_and_lines_to_sentences() -> None:
    text = "\n\n".join(_prose(70, seed=f"newt{n}") for n in range(12))
    assert all(chunk.end == len(text) or text[chunk.end] == "\n" for chunk in CHUNKER.chunk(_plain(text)))


@pytest.mark.parametrize(
    "text",
    [
        "x" * 1_000_000,
        "".join(f"# Heading {n}\n\n" for n in range(100_000)),
        "![](" * 50_000 + " word",
        "<!-- " * 50_000 + " word",
        "word" + " \n" * 500_000 + "word",
    ],
    ids=["endless word", "100k headings", "broken images", "broken comments", "blank"],
)
def test_hostile_text_is_split_in_reasonable_time(text: str) -> None:
    document = _markdown(text)
    chunks = CHUNKER.chunk(document)
    _check(document, chunks, 256)
    assert max(len(chunk.text) for chunk in chunks) < 1_100_000


def test_the_version_names_everything_that_a_split_depends_on() -> None:
    versions = {CHUNKER.version, SMALL.version, Chunker(bundled_tokenizer(), 256, 16).version}
    assert len(versions) == 3
    assert Chunker.from_settings(Settings(home=Path("unused"))).version == CHUNKER.version


def test_a_model_folder_without_a_readable_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        Chunker.from_settings(Settings(home=tmp_path, embedding_model=str(tmp_path)))
    assert caught.value.code == "tokenizer_unreadable"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidInput):
        Chunker.from_settings(Settings(home=tmp_path, embedding_model=str(tmp_path)))
