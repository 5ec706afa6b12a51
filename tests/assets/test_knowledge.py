"""The knowledge graph from a folder to an answer: what is rebuilt, what is not, and what a failure leaves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.execution import Built
from stemma.errors import StemmaError
from stemma.knowledge.search import Searcher
from stemma.ledger.feed import Filter, list_entries
from stemma.ledger.journal import HISTORIAN
from stemma.store.database import Database
from stemma.store.settings import Settings

Build = Callable[..., dict[str, Built]]


def first_uri(database: Database, settings: Settings, query: str) -> str:
    return Searcher(database, settings).search(query, k=1).hits[0].citation.uri


def test_a_folder_becomes_searchable_with_exact_quotes(
    notes: Path, build: Build, database: Database, settings: Settings
) -> None:
    built = build()
    assert built["knowledge/documents"].metadata["dagster/row_count"] == 3
    assert built["knowledge/search_index"].metadata["recall_at_10"] >= 0.95
    hit = Searcher(database, settings).search("which socket does the bulb need?", k=1).hits[0]
    assert hit.citation.uri.endswith("lamp.md")
    text = (notes / "lamp.md").read_text()
    assert text[hit.citation.start : hit.citation.end] == hit.text


def test_an_unchanged_source_rebuilds_nothing_and_keeps_its_versions(
    notes: Path, build: Build, database: Database
) -> None:
    first = build()
    again = build()
    with database.snapshot() as connection:
        (activated,) = list_entries(connection, HISTORIAN, Filter(kind="index.activated")).data
    assert activated.data["generation"] == first["knowledge/search_index"].metadata["generation"]
    assert again["knowledge/embeddings"].metadata["embedded"] == 0
    assert not any(item.changed for item in again.values())
    assert {key: item.data_version for key, item in again.items()} == {
        key: item.data_version for key, item in first.items()
    }


def test_an_edited_paragraph_embeds_only_its_own_chunk(notes: Path, build: Build) -> None:
    build()
    page = notes / "lamp.md"
    page.write_text(page.read_text().replace("red switch", "green switch on the left side of the lamp"))
    built = build()
    assert built["knowledge/documents"].metadata["changed_documents"] == 1
    assert built["knowledge/embeddings"].metadata["embedded"] == built["knowledge/chunks"].metadata["added"] == 1


def test_a_deleted_document_leaves_the_index(notes: Path, build: Build, database: Database, settings: Settings) -> None:
    build()
    (notes / "boat.txt").unlink()
    build()
    hits = Searcher(database, settings).search("northern pier high tide boat", k=10).hits
    assert [hit for hit in hits if hit.citation.uri.endswith("boat.txt")] == []


def test_a_file_that_cannot_be_read_is_set_aside_and_the_rest_goes_on(notes: Path, build: Build) -> None:
    (notes / "broken.pdf").write_bytes(b"%PDF-1.7 and then nothing of the kind")
    built = build()
    assert built["knowledge/documents"].metadata["set_aside"] == 1
    assert built["knowledge/documents"].metadata["dagster/row_count"] == 3


def test_a_source_that_is_gone_fails_at_once_and_search_goes_on(
    notes: Path, build: Build, database: Database, settings: Settings
) -> None:
    build()
    shutil.rmtree(notes)
    with pytest.raises(StemmaError) as caught:
        build()
    assert str(notes) in str(caught.value)
    assert first_uri(database, settings, "limescale in the kettle").endswith("kettle.md")


def test_every_asset_explains_itself() -> None:
    import definitions

    graph = definitions.defs.resolve_asset_graph()
    for key in graph.materializable_asset_keys:
        node = graph.get(key)
        assert node.description and node.group_name != "default" and node.owners and node.kinds, key
        assert node.code_version, key
    assert {key.to_user_string() for key in graph.materializable_asset_keys} >= {
        "knowledge/documents",
        "knowledge/chunks",
        "knowledge/embeddings",
        "knowledge/search_index",
    }
