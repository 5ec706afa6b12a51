from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stemma.errors import CheckFailed, InvalidInput, Unavailable
from stemma.knowledge.embedding import Embedder, sync_embeddings
from stemma.knowledge.generations import active, build_generation
from stemma.knowledge.golden import Passage, Question, ask, golden_gate, load_questions, score
from stemma.knowledge.models import SearchMode
from stemma.knowledge.onnx_query import query_encoder_folder
from stemma.knowledge.search import DEPTH, Searcher
from stemma.store.database import Database
from stemma.store.settings import Settings

MODES: tuple[SearchMode, ...] = ("hybrid", "dense", "lexical")


@pytest.fixture
def reindex(database: Database, settings: Settings, embedder: Embedder) -> Callable[[], int]:
    def embed_and_build() -> int:
        sync_embeddings(database, None, embedder)
        return build_generation(database, settings, embedder).generation

    return embed_and_build


@pytest.fixture
def indexed(library: Any, reindex: Callable[[], int]) -> int:
    """A small index of the test's own; returns its generation."""
    library.write("mid/otter", *(f"An otter swims in river {at}." for at in range(30)), source="mid")
    library.write("small/owl", "The owl hunts at night.", "Owls turn their heads.", source="small")
    return reindex()


@pytest.mark.parametrize("mode", MODES)
def test_hits_are_ranked_cited_and_quote_their_documents(shelf: Any, mode: SearchMode) -> None:
    page = shelf.searcher.search("where does the otter swim", mode=mode, k=5)
    assert len(page.hits) == 5
    assert (page.generation, page.mode) == (shelf.generation, mode)
    assert [hit.score for hit in page.hits] == sorted((hit.score for hit in page.hits), reverse=True)
    with shelf.database.snapshot() as connection:
        for hit in page.hits:
            cited = hit.citation
            row = connection.execute(
                "SELECT substr(text, %s, %s), encode(text_sha256, 'hex'), source, uri, title"
                " FROM documents WHERE id = %s",
                (cited.start + 1, cited.end - cited.start, cited.document_id),
            ).fetchone()
            assert row == (hit.text, cited.document_sha256, cited.source, cited.uri, cited.title)
            assert (hit.dense is None) is (mode == "lexical")
            assert (hit.lexical is None) is (mode == "dense")
    if mode != "dense":
        assert page.hits[0].citation.uri == "mid/otter"
        words = [page.hits[0].text[start:end] for start, end in page.hits[0].highlights]
        assert {"otter", "swims"} <= set(words)


def test_hybrid_scores_are_the_weighted_sum_of_exact_scores_less_what_a_repeated_section_costs(shelf: Any) -> None:
    query = "an otter in river 7"
    with shelf.database.snapshot() as connection:
        generation = active(connection)
        assert generation is not None
        fused = shelf.searcher.rank(connection, generation, query)
        dense = {c.chunk_id: c.dense for c in shelf.searcher.rank(connection, generation, query, mode="dense")}
        lexical = {c.chunk_id: c.lexical for c in shelf.searcher.rank(connection, generation, query, mode="lexical")}
        documents = dict(connection.execute("SELECT id, document_id FROM chunks").fetchall())
    assert {candidate.chunk_id for candidate in fused} == set(dense) | set(lexical)
    scores = {c.chunk_id: (c.dense or 0.0, c.lexical or 0.0) for c in fused}
    for chunk_id, value in dense.items():
        assert scores[chunk_id][0] == pytest.approx(value, abs=1e-6)
    for chunk_id, value in lexical.items():
        assert scores[chunk_id][1] == pytest.approx(value, abs=1e-6)
    low_d, high_d = min(d for d, _ in scores.values()), max(d for d, _ in scores.values())
    low_l, high_l = min(b for _, b in scores.values()), max(b for _, b in scores.values())
    expected = {
        chunk_id: 0.55 * (d - low_d) / (high_d - low_d) + (1 - 0.55) * (b - low_l) / (high_l - low_l)
        for chunk_id, (d, b) in scores.items()
    }
    # These documents have no headings: each is one section.
    shown: set[int] = set()
    for chunk_id in sorted(expected, key=lambda one: (-expected[one], one))[:30]:
        expected[chunk_id] -= 0.05 * (documents[chunk_id] in shown)
        shown.add(documents[chunk_id])
    assert {candidate.chunk_id: candidate.score for candidate in fused} == pytest.approx(expected)


def test_another_section_comes_before_more_of_the_same(
    searcher: Searcher, library: Any, reindex: Callable[[], int]
) -> None:
    library.write("a/owls", "Owls hunt at night.", "Owls hunt at night.")
    library.write("b/owls", "Owls hunt at night.")
    library.write("mice", "Mice sleep by day.")
    reindex()
    hits = searcher.search("owls hunt at night", k=4).hits
    assert [hit.citation.uri for hit in hits] == ["a/owls", "b/owls", "a/owls", "mice"]
    assert [hit.score for hit in hits] == pytest.approx([1.0, 1.0, 0.95, 0.0])


@pytest.mark.parametrize("mode", MODES)
def test_pages_walk_the_whole_ranking_once(shelf: Any, mode: SearchMode) -> None:
    found: list[int] = []
    cursor = None
    while True:
        page = shelf.searcher.search("badger field tunnel", mode=mode, k=17, cursor=cursor)
        found += [hit.chunk_id for hit in page.hits]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(found) == len(set(found)) == sum(page.facets.values()) >= DEPTH
    assert (
        found
        == [hit.chunk_id for hit in shelf.searcher.search("badger field tunnel", mode=mode, k=100).hits] + found[100:]
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("sources", "most"), [(["small"], 2), (["mid"], 30), (["big", "small"], 242)])
def test_a_filter_holds_and_never_shortens_the_answer(
    shelf: Any, mode: SearchMode, sources: list[str], most: int
) -> None:
    page = shelf.searcher.search("badger otter owl", mode=mode, k=20, sources=sources)
    assert len(page.hits) == min(20, most)
    assert {hit.citation.source for hit in page.hits} <= set(sources)
    assert set(page.facets) <= set(sources)


def test_facets_count_the_candidates_by_source(shelf: Any) -> None:
    facets = shelf.searcher.search("otter", mode="lexical", k=1).facets
    assert facets == {"mid": 30}


def test_a_query_of_stop_words_alone_still_answers_by_meaning(shelf: Any) -> None:
    assert shelf.searcher.search("what is it", mode="hybrid").hits
    assert shelf.searcher.search("what is it", mode="lexical").hits == ()


def test_equal_scores_are_ordered_by_chunk(searcher: Searcher, library: Any, reindex: Callable[[], int]) -> None:
    library.write("a", *["one and the same sentence"] * 30)
    reindex()
    for mode in MODES:
        ids = [hit.chunk_id for hit in searcher.search("same sentence", mode=mode, k=30).hits]
        assert ids == sorted(ids)
        assert len(ids) == 30


@pytest.mark.parametrize(
    ("arguments", "code", "field"),
    [
        ({"query": ""}, "query_empty", "q"),
        ({"query": " \n\t"}, "query_empty", "q"),
        ({"query": "a\0b"}, "text_holds_nul", "q"),
        ({"query": "x" * 2001}, "query_too_long", "q"),
        ({"query": "owl", "k": 0}, "k_out_of_range", "k"),
        ({"query": "owl", "k": 101}, "k_out_of_range", "k"),
        ({"query": "owl", "mode": "fuzzy"}, "mode_unknown", "mode"),
        ({"query": "owl", "sources": ["absent"]}, "source_unknown", "source"),
        ({"query": "owl", "sources": ["a\0b"]}, "text_holds_nul", "source"),
        ({"query": "owl", "cursor": "%%%"}, "cursor_invalid", "cursor"),
        ({"query": "owl", "cursor": "bm90anNvbg"}, "cursor_invalid", "cursor"),
    ],
)
def test_bad_requests_name_the_field(shelf: Any, arguments: dict[str, Any], code: str, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        shelf.searcher.search(**arguments)
    assert (caught.value.code, caught.value.field) == (code, field)


def test_a_cursor_is_bound_to_its_query_and_generation(
    searcher: Searcher, indexed: int, library: Any, reindex: Callable[[], int]
) -> None:
    cursor = searcher.search("otter", k=5).next_cursor
    assert cursor is not None
    for other in ({"query": "owl"}, {"query": "otter", "mode": "dense"}, {"query": "otter", "sources": ["mid"]}):
        with pytest.raises(InvalidInput) as caught:
            searcher.search(**other, cursor=cursor)  # type: ignore[arg-type]
        assert caught.value.code == "cursor_invalid"
    library.write("new", "A hedgehog sleeps.", source="small")
    reindex()
    assert searcher.search("otter", k=5, cursor=cursor).generation == indexed
    library.write("newer", "A dormouse sleeps.", source="small")
    reindex()
    with pytest.raises(InvalidInput, match="renewed"):
        searcher.search("otter", k=5, cursor=cursor)


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)


@hypothesis_settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cursor=st.text(min_size=1, max_size=40)
    | _json_values.map(lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("="))
)
def test_no_cursor_breaks_the_search(shelf: Any, cursor: str) -> None:
    with pytest.raises(InvalidInput):
        shelf.searcher.search("otter", cursor=cursor)


@hypothesis_settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(min_size=1, max_size=60).filter(lambda text: text.strip() and "\0" not in text))
def test_any_text_can_be_searched_for(shelf: Any, query: str) -> None:
    assert len(shelf.searcher.search(query, k=3).hits) == 3


def test_a_registered_source_without_documents_is_empty_not_unknown(
    database: Database, searcher: Searcher, indexed: int
) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO knowledge_sources (name, kind) VALUES ('bare', 'folder')")
    for mode in MODES:
        assert searcher.search("owl", sources=["bare"], mode=mode).hits == ()


def test_before_the_first_index_search_says_what_to_run(searcher: Searcher) -> None:
    with pytest.raises(Unavailable) as caught:
        searcher.search("owl")
    assert caught.value.code == "index_missing"
    assert caught.value.hint is not None
    assert "stemma materialize" in caught.value.hint


def test_without_its_encoder_search_fails_instead_of_answering_by_words_alone(
    database: Database, settings: Settings, indexed: int, embedder: Embedder
) -> None:
    (query_encoder_folder(settings, embedder.key) / "query.int8.onnx").unlink()
    searcher = Searcher(database, settings)
    for mode in ("hybrid", "dense"):
        with pytest.raises(Unavailable) as caught:
            searcher.search("owl", mode=mode)
        assert caught.value.code == "query_encoder_unavailable"
    with pytest.raises(Unavailable):
        searcher.warm()
    assert searcher.search("owl", mode="lexical").hits
    searcher.close()


def test_search_outlives_the_loss_of_its_connections(
    database: Database, settings: Settings, indexed: int, searcher: Searcher
) -> None:
    searcher.warm()
    failures: list[BaseException] = []
    answered = [0]
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                assert searcher.search("otter", k=3).hits
                answered[0] += 1
        except BaseException as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with database.owner(autocommit=True) as connection:
            for _ in range(20):
                before = answered[0]
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                while answered[0] < before + 2 and not failures:
                    stop.wait(0.005)
    finally:
        stop.set()
        reader.join()
    assert failures == []
    assert answered[0] >= 40


_WITHOUT_TORCH = """
import sys
from stemma.knowledge.search import Searcher
from stemma.store.database import Database
from stemma.store.settings import Settings

settings = Settings()
with Database.open(settings) as database:
    searcher = Searcher(database, settings)
    assert searcher.search("otter").hits
    searcher.close()
heavy = {"torch", "transformers", "sentence_transformers", "onnx"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_searching_imports_neither_torch_nor_transformers(indexed: int) -> None:
    subprocess.run([sys.executable, "-c", _WITHOUT_TORCH], env=os.environ, check=True)


def test_golden_questions_are_scored_by_their_exact_quote(shelf: Any) -> None:
    present = Question("when does the owl hunt", (Passage("small/owl", "hunts at night"),))
    absent = Question("when does the owl hunt", (Passage("small/owl", "hunts in daylight"),))
    found, missed = ask(shelf.searcher, [present, absent])
    assert found.rank is not None
    assert found.first_uri is not None
    assert missed.rank is None
    total = score([found, missed])
    assert (total.questions, total.hit_at_3) == (2, int(found.rank <= 3))


def test_the_golden_gate_refuses_a_generation_that_lost_an_answer(
    database: Database, settings: Settings, library: Any, embedder: Embedder, searcher: Searcher
) -> None:
    question = Question("zebra", (Passage("z", "zebra crossing"),))
    gate = golden_gate(searcher, [question], least_hit_at_3=1)
    library.write("z", "A zebra crossing.", *(f"filler {number}" for number in range(40)))
    sync_embeddings(database, None, embedder)
    good = build_generation(database, settings, embedder, golden=gate)
    library.write("z", "A pedestrian crossing.", *(f"filler {number}" for number in range(40)))
    sync_embeddings(database, None, embedder)
    with pytest.raises(CheckFailed) as caught:
        build_generation(database, settings, embedder, golden=gate)
    assert caught.value.code == "golden_questions_missed"
    assert searcher.search("zebra", mode="lexical").generation == good.generation


def test_the_shipped_questions_are_ten_and_a_broken_file_is_refused(tmp_path: Path) -> None:
    questions = load_questions()
    assert len({question.question for question in questions}) == len(questions) == 10
    assert all(question.answers for question in questions)
    broken = tmp_path / "questions.yaml"
    broken.write_text("- question: only", "utf-8")
    with pytest.raises(InvalidInput):
        load_questions(broken)
