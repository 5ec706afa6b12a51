from __future__ import annotations

import httpx
import pytest

SEARCH = "/api/v1/search"


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_the_best_hit_is_cited_exactly(reader: httpx.Client, mode: str) -> None:
    body = reader.get(SEARCH, params={"q": "HNSW index on a vector column", "mode": mode}).json()
    best = body["data"][0]
    citation = best["citation"]
    assert citation["uri"] == "hnsw.md"
    assert (best["dense"] is None, best["lexical"] is None) == (mode == "lexical", mode == "dense")
    opened = reader.get(
        f"/api/v1/documents/{citation['document_id']}",
        params={"start": citation["start"], "end": citation["end"]},
    ).json()
    assert opened["excerpt"] == best["text"]
    assert opened["text_sha256"] == citation["document_sha256"]
    assert body["mode"] == mode
    assert body["facets"]["inbox"] >= 1
    assert body["took_ms"] > 0


def test_highlights_are_spans_of_the_hit(reader: httpx.Client) -> None:
    best = reader.get(SEARCH, params={"q": "dough baking"}).json()["data"][0]
    assert {best["text"][start:end].lower() for start, end in best["highlights"]} >= {"dough", "baking"}


def test_pages_together_are_the_whole_ranking(reader: httpx.Client) -> None:
    whole = reader.get(SEARCH, params={"q": "index", "k": 50}).json()
    assert whole["next_cursor"] is None
    found: list[int] = []
    params = {"q": "index", "k": "1"}
    while True:
        page = reader.get(SEARCH, params=params).json()
        found += [hit["chunk_id"] for hit in page["data"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert found == [hit["chunk_id"] for hit in whole["data"]]
    assert len(found) == 4
    other = reader.get(SEARCH, params={**params, "q": "another query"})
    assert (other.status_code, other.json()["code"]) == (422, "cursor_invalid")


def test_sources_filter_and_repeat(reader: httpx.Client) -> None:
    only = reader.get(SEARCH, params=[("q", "index"), ("source", "installed-docs")]).json()
    assert only["data"] == []
    both = reader.get(SEARCH, params=[("q", "index"), ("source", "installed-docs"), ("source", "inbox")]).json()
    assert len(both["data"]) == 4
    unknown = reader.get(SEARCH, params={"q": "index", "source": "nowhere"})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "source_unknown")


@pytest.mark.parametrize(
    ("params", "code", "field"),
    [
        ({"q": "   "}, "query_empty", "q"),
        ({"q": "x" * 2001}, "request_invalid", "q"),
        ({"q": "x", "k": "101"}, "request_invalid", "k"),
        ({"q": "x", "cursor": "nonsense"}, "cursor_invalid", "cursor"),
    ],
)
def test_bad_searches_name_the_field(reader: httpx.Client, params: dict[str, str], code: str, field: str) -> None:
    response = reader.get(SEARCH, params=params)
    assert response.status_code == 422
    assert response.json()["code"] == code
    assert response.json()["errors"][0]["field"] == field


def test_before_the_first_index_search_is_unavailable(visitor: httpx.Client) -> None:
    response = visitor.get(SEARCH, params={"q": "anything"})
    assert (response.status_code, response.json()["code"]) == (503, "index_missing")
    assert int(response.headers["retry-after"]) > 0
