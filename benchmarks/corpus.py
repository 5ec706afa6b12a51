"""A large corpus made from real chunks, so that only its queries need the model.

Texts recombine the lines of two real chunks; vectors are mixtures of two real ones with noise, of unit length. Both
are seeded. Sources are skewed, so that filters of about 1 % and 10 % can be asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.studio import Studio, ingest
from stemma.knowledge.embedding import Embedder, Vectors, sync_embeddings
from stemma.knowledge.sources import INSTALLED
from stemma.store.database import Connection

SOURCES = {"narrow": 0.01, "middle": 0.10, "wide": 0.89}
_CHUNKS_PER_DOCUMENT = 50
_NOISE = 0.35


@dataclass(frozen=True, slots=True)
class RealChunks:
    """Texts (context, newline, text) and their vectors, row by row."""

    texts: list[str]
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class Corpus:
    """What was written: chunk ids, sources and vectors, row by row."""

    chunk_ids: Sequence[int]
    sources: list[str]
    texts: list[str]
    vectors: Vectors


def real_chunks(studio: Studio, embedder: Embedder) -> RealChunks:
    """Chunks of the installed documentation with the pipeline's own vectors; the studio is left empty again."""
    ingest(studio, INSTALLED)
    sync_embeddings(studio.database, INSTALLED.name, embedder)
    with studio.database.transaction() as connection:
        rows = connection.execute("""
            SELECT DISTINCT ON (c.embed_sha256) c.text, e.embedding FROM chunks c
            JOIN embedding_cache e ON e.text_sha256 = c.embed_sha256
        """).fetchall()
        connection.execute("TRUNCATE documents, embedding_cache CASCADE")
    return RealChunks([row[0] for row in rows], np.stack([row[1].to_numpy() for row in rows]).astype(np.float32))


def write_corpus(studio: Studio, embedder: Embedder, real: RealChunks, size: int, *, seed: int = 7) -> Corpus:
    """Replace the studio's documents by `size` synthetic chunks with embeddings."""
    rng = np.random.default_rng(seed)
    texts, vectors = _recombined(real, size, rng)
    sources = sorted(rng.choice(list(SOURCES), p=list(SOURCES.values()), size=size).tolist())
    with studio.database.transaction() as connection:
        connection.execute("TRUNCATE documents, embedding_cache CASCADE")
        for source in SOURCES:
            connection.execute(
                "INSERT INTO knowledge_sources (name, kind) VALUES (%s, 'folder') ON CONFLICT DO NOTHING", (source,)
            )
        chunk_ids = _write(connection, embedder.key, texts, vectors, sources)
    return Corpus(chunk_ids, sources, texts, vectors)


def _recombined(real: RealChunks, size: int, rng: np.random.Generator) -> tuple[list[str], Vectors]:
    first, second = rng.integers(len(real.texts), size=(2, size))
    texts = []
    for number, (left, right) in enumerate(zip(first, second, strict=True)):
        head, tail = real.texts[left].splitlines(), real.texts[right].splitlines()
        lines = head[: (len(head) + 1) // 2] + tail[len(tail) // 2 :]
        texts.append("\n".join([*lines, f"({number})"]))
    noise = rng.standard_normal((size, real.vectors.shape[1]), dtype=np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    mixed = 0.7 * real.vectors[first] + 0.3 * real.vectors[second] + _NOISE * noise
    return texts, (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)


def _write(
    connection: Connection, model_key: str, texts: list[str], vectors: Vectors, sources: list[str]
) -> Sequence[int]:
    hashes = [hashlib.sha256(text.encode()).digest() for text in texts]
    documents: dict[tuple[str, int], int] = {}
    with connection.cursor() as cursor:
        for number, source in enumerate(sources):
            part = (source, number // _CHUNKS_PER_DOCUMENT)
            if part not in documents:
                uri = f"part-{part[1]:06d}.txt"
                row = connection.execute(
                    """
                    INSERT INTO documents (source, uri, title, media_type, byte_size, content_sha256, converter, text,
                        text_sha256, headings, page_starts)
                    VALUES (%s, %s, %s, 'text/plain', 0, '', 'synthetic', '', '', '[]', '{}') RETURNING id
                    """,
                    (source, uri, uri),
                ).fetchone()
                assert row is not None
                documents[part] = row[0]
        with cursor.copy("""
            COPY chunks (document_id, ordinal, start_offset, end_offset, text, context, heading_path, token_count,
                embed_sha256, document_sha256) FROM STDIN
        """) as copy:
            for number, (text, sha256, source) in enumerate(zip(texts, hashes, sources, strict=True)):
                document = documents[source, number // _CHUNKS_PER_DOCUMENT]
                copy.write_row((document, number, 0, len(text), text, "", [], 100, sha256, b""))
        with cursor.copy(
            "COPY embedding_cache (model_key, text_sha256, embedding) FROM STDIN WITH (FORMAT binary)"
        ) as copy:
            copy.set_types(["text", "bytea", "vector"])
            for sha256, vector in zip(hashes, vectors, strict=True):
                copy.write_row((model_key, sha256, vector))
    return [row[0] for row in connection.execute("SELECT id FROM chunks ORDER BY ordinal").fetchall()]
