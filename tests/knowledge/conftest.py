"""Fixtures of the knowledge tests: rows of documents and chunks, and small models that need no network."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stemma.knowledge.embedding import Embedder, load_model
from stemma.knowledge.models import Chunk
from stemma.knowledge.onnx_query import export_query_encoder, query_encoder_folder
from stemma.knowledge.search import Searcher
from stemma.store.database import Database
from stemma.store.settings import Settings


def _chunk(ordinal: int, start: int, text: str, title: str) -> Chunk:
    return Chunk(ordinal, start, start + len(text), text, title, (), None, None, max(1, len(text) // 4))


class Library:
    """Writes documents whose chunks are the given paragraphs, as ingestion would: equal chunks keep their rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, uri: str, *paragraphs: str, source: str = "notes") -> None:
        """Add the document, or replace its text."""
        text = "\n\n".join(paragraphs)
        digest = hashlib.sha256(text.encode()).digest()
        title = uri.rsplit("/", 1)[-1]
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO knowledge_sources (name, kind) VALUES (%s, 'folder') ON CONFLICT DO NOTHING", (source,)
            )
            row = connection.execute(
                """
                INSERT INTO documents (source, uri, title, media_type, byte_size, content_sha256, converter, text,
                    text_sha256, headings, page_starts)
                VALUES (%(source)s, %(uri)s, %(title)s, 'text/plain', %(size)s, %(sha)s, 'test', %(text)s, %(sha)s, '[]', '{}')
                ON CONFLICT (source, uri) DO UPDATE SET text = excluded.text, text_sha256 = excluded.text_sha256, removed = false
                RETURNING id
                """,
                {"source": source, "uri": uri, "title": title, "size": len(text), "sha": digest, "text": text},
            ).fetchone()
            assert row is not None
            start = 0
            for ordinal, paragraph in enumerate(paragraphs):
                chunk = _chunk(ordinal, start, paragraph, title)
                start = chunk.end + 2
                embed = hashlib.sha256(chunk.embed_text.encode()).digest()
                kept = connection.execute(
                    "UPDATE chunks SET start_offset = %s, end_offset = %s, document_sha256 = %s"
                    " WHERE document_id = %s AND ordinal = %s AND NOT retired AND embed_sha256 = %s",
                    (chunk.start, chunk.end, digest, row[0], ordinal, embed),
                ).rowcount
                if kept:
                    continue
                connection.execute(
                    "UPDATE chunks SET retired = true WHERE document_id = %s AND ordinal = %s AND NOT retired",
                    (row[0], ordinal),
                )
                connection.execute(
                    """
                    INSERT INTO chunks (document_id, ordinal, start_offset, end_offset, text, context, heading_path,
                        token_count, embed_sha256, document_sha256)
                    VALUES (%s, %s, %s, %s, %s, %s, '{}', %s, %s, %s)
                    """,
                    (row[0], ordinal, chunk.start, chunk.end, chunk.text, chunk.context, chunk.token_count, embed, digest),
                )
            connection.execute(
                "UPDATE chunks SET retired = true WHERE document_id = %s AND ordinal >= %s AND NOT retired",
                (row[0], len(paragraphs)),
            )

    def remove(self, uri: str, source: str = "notes") -> None:
        """Take the document away, as a source from which it vanished."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE documents SET removed = true WHERE source = %s AND uri = %s", (source, uri))
            connection.execute(
                "UPDATE chunks SET retired = true FROM documents d WHERE d.id = document_id AND d.source = %s AND d.uri = %s",
                (source, uri),
            )


@pytest.fixture
def library(database: Database) -> Library:
    """A way to write documents and chunks into the test's database."""
    return Library(database)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Make a small random BERT in the sentence-transformers format; one folder for each number of dimensions."""
    made: dict[int, Path] = {}

    def make(dimensions: int) -> Path:
        if dimensions not in made:
            made[dimensions] = _write_tiny_model(tmp_path_factory.mktemp("model"), dimensions)
        return made[dimensions]

    return make


def _write_tiny_model(folder: Path, dimensions: int) -> Path:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    bundled = load_model(Settings(embedding_model="minilm")).spec.folder
    plain, finished = folder / "plain", folder / f"tiny-{dimensions}"
    torch.manual_seed(dimensions)
    config = BertConfig(
        vocab_size=30522, hidden_size=dimensions, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(plain)
    AutoTokenizer.from_pretrained(str(bundled)).save_pretrained(plain)
    modules = [Transformer(str(plain), max_seq_length=256), Pooling(dimensions), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(finished))
    return finished


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Embedder], Path]:
    """The folder of a model's query encoder, exported once per session."""
    home = Settings(home=tmp_path_factory.mktemp("exported"))
    return lambda embedder: export_query_encoder(home, embedder)


@pytest.fixture
def use_model(
    settings: Settings, tiny_model: Callable[[int], Path], exported: Callable[[Embedder], Path]
) -> Callable[[int], Embedder]:
    """Load a small model of so many dimensions, its query encoder being in the studio's home already."""

    def use(dimensions: int = 32) -> Embedder:
        chosen = settings.model_copy(
            update={"embedding_model": str(tiny_model(dimensions)), "embedding_precision": "fp32"}
        )
        embedder = load_model(chosen)
        shutil.copytree(exported(embedder), query_encoder_folder(settings, embedder.key), dirs_exist_ok=True)
        return embedder

    return use


@pytest.fixture
def embedder(use_model: Callable[[int], Embedder]) -> Embedder:
    """A small model of 32 dimensions."""
    return use_model(32)


@pytest.fixture(scope="session")
def minilm() -> Embedder:
    """The bundled model."""
    return load_model(Settings(embedding_model="minilm"))


@pytest.fixture
def searcher(database: Database, settings: Settings) -> Iterator[Searcher]:
    """A searcher on the test's studio."""
    opened = Searcher(database, settings)
    yield opened
    opened.close()
