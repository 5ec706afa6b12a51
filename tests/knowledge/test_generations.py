from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stemma.errors import CheckFailed, Conflict, Unavailable
from stemma.knowledge import checks
from stemma.knowledge.embedding import Embedder, sync_embeddings
from stemma.knowledge.generations import (
    Generation,
    GenerationReport,
    active,
    build_generation,
    lexical_root,
    list_generations,
    rollback,
)
from stemma.knowledge.onnx_query import query_encoder_folder
from stemma.knowledge.search import Searcher
from stemma.store.database import Connection, Database
from stemma.store.settings import Settings

PARAGRAPHS = tuple(f"paragraph about subject{number} and its details" for number in range(40))


@pytest.fixture
def build(database: Database, settings: Settings, embedder: Embedder) -> Callable[..., GenerationReport]:
    def embed_and_build(using: Embedder = embedder, **options: Any) -> GenerationReport:
        sync_embeddings(database, None, using)
        return build_generation(database, settings, using, **options)

    return embed_and_build


def _all(connection: Connection, query: str) -> list[Any]:
    return [row[0] for row in connection.execute(query).fetchall()]


def _served_texts(database: Database) -> list[str]:
    with database.snapshot() as connection:
        generation = active(connection)
        assert generation is not None
        return sorted(_visible(connection, generation))


def _visible(connection: Connection, generation: Generation) -> list[str]:
    rows = connection.execute(
        f"SELECT c.text FROM {generation.vector_table} v JOIN chunks c ON c.id = v.chunk_id"
        f" WHERE v.added_in <= {generation.id} AND v.removed_in > {generation.id}"
    ).fetchall()
    return [text for (text,) in rows]


def _require_sound(database: Database) -> None:
    with database.snapshot() as connection:
        verdicts = {name: check(connection) for name, check in checks.INDEX_CHECKS.items()}
    assert {name: verdict.description for name, verdict in verdicts.items() if not verdict.passed} == {}


def test_the_first_build_serves_every_current_chunk(
    database: Database, library: Any, build: Callable[..., GenerationReport], embedder: Embedder
) -> None:
    library.write("a", *PARAGRAPHS)
    library.write("b", "one more", source="more")
    report = build()
    assert report.built
    assert (report.incremental, report.added, report.previous) == (False, 41, None)
    assert report.sources == {"notes": 40, "more": 1}
    assert report.recall == 1.0
    assert (report.model_key, report.dimensions) == (embedder.key, 32)
    assert all(report.bytes[kind] > 0 for kind in ("vectors", "vector_indexes", "lexical"))
    _require_sound(database)


def test_nothing_is_rebuilt_when_nothing_changed(library: Any, build: Callable[..., GenerationReport]) -> None:
    library.write("a", *PARAGRAPHS)
    first = build()
    second = build()
    assert not second.built
    assert (second.generation, second.fingerprint) == (first.generation, first.fingerprint)


def test_a_small_change_extends_the_table_and_a_large_one_does_not(
    database: Database, library: Any, build: Callable[..., GenerationReport]
) -> None:
    library.write("a", *PARAGRAPHS)
    build()
    library.write("a", "changed", *PARAGRAPHS[1:], "new")
    small = build()
    assert (small.incremental, small.added, small.removed) == (True, 2, 1)
    assert _served_texts(database) == sorted(["changed", *PARAGRAPHS[1:], "new"])
    _require_sound(database)

    library.write("a", *(f"wholly new {number}" for number in range(30)))
    large = build()
    assert not large.incremental
    assert large.chunks == 30
    _require_sound(database)
    with database.snapshot() as connection:
        assert len(_all(connection, "SELECT relname FROM pg_class WHERE relname ~ '^vectors_[0-9]+$'")) == 2


def test_a_removed_document_leaves_the_index_and_later_the_tables(
    database: Database, library: Any, build: Callable[..., GenerationReport], searcher: Searcher
) -> None:
    library.write("a", *PARAGRAPHS)
    library.write("gone", "an obsolete remark")
    build()
    assert searcher.search("obsolete", mode="lexical").hits
    library.remove("gone")
    build()
    assert not searcher.search("obsolete", mode="lexical").hits
    library.write("b", "yet another paragraph")
    report = build()
    assert report.purged["documents"] == 1
    with database.snapshot() as connection:
        assert _all(connection, "SELECT uri FROM documents ORDER BY uri") == ["a", "b"]
        assert _all(connection, "SELECT count(*) FROM chunks WHERE retired") == [0]
        assert _all(connection, "SELECT count(*) FROM embedding_cache") == [41]


def test_an_emptied_library_gives_an_empty_index(
    library: Any, build: Callable[..., GenerationReport], searcher: Searcher
) -> None:
    library.write("a", *PARAGRAPHS)
    build()
    library.remove("a")
    report = build()
    assert (report.chunks, report.recall) == (0, None)
    assert searcher.search("subject1").hits == ()


def test_a_chunk_without_an_embedding_stops_the_build(
    database: Database, settings: Settings, library: Any, build: Callable[..., GenerationReport], embedder: Embedder
) -> None:
    library.write("a", *PARAGRAPHS)
    with pytest.raises(CheckFailed) as caught:
        build_generation(database, settings, embedder)
    assert caught.value.code == "embeddings_missing"
    good = build()
    library.write("a", *PARAGRAPHS, "never embedded", "nor this")
    with pytest.raises(CheckFailed, match=r"^2 chunks have no embedding"):
        build_generation(database, settings, embedder)
    with database.snapshot() as connection:
        current = active(connection)
        newest = list_generations(connection)[0]
    assert current is not None
    assert current.id == good.generation
    assert newest.state == "failed"
    assert newest.failure is not None
    assert "2 chunks" in newest.failure


def test_a_gate_that_refuses_leaves_the_last_good_generation(
    database: Database, library: Any, build: Callable[..., GenerationReport], searcher: Searcher
) -> None:
    library.write("a", *PARAGRAPHS)
    good = build()

    def refuse(connection: Connection, generation: Generation) -> None:
        assert len(_visible(connection, generation)) == 41
        raise CheckFailed("refused", "The gate says no.")

    library.write("a", *PARAGRAPHS, "unloved addition")
    with pytest.raises(CheckFailed, match="says no"):
        build(golden=refuse)
    assert searcher.search("unloved", mode="lexical").hits == ()
    assert _served_texts(database) == sorted(PARAGRAPHS)

    after = build()
    assert after.previous == good.generation
    assert after.incremental
    assert searcher.search("unloved", mode="lexical").hits
    _require_sound(database)


def test_rollback_serves_the_previous_generation_and_comes_back(
    database: Database, library: Any, build: Callable[..., GenerationReport], searcher: Searcher
) -> None:
    library.write("a", *PARAGRAPHS)
    with pytest.raises(Conflict):
        rollback(database)
    first = build()
    with pytest.raises(Conflict) as caught:
        rollback(database)
    assert caught.value.code == "no_previous_generation"

    library.write("a", "replacement", *PARAGRAPHS[1:])
    second = build()
    back = rollback(database)
    assert (back.generation, back.previous) == (first.generation, second.generation)
    assert _served_texts(database) == sorted(PARAGRAPHS)
    assert searcher.search("replacement", mode="lexical").hits == ()
    assert searcher.search("subject0", mode="lexical").hits[0].text == PARAGRAPHS[0]

    assert rollback(database).generation == second.generation
    assert searcher.search("replacement", mode="lexical").hits


def test_a_build_after_a_rollback_serves_each_current_chunk_once(
    database: Database, library: Any, build: Callable[..., GenerationReport]
) -> None:
    library.write("a", *PARAGRAPHS)
    first = build()
    library.write("a", "second version", *PARAGRAPHS[1:])
    build()
    rollback(database)
    library.write("a", "third version", *PARAGRAPHS[1:], "and more")
    third = build()
    assert third.incremental
    assert third.previous == first.generation
    assert _served_texts(database) == sorted(["third version", *PARAGRAPHS[1:], "and more"])
    _require_sound(database)
    rollback(database)
    assert _served_texts(database) == sorted(PARAGRAPHS)


_actions = st.lists(st.sampled_from(["add", "change", "remove", "build", "fail", "rollback"]), min_size=3, max_size=9)


@hypothesis_settings(
    deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(actions=_actions)
def test_whatever_happened_before_a_build_serves_each_current_chunk_once(
    database: Database, library: Any, build: Callable[..., GenerationReport], actions: list[str]
) -> None:
    texts = [f"{paragraph} of this example" for paragraph in PARAGRAPHS]
    library.write("a", *texts)
    build()

    def refuse(_: Connection, __: Generation) -> None:
        raise CheckFailed("refused", "no")

    for number, action in enumerate(actions):
        if action == "add":
            texts.append(f"added {number}")
        elif action == "change":
            texts[number] = f"changed {number}"
        elif action == "remove":
            texts.pop()
        library.write("a", *texts)
        if action == "build":
            build()
        elif action == "fail":
            with contextlib.suppress(CheckFailed):
                build(golden=refuse)
        elif action == "rollback":
            with contextlib.suppress(Conflict):
                rollback(database)
    build()
    assert _served_texts(database) == sorted(texts)
    _require_sound(database)


@pytest.mark.parametrize("lost", ["lexical index", "query encoder"])
def test_lost_files_are_made_again(
    settings: Settings,
    library: Any,
    build: Callable[..., GenerationReport],
    searcher: Searcher,
    embedder: Embedder,
    lost: str,
) -> None:
    library.write("a", *PARAGRAPHS)
    first = build()
    if lost == "lexical index":
        shutil.rmtree(lexical_root(settings))
    else:
        (query_encoder_folder(settings, embedder.key) / "query.int8.onnx").write_bytes(b"damaged")
    with pytest.raises(Unavailable):
        searcher.search("subject1")
    second = build()
    assert second.built
    assert (second.added, second.fingerprint) == (0, first.fingerprint)
    assert searcher.search("subject1").hits


def test_a_model_swap_fails_no_reader_and_can_be_undone(
    database: Database,
    settings: Settings,
    library: Any,
    build: Callable[..., GenerationReport],
    use_model: Callable[[int], Embedder],
) -> None:
    library.write("a", *PARAGRAPHS)
    first = build()
    sync_embeddings(database, None, use_model(48))
    stop = threading.Event()
    seen: list[set[int]] = [set(), set(), set()]
    failures: list[BaseException] = []

    def read(number: int) -> None:
        searcher = Searcher(database, settings)
        try:
            while not stop.is_set():
                page = searcher.search(f"details of subject{number}", k=10)
                assert len(page.hits) == 10
                seen[number].add(page.generation)
        except BaseException as error:
            failures.append(error)
        finally:
            searcher.close()

    def wait_for(generation: int) -> None:
        deadline = threading.Event()
        for _ in range(600):
            if failures or all(generation in found for found in seen):
                return
            deadline.wait(0.05)

    readers = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for reader in readers:
        reader.start()
    try:
        wait_for(first.generation)
        second = build(use_model(48))
        wait_for(second.generation)
        for found in seen:
            found.clear()
        rollback(database)
        wait_for(first.generation)
        rollback(database)
        library.write("b", "one more paragraph")
        third = build(use_model(48))
        wait_for(third.generation)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert failures == []
    assert (first.dimensions, second.dimensions) == (32, 48)
    assert all({first.generation, third.generation} <= found for found in seen)


def test_a_model_that_no_generation_needs_is_cleared_away(
    database: Database,
    settings: Settings,
    library: Any,
    build: Callable[..., GenerationReport],
    use_model: Callable[[int], Embedder],
    embedder: Embedder,
) -> None:
    library.write("a", *PARAGRAPHS)
    build()
    other = use_model(48)
    build(other)
    assert query_encoder_folder(settings, embedder.key).is_dir()
    library.write("a", *PARAGRAPHS, "extra")
    build(other)
    assert not query_encoder_folder(settings, embedder.key).exists()
    with database.snapshot() as connection:
        assert _all(connection, "SELECT DISTINCT model_key FROM embedding_cache") == [other.key]
        assert _all(connection, "SELECT count(*) FROM pg_class WHERE relname ~ '^vectors_[0-9]+$'") == [1]
    assert len(list(lexical_root(settings).iterdir())) == 2


_KILLED = """
import os, signal, sys
from stemma.knowledge.embedding import load_model
from stemma.knowledge.generations import build_generation
from stemma.store.database import Database
from stemma.store.settings import Settings

settings = Settings()
def progress(state):
    if state.stage.endswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
with Database.open(settings) as database:
    build_generation(database, settings, load_model(settings), progress=progress)
"""


@pytest.mark.parametrize("stage", ["vectors", "checks", "activation", "clearing away"])
def test_a_killed_build_loses_nothing(
    database: Database,
    library: Any,
    build: Callable[..., GenerationReport],
    embedder: Embedder,
    searcher: Searcher,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    library.write("a", *PARAGRAPHS)
    first = build()
    library.write("a", "replacement", *PARAGRAPHS[1:])
    sync_embeddings(database, None, embedder)
    monkeypatch.setenv("STEMMA_EMBEDDING_MODEL", str(embedder.spec.folder))
    monkeypatch.setenv("STEMMA_EMBEDDING_PRECISION", "fp32")
    killed = subprocess.run([sys.executable, "-c", _KILLED, stage], env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL

    activated = stage == "clearing away"
    page = searcher.search("replacement", mode="lexical")
    assert bool(page.hits) is activated
    assert (page.generation == first.generation) is not activated

    report = build()
    assert report.built is not activated
    assert _served_texts(database) == sorted(["replacement", *PARAGRAPHS[1:]])
    _require_sound(database)
    with database.snapshot() as connection:
        assert {generation.state for generation in list_generations(connection)} == {"ready"}


def test_a_full_disk_is_said_clearly_and_keeps_the_index(
    database: Database, settings: Settings, library: Any, build: Callable[..., GenerationReport], searcher: Searcher
) -> None:
    library.write("a", *PARAGRAPHS)
    build()
    library.write("a", *PARAGRAPHS, "extra")

    def full(_: Connection, __: Generation) -> None:
        raise psycopg.errors.DiskFull("could not extend file: No space left on device")

    with pytest.raises(Unavailable) as caught:
        build(golden=full)
    assert caught.value.code == "disk_full"
    assert searcher.search("subject1").hits


@pytest.mark.parametrize(
    ("damage", "failing"),
    [
        ("DELETE FROM {table} WHERE chunk_id = (SELECT min(chunk_id) FROM {table})", "vectors_match_chunks"),
        (
            "UPDATE {table} SET chunk_id = 999999 WHERE chunk_id = (SELECT min(chunk_id) FROM {table})",
            "vectors_match_chunks",
        ),
        ("INSERT INTO {table} SELECT * FROM {table} LIMIT 1", "vectors_match_chunks"),
        ("UPDATE {table} SET embedding = embedding + embedding", "vectors_have_unit_length"),
        ("DELETE FROM {table}", "rows_reconcile"),
    ],
)
def test_checks_find_what_was_damaged_after_the_build(
    database: Database, library: Any, build: Callable[..., GenerationReport], damage: str, failing: str
) -> None:
    library.write("a", *PARAGRAPHS)
    build()
    with database.owner() as connection:
        generation = active(connection)
        assert generation is not None
        connection.execute(damage.format(table=generation.vector_table))
    with database.snapshot() as connection:
        assert not checks.INDEX_CHECKS[failing](connection).passed


def test_the_ledger_counts_each_step(database: Database, library: Any, build: Callable[..., GenerationReport]) -> None:
    library.write("a", "same", "same", "different")
    library.write("b", "else", source="more")
    with database.snapshot() as connection, pytest.raises(Unavailable):
        checks.row_ledger(connection)
    build()
    with database.snapshot() as connection:
        more, notes = checks.row_ledger(connection)
    assert (notes.documents, notes.chunks, notes.distinct_texts, notes.embedded_texts, notes.vectors) == (1, 3, 2, 2, 3)
    assert more.source == "more"
    assert more.balanced
    assert notes.balanced
