"""Keeping the `chunks` table equal to the documents of a source, and finding where it is not.

How a document is split is `chunking`'s decision. Rows are retired here, never deleted: an index may serve
them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from psycopg.rows import tuple_row

from stemma.knowledge.chunking import Chunker
from stemma.knowledge.documents import source_lock
from stemma.knowledge.models import Chunk, ConvertedDocument, Heading, Source
from stemma.progress import Progress, ReportProgress
from stemma.store.database import Connection, Database
from stemma.store.outputs import Listing, record


@dataclass(slots=True)
class ChunksReport:
    """What one sync did. `documents` and `chunks` count what is current, `added`, `kept` and `retired` what
    this sync touched, `tokens` word pieces of the current chunks; `version` identifies their content."""

    documents: int = 0
    rechunked: int = 0
    chunks: int = 0
    added: int = 0
    kept: int = 0
    retired: int = 0
    tokens: int = 0
    version: str = ""


def sync_chunks(
    database: Database, source: Source, chunker: Chunker, *, progress: ReportProgress | None = None
) -> ChunksReport:
    """Split every document of a source whose text or chunker changed, one transaction each.

    A chunk with the same document, ordinal and embedded text keeps its row. Raises Unavailable when the
    database fails.
    """
    report = ChunksReport()
    started = time.monotonic()
    with source_lock(database, source.name, "chunks") as connection:
        report.retired += _retire_removed(connection, source.name)
        stale = connection.execute(
            "SELECT id FROM documents WHERE source = %s AND NOT removed AND chunked_as IS DISTINCT FROM %s ORDER BY id",
            (source.name, chunker.version),
        ).fetchall()
        for done, (document_id,) in enumerate(stale, start=1):
            with connection.transaction():
                _rechunk(connection, document_id, chunker, report)
            if progress is not None:
                progress(Progress("splitting", "documents", done, len(stale), time.monotonic() - started))
        _summarize(connection, source.name, chunker, report)
    return report


def reconcile_chunks(connection: Connection, source: str | None = None) -> list[str]:
    """Every way in which current chunks and documents disagree, one sentence each; empty when they agree.

    Checked: a span quotes its document exactly and of the right version, every document with words has
    chunks, ordinals are without gaps or duplicates, no chunk of a removed document is current.
    """
    problems: list[str] = []
    for uri, text, text_sha256, chunks in _with_chunks(connection, source):
        problems.extend(f"{uri}: {problem}" for problem in _document_problems(text, text_sha256, chunks))
    orphans = connection.execute(
        "SELECT d.source, d.uri, count(*) FROM chunks c JOIN documents d ON d.id = c.document_id"
        " WHERE NOT c.retired AND d.removed AND (%(source)s::text IS NULL OR d.source = %(source)s)"
        " GROUP BY 1, 2 ORDER BY 1, 2",
        {"source": source},
    )
    problems.extend(f"{name}/{uri}: {count} current chunks of a removed document" for name, uri, count in orphans)
    return problems


def _retire_removed(connection: Connection, source: str) -> int:
    return connection.execute(
        "UPDATE chunks c SET retired = true FROM documents d"
        " WHERE d.id = c.document_id AND d.source = %s AND d.removed AND NOT c.retired",
        (source,),
    ).rowcount


def _rechunk(connection: Connection, document_id: int, chunker: Chunker, report: ChunksReport) -> None:
    row = connection.execute(
        "SELECT text, title, media_type, converter, headings, page_starts, text_sha256 FROM documents"
        " WHERE id = %s AND NOT removed FOR UPDATE",
        (document_id,),
    ).fetchone()
    if row is None:
        return
    text, title, media_type, converter, headings, page_starts, text_sha256 = row
    document = ConvertedDocument(
        text=text,
        title=title,
        media_type=media_type,
        converter=converter,
        headings=tuple(Heading(h["start"], h["level"], h["title"]) for h in headings),
        page_starts=tuple(page_starts),
    )
    _store(connection, document_id, text_sha256, chunker.chunk(document), report)
    connection.execute("UPDATE documents SET chunked_as = %s WHERE id = %s", (chunker.version, document_id))
    report.rechunked += 1


def _store(
    connection: Connection, document_id: int, text_sha256: bytes, chunks: list[Chunk], report: ChunksReport
) -> None:
    known: dict[tuple[int, bytes], tuple[int, bool]] = {}
    current: set[int] = set()
    rows = connection.execute(
        "SELECT id, ordinal, embed_sha256, retired FROM chunks WHERE document_id = %s ORDER BY retired DESC, id",
        (document_id,),
    )
    for chunk_id, ordinal, embed_sha256, retired in rows:
        known[ordinal, bytes(embed_sha256)] = (chunk_id, retired)
        if not retired:
            current.add(chunk_id)
    kept: list[tuple[int, Chunk]] = []
    new: list[tuple[Chunk, bytes]] = []
    for chunk in chunks:
        embed_sha256 = hashlib.sha256(chunk.embed_text.encode()).digest()
        row = known.get((chunk.ordinal, embed_sha256))
        if row is None:
            new.append((chunk, embed_sha256))
        else:
            kept.append((row[0], chunk))
            report.kept += not row[1]
            report.added += row[1]
    outdated = current - {chunk_id for chunk_id, _ in kept}
    connection.execute("UPDATE chunks SET retired = true WHERE id = ANY(%s)", (sorted(outdated),))
    report.retired += len(outdated)
    report.added += len(new)
    with connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE chunks SET start_offset = %s, end_offset = %s, heading_path = %s, page_first = %s,"
            " page_last = %s, token_count = %s, document_sha256 = %s, retired = false WHERE id = %s",
            [
                (
                    c.start,
                    c.end,
                    list(c.heading_path),
                    c.page_first,
                    c.page_last,
                    c.token_count,
                    text_sha256,
                    chunk_id,
                )
                for chunk_id, c in kept
            ],
        )
        with cursor.copy(
            "COPY chunks (document_id, ordinal, start_offset, end_offset, text, context, heading_path,"
            " page_first, page_last, token_count, embed_sha256, document_sha256) FROM STDIN"
        ) as copy:
            for c, embed_sha256 in new:
                span = (document_id, c.ordinal, c.start, c.end, c.text, c.context, list(c.heading_path))
                facts = (c.page_first, c.page_last, c.token_count, embed_sha256, text_sha256)
                copy.write_row((*span, *facts))


def _summarize(connection: Connection, source: str, chunker: Chunker, report: ChunksReport) -> None:
    digest = hashlib.sha256(chunker.version.encode())
    rows = connection.execute(
        "SELECT d.uri, c.ordinal, c.embed_sha256, c.start_offset, c.document_sha256, c.token_count, c.end_offset,"
        " c.page_first, c.page_last"
        " FROM chunks c JOIN documents d ON d.id = c.document_id"
        ' WHERE d.source = %s AND NOT c.retired ORDER BY d.uri COLLATE "C", c.ordinal',
        (source,),
    )
    last = None
    listing = Listing()
    for uri, ordinal, embed_sha256, start, document_sha256, tokens, end, *pages in rows:
        digest.update(f"{uri}\n{ordinal}\n{start}\n".encode() + bytes(embed_sha256) + bytes(document_sha256))
        listing.add(uri, ordinal, start, end, *pages, tokens, embed_sha256.hex(), document_sha256.hex())
        report.documents += uri != last
        report.chunks += 1
        report.tokens += tokens
        last = uri
    report.version = digest.hexdigest()
    record(listing.artifact(f"chunks/{source}"))


def _with_chunks(connection: Connection, source: str | None) -> Iterator[tuple[str, str, bytes, list[tuple[Any, ...]]]]:
    """Stream (name, text, text_sha256, chunks) of the current documents, merging two ordered cursors."""
    where = "NOT d.removed AND (%(source)s::text IS NULL OR d.source = %(source)s)"
    parameters = {"source": source}
    with (
        connection.transaction(),
        connection.cursor("reconcile_documents", row_factory=tuple_row) as documents,
        connection.cursor("reconcile_chunks", row_factory=tuple_row) as chunks,
    ):
        documents.itersize = 20
        documents.execute(
            "SELECT d.id, d.source || '/' || d.uri, d.text, d.text_sha256 FROM documents d"
            f" WHERE {where} ORDER BY d.id",
            parameters,
        )
        chunks.execute(
            "SELECT c.document_id, c.ordinal, c.start_offset, c.end_offset, c.text, c.document_sha256"
            f" FROM chunks c JOIN documents d ON d.id = c.document_id WHERE NOT c.retired AND {where}"
            " ORDER BY c.document_id, c.ordinal",
            parameters,
        )
        pending = next(chunks, None)
        for document_id, name, text, text_sha256 in documents:
            mine = []
            while pending is not None and pending[0] == document_id:
                mine.append(pending[1:])
                pending = next(chunks, None)
            yield name, text, bytes(text_sha256), mine


def _document_problems(text: str, text_sha256: bytes, chunks: list[tuple[Any, ...]]) -> Iterator[str]:
    if not chunks and any(map(str.isalnum, text)):
        yield "it has text but no chunks"
    if [ordinal for ordinal, *_ in chunks] != list(range(len(chunks))):
        yield "its chunk ordinals have gaps or duplicates"
    for ordinal, start, end, quoted, document_sha256 in chunks:
        if text[start:end] != quoted:
            yield f"chunk {ordinal} does not quote characters {start} to {end}"
        if bytes(document_sha256) != text_sha256:
            yield f"chunk {ordinal} quotes another version of the document"
