from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stemma.errors import CheckFailed, InvalidInput, Unavailable
from stemma.knowledge import embedding
from stemma.knowledge.embedding import Embedder, load_model, sync_embeddings
from stemma.knowledge.onnx_query import QueryEncoder, has_query_encoder, open_query_encoder, query_encoder_folder
from stemma.progress import Progress
from stemma.store.database import Database
from stemma.store.settings import Settings


def _cached(database: Database) -> int:
    with database.snapshot() as connection:
        row = connection.execute("SELECT count(*) FROM embedding_cache").fetchone()
    assert row is not None
    return int(row[0])


def test_the_bundled_model_answers_unit_vectors_in_the_order_asked(minilm: Embedder) -> None:
    texts = ["a much longer sentence about databases and the vectors that they can hold", "cat", "dog"]
    vectors = minilm.encode(texts, batch_size=2)
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert vectors[1] @ vectors[2] > vectors[1] @ vectors[0]
    assert vectors[1] @ minilm.encode(["cat"])[0] > 0.999


def test_no_texts_give_no_vectors(embedder: Embedder) -> None:
    assert embedder.encode([]).shape == (0, 32)


def test_the_key_follows_the_weights_and_the_precision_but_not_the_folder(
    settings: Settings, tiny_model: Callable[[int], Path], tmp_path: Path
) -> None:
    def key(folder: Path, precision: str = "fp32") -> str:
        return load_model(
            settings.model_copy(update={"embedding_model": str(folder), "embedding_precision": precision})
        ).key

    moved = tmp_path / "moved"
    shutil.copytree(tiny_model(32), moved)
    assert key(moved) == key(tiny_model(32))
    assert key(moved, "bf16") != key(moved)
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    assert key(moved) != key(tiny_model(32))


def test_altered_weights_of_the_bundled_model_are_refused(
    settings: Settings, minilm: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "minilm"
    folder.mkdir()
    for file in minilm.spec.folder.rglob("*"):
        target = folder / file.relative_to(minilm.spec.folder)
        if file.is_dir():
            target.mkdir()
        else:
            target.symlink_to(file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(embedding, "_bundled_folder", lambda: folder)
    with pytest.raises(CheckFailed) as caught:
        load_model(settings)
    assert caught.value.code == "model_weights_altered"


@pytest.mark.parametrize("lacking", ["modules.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_is_no_model_is_refused_by_name(
    settings: Settings, tiny_model: Callable[[int], Path], tmp_path: Path, lacking: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model(32), folder)
    (folder / lacking).unlink()
    with pytest.raises(InvalidInput) as caught:
        load_model(settings.model_copy(update={"embedding_model": str(folder)}))
    assert caught.value.field == "STEMMA_EMBEDDING_MODEL"


def test_a_damaged_model_configuration_is_refused(
    settings: Settings, tiny_model: Callable[[int], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model(32), folder)
    (folder / "1_Pooling" / "config.json").write_text("{", "utf-8")
    with pytest.raises(InvalidInput, match="configuration cannot be read"):
        load_model(settings.model_copy(update={"embedding_model": str(folder)}))


def test_only_new_texts_are_embedded_and_each_once(database: Database, library: Any, embedder: Embedder) -> None:
    library.write("a", "first", "second", "second")
    first = sync_embeddings(database, "notes", embedder)
    assert (first.chunks, first.distinct, first.embedded, first.reused) == (3, 2, 2, 0)

    library.write("a", "first", "changed", "second")
    library.write("other/a", "first", source="more")
    second = sync_embeddings(database, "notes", embedder)
    assert (second.embedded, second.reused) == (1, 2)
    assert second.version != first.version
    assert sync_embeddings(database, "more", embedder).reused == 1

    again = sync_embeddings(database, None, embedder)
    assert (again.embedded, again.chunks) == (0, 4)


def test_the_cached_vector_is_that_of_title_and_text(database: Database, library: Any, embedder: Embedder) -> None:
    library.write("title", "body")
    sync_embeddings(database, None, embedder)
    with database.snapshot() as connection:
        row = connection.execute("SELECT embedding FROM embedding_cache").fetchone()
    assert row is not None
    assert row[0].to_numpy() == pytest.approx(embedder.encode(["title\nbody"])[0], abs=1e-5)


def test_a_second_model_has_vectors_of_its_own(
    database: Database, library: Any, use_model: Callable[[int], Embedder]
) -> None:
    library.write("a", "first", "second")
    sync_embeddings(database, None, use_model(32))
    assert sync_embeddings(database, None, use_model(48)).embedded == 2
    assert _cached(database) == 4


def test_vectors_of_texts_that_are_gone_are_deleted(database: Database, library: Any, embedder: Embedder) -> None:
    library.write("a", "first", "second")
    sync_embeddings(database, None, embedder)
    with database.transaction() as connection:
        connection.execute("DELETE FROM chunks WHERE ordinal = 1")
    assert sync_embeddings(database, None, embedder).deleted == 1
    assert _cached(database) == 1


def test_progress_ends_at_the_total(database: Database, library: Any, embedder: Embedder) -> None:
    library.write("a", *(f"paragraph number {number}" for number in range(600)))
    seen: list[Progress] = []
    sync_embeddings(database, None, embedder, progress=seen.append)
    assert len(seen) > 1
    assert [state.done for state in seen] == sorted(state.done for state in seen)
    assert seen[-1].done == seen[-1].total


_INTERRUPTED = """
import os, signal, sys
from stemma.knowledge.embedding import load_model, sync_embeddings
from stemma.store.database import Database
from stemma.store.settings import Settings

settings = Settings()
seen = 0
def progress(state):
    global seen
    seen += 1
    if seen == 2:
        os.kill(os.getpid(), signal.SIGKILL)
with Database.open(settings) as database:
    sync_embeddings(database, None, load_model(settings), progress=progress)
"""


def test_a_killed_run_continues_where_it_stopped(
    database: Database, library: Any, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.write("a", *(f"paragraph number {number}" for number in range(800)))
    monkeypatch.setenv("STEMMA_EMBEDDING_MODEL", str(embedder.spec.folder))
    monkeypatch.setenv("STEMMA_EMBEDDING_PRECISION", "fp32")
    killed = subprocess.run([sys.executable, "-c", _INTERRUPTED], env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    kept = _cached(database)
    assert 0 < kept < 800
    report = sync_embeddings(database, None, embedder)
    assert (report.reused, report.embedded) == (kept, 800 - kept)


def test_the_query_encoder_agrees_with_the_model(
    settings: Settings, minilm: Embedder, exported: Callable[[Embedder], Path]
) -> None:
    shutil.copytree(exported(minilm), query_encoder_folder(settings, minilm.key))
    queries = ["how to add an index to a vector column", "x", "word " * 400]
    encoder = open_query_encoder(settings, minilm.key)
    for query, vector in zip(queries, minilm.encode(queries), strict=True):
        answer = encoder.encode(query)
        assert answer.shape == (384,)
        assert np.linalg.norm(answer) == pytest.approx(1, abs=1e-4)
        assert answer @ vector > 0.97


@hypothesis_settings(deadline=None, max_examples=30)
@given(text=st.text(max_size=400).filter(lambda text: "\0" not in text))
def test_any_text_has_a_finite_unit_vector(text: str, tiny_encoder: QueryEncoder) -> None:
    vector = tiny_encoder.encode(text)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-4)


@pytest.fixture(scope="session")
def tiny_encoder(
    tiny_model: Callable[[int], Path], exported: Callable[[Embedder], Path], tmp_path_factory: pytest.TempPathFactory
) -> QueryEncoder:
    home = Settings(home=tmp_path_factory.mktemp("home"), embedding_model=str(tiny_model(32)))
    embedder = load_model(home)
    shutil.copytree(exported(embedder), query_encoder_folder(home, embedder.key))
    return open_query_encoder(home, embedder.key)


def test_a_missing_or_damaged_query_encoder_is_said_clearly(settings: Settings, embedder: Embedder) -> None:
    with pytest.raises(Unavailable) as caught:
        open_query_encoder(settings, "0" * 16)
    assert caught.value.code == "query_encoder_unavailable"
    (query_encoder_folder(settings, embedder.key) / "query.int8.onnx").write_bytes(b"damaged")
    assert not has_query_encoder(settings, embedder.key)
    with pytest.raises(Unavailable) as caught:
        open_query_encoder(settings, embedder.key)
    assert caught.value.code == "query_encoder_unavailable"


def test_the_facts_name_the_graphs_inputs(settings: Settings, embedder: Embedder) -> None:
    facts = json.loads((query_encoder_folder(settings, embedder.key) / "query.json").read_text("utf-8"))
    assert facts == {
        "inputs": ["input_ids", "attention_mask", "token_type_ids"],
        "max_tokens": embedder.spec.max_tokens,
        "dimensions": 32,
    }
