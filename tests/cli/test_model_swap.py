"""Another embedding model on the command line: a generation of its own, and the old one in one command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stemma.knowledge.embedding import Embedder
from stemma.store.settings import Settings

Stemma = Callable[..., Any]

QUERY = ("search", "how do I get rid of limescale?", "-k", "3")


def _told(page: dict[str, Any]) -> list[tuple[int, float, str]]:
    return [(hit["chunk_id"], hit["score"], hit["text"]) for hit in page["hits"]]


def test_search_answers_from_the_new_model_and_from_the_old_after_a_rollback(
    settings: Settings,
    notes: Path,
    done: Stemma,
    equip: Callable[[Settings], Embedder],
    tiny_model: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    equip(settings)
    done("sources", "add", "notes", notes)
    done("materialize", "*", "-p", "notes")
    old = done(*QUERY)
    assert "vinegar" in old["hits"][0]["text"]

    monkeypatch.setenv("STEMMA_EMBEDDING_MODEL", str(tiny_model(32)))
    equip(Settings())
    unmoved = done(*QUERY)
    assert (unmoved["generation"], _told(unmoved)) == (old["generation"], _told(old))

    built = {item["asset"]: item for item in done("materialize", "*", "-p", "notes")["built"]}
    assert not built["knowledge/chunks"]["changed"]
    assert (
        built["knowledge/embeddings"]["metadata"]["embedded"]
        == built["knowledge/chunks"]["metadata"]["dagster/row_count"]
    )
    new = done(*QUERY)
    assert new["generation"] != old["generation"]
    assert {hit["dense"] for hit in new["hits"]}.isdisjoint(hit["dense"] for hit in old["hits"])
    served = {generation["id"]: generation["dimensions"] for generation in done("index", "list")}
    assert (served[old["generation"]], served[new["generation"]]) == (384, 32)
    assert done("status")["index"]["dimensions"] == 32

    assert done("index", "rollback")["generation"] == old["generation"]
    assert _told(done(*QUERY)) == _told(old)
    assert done("index", "rollback")["generation"] == new["generation"]
    assert _told(done(*QUERY)) == _told(new)

    monkeypatch.setenv("STEMMA_EMBEDDING_MODEL", "minilm")
    again = {item["asset"]: item for item in done("materialize", "*", "-p", "notes")["built"]}
    assert again["knowledge/embeddings"]["metadata"]["embedded"] == 0
    assert [text for _, _, text in _told(done(*QUERY))] == [text for _, _, text in _told(old)]


def test_a_model_that_is_no_model_leaves_the_index_as_it_is(
    settings: Settings,
    notes: Path,
    stemma: Stemma,
    done: Stemma,
    equip: Callable[[Settings], Embedder],
    tiny_model: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STEMMA_EMBEDDING_MODEL", str(tiny_model(32)))
    equip(Settings())
    done("sources", "add", "notes", notes)
    done("materialize", "*", "-p", "notes")
    before = done(*QUERY)
    monkeypatch.setenv("STEMMA_EMBEDDING_MODEL", str(tmp_path))
    ended = stemma("materialize", "*", "-p", "notes")
    assert ended.code == 2 and "STEMMA_EMBEDDING_MODEL" in ended.err.splitlines()[-1], ended
    assert "Traceback" not in ended.err
    assert _told(done(*QUERY)) == _told(before)
