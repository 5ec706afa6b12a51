"""Fixtures of the knowledge tests: rows of documents and chunks, and a studio that embeds with a small model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stemma.knowledge.embedding import Embedder, sync_embeddings
from stemma.knowledge.generations import build_generation
from stemma.knowledge.models import Chunk
from stemma.knowledge.search import Searcher
from stemma.store.database import Database, DatabaseUrls
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
                VALUES (%(source)s, %(uri)s, %(title)s, 'text/plain', %(size)s, %(sha)s, 'test', %(text)s, %(sha)s,
                    '[]', '{}')
                ON CONFLICT (source, uri) DO UPDATE
                SET text = excluded.text, text_sha256 = excluded.text_sha256, removed = false
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
                    (
                        row[0],
                        ordinal,
                        chunk.start,
                        chunk.end,
                        chunk.text,
                        chunk.context,
                        chunk.token_count,
                        embed,
                        digest,
                    ),
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
                "UPDATE chunks SET retired = true FROM documents d"
                " WHERE d.id = document_id AND d.source = %s AND d.uri = %s",
                (source, uri),
            )


@pytest.fixture
def library(database: Database) -> Library:
    """A way to write documents and chunks into the test's database."""
    return Library(database)


Tiny = Callable[[Settings, int], Embedder]


@pytest.fixture(scope="session")
def load_tiny(tiny_model: Callable[[int], Path], equip: Callable[[Settings], Embedder]) -> Tiny:
    """Load a small model of so many dimensions and give the studio's home its query encoder."""

    def load(settings: Settings, dimensions: int) -> Embedder:
        model = str(tiny_model(dimensions))
        return equip(settings.model_copy(update={"embedding_model": model, "embedding_precision": "fp32"}))

    return load


@pytest.fixture
def use_model(settings: Settings, load_tiny: Tiny) -> Callable[[int], Embedder]:
    """Load a small model of so many dimensions for the test's studio."""
    return lambda dimensions: load_tiny(settings, dimensions)


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


@dataclass(frozen=True, slots=True)
class Shelf:
    """An indexed studio that tests only read."""

    settings: Settings
    database: Database
    searcher: Searcher
    generation: int


@pytest.fixture(scope="module")
def shelf(
    new_database: Callable[[], DatabaseUrls],
    drop_database: Callable[[DatabaseUrls], None],
    tmp_path_factory: pytest.TempPathFactory,
    load_tiny: Tiny,
) -> Iterator[Shelf]:
    """Three sources of unlike size about animals, indexed once for all tests of a module."""
    urls = new_database()
    settings = Settings(home=tmp_path_factory.mktemp("shelf"), database_url=urls.app, database_owner_url=urls.owner)
    embedder = load_tiny(settings, 32)
    with Database(urls) as database:
        write_animals(Library(database))
        sync_embeddings(database, None, embedder)
        report = build_generation(database, settings, embedder)
        searcher = Searcher(database, settings)
        yield Shelf(settings, database, searcher, report.generation)
        searcher.close()
    drop_database(urls)


def write_animals(library: Library) -> None:
    """Fill the library with 240, 30 and 2 chunks in three sources."""
    for number in range(12):
        digs = (f"The badger of field {number} digs tunnel {at}." for at in range(20))
        library.write(f"big/{number}", *digs, source="big")
    library.write("mid/otter", *(f"An otter swims in river {at}." for at in range(30)), source="mid")
    library.write("small/owl", "The owl hunts at night.", "Owls turn their heads.", source="small")
