"""Fixtures of the knowledge tests: rows of documents and chunks, and a studio that embeds with a small model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stemma.knowledge.embedding import Embedder
from stemma.knowledge.models import Chunk
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


@pytest.fixture
def use_model(
    settings: Settings, tiny_model: Callable[[int], Path], equip: Callable[[Settings], Embedder]
) -> Callable[[int], Embedder]:
    """Load a small model of so many dimensions, its query encoder being in the studio's home already."""

    def use(dimensions: int = 32) -> Embedder:
        model = str(tiny_model(dimensions))
        return equip(settings.model_copy(update={"embedding_model": model, "embedding_precision": "fp32"}))

    return use


@pytest.fixture
def embedder(use_model: Callable[[int], Embedder]) -> Embedder:
    """A small model of 32 dimensions."""
    return use_model(32)


@pytest.fixture
def searcher(database: Database, settings: Settings) -> Iterator[Searcher]:
    """A searcher on the test's studio."""
    opened = Searcher(database, settings)
    yield opened
    opened.close()
