from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stemma.errors import Unavailable
from stemma.knowledge.lexical import LexicalIndex, build_lexical_index, highlight

ROWS = [
    (1, "a", "Call create_index to add an HNSW index."),
    (2, "a", "psycopg.AsyncConnection opens an asynchronous connection."),
    (3, "b", "Running indexes, again and again: index, index, index."),
    (4, "b", "A café in Zürich has nothing to do with it."),
    (5, "b", "connection"),
]


@pytest.fixture
def built(tmp_path: Path) -> Callable[[Sequence[tuple[int, str, str]]], LexicalIndex]:
    def build(rows: Sequence[tuple[int, str, str]]) -> LexicalIndex:
        build_lexical_index(tmp_path / "index", rows)
        return LexicalIndex.open(tmp_path / "index")

    return build


@pytest.fixture
def index(built: Callable[[Sequence[tuple[int, str, str]]], LexicalIndex]) -> LexicalIndex:
    return built(ROWS)


def _ids(found: list[tuple[int, float]]) -> list[int]:
    return [chunk_id for chunk_id, _ in found]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("create_index", 1),
        ("hnsw", 1),
        ("psycopg.AsyncConnection", 2),
        ("index run", 3),
        ("ZURICH cafe", 4),
        ("connections", 5),
    ],
)
def test_words_match_by_stem_case_and_accent(index: LexicalIndex, query: str, expected: int) -> None:
    assert _ids(index.search(query, 10))[0] == expected


@pytest.mark.parametrize("query", ["how do I do it?", "the", "???", '"', "zzz", "\\", " "])
def test_a_query_without_a_known_word_finds_nothing(index: LexicalIndex, query: str) -> None:
    assert index.search(query, 10) == []
    assert index.score(query, [1, 2]) == {1: 0.0, 2: 0.0}


@pytest.mark.parametrize("query", ['index AND NOT hnsw"', "-index +hnsw", "body:index", "index~2 [a TO b]", "(index"])
def test_query_syntax_is_plain_text(index: LexicalIndex, query: str) -> None:
    assert {1, 3} <= set(_ids(index.search(query, 10)))


def test_a_source_filter_keeps_scores(index: LexicalIndex) -> None:
    everywhere = dict(index.search("connection index", 10))
    only = dict(index.search("connection index", 10, ["b"]))
    assert set(only) == {3, 5}
    assert only == pytest.approx({chunk_id: everywhere[chunk_id] for chunk_id in only})
    assert index.search("connection", 10, ["absent"]) == []


def test_an_empty_index_answers_nothing(built: Callable[[Sequence[tuple[int, str, str]]], LexicalIndex]) -> None:
    index = built([])
    assert len(index) == 0
    assert index.search("index", 10) == []


def test_an_index_stays_readable_after_its_folder_is_replaced(tmp_path: Path, index: LexicalIndex) -> None:
    build_lexical_index(tmp_path / "index", [(9, "a", "quite another text")])
    assert _ids(index.search("hnsw", 10)) == [1]
    assert _ids(LexicalIndex.open(tmp_path / "index").search("another", 10)) == [9]


def test_an_interrupted_build_leaves_the_old_index(tmp_path: Path, index: LexicalIndex) -> None:
    def rows() -> Sequence[tuple[int, str, str]]:
        yield from ROWS[:2]
        raise ConnectionError("the database went away")

    with pytest.raises(ConnectionError):
        build_lexical_index(tmp_path / "index", rows())
    assert len(LexicalIndex.open(tmp_path / "index")) == len(ROWS)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_missing_or_damaged_index_is_said_clearly(tmp_path: Path, index: LexicalIndex) -> None:
    with pytest.raises(Unavailable) as caught:
        LexicalIndex.open(tmp_path / "absent")
    assert caught.value.code == "index_files_missing"
    (tmp_path / "index" / "meta.json").write_text("{", "utf-8")
    with pytest.raises(Unavailable):
        LexicalIndex.open(tmp_path / "index")


_words = st.lists(
    st.sampled_from(["index", "vector", "running", "café", "create_index", "x1"]), min_size=1, max_size=12
)


@hypothesis_settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(_words, min_size=1, max_size=20), query=_words)
def test_scores_of_given_chunks_are_those_of_the_search(
    tmp_path: Path, texts: list[list[str]], query: list[str]
) -> None:
    rows = [(number, "a", " ".join(words)) for number, words in enumerate(texts)]
    build_lexical_index(tmp_path / "property", rows)
    index = LexicalIndex.open(tmp_path / "property")
    found = dict(index.search(" ".join(query), len(rows)))
    assert list(found.values()) == sorted(found.values(), reverse=True)
    scores = index.score(" ".join(query), [number for number, _, _ in rows])
    assert scores == pytest.approx({number: found.get(number, 0.0) for number, _, _ in rows})


def test_highlights_are_character_offsets_of_matching_words() -> None:
    text = "Ünïcode 日本 😀 running Indexes; create_index."
    spans = highlight("run the INDEX of unicode", text)
    assert [text[start:end] for start, end in spans] == ["Ünïcode", "running", "Indexes", "index"]


@hypothesis_settings(deadline=None)
@given(text=st.text(max_size=200), query=st.text(max_size=40))
def test_highlights_lie_inside_the_text_and_ascend(text: str, query: str) -> None:
    spans = highlight(query, text)
    flat = [offset for span in spans for offset in span]
    assert flat == sorted(flat)
    assert all(0 <= start < end <= len(text) for start, end in spans)
