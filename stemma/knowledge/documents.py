"""Keeping the `documents` table equal to what a source holds, one whole document at a time.

Reading items is `sources`' work and converting them `convert`'s; chunks are made from the rows by `chunks`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg

from stemma.errors import Unavailable
from stemma.knowledge.conversion.titles import bare_name, shortened
from stemma.knowledge.conversion.unreadable import Unreadable
from stemma.knowledge.convert import convert, converter_version, media_type_of
from stemma.knowledge.models import ConvertedDocument, Source
from stemma.knowledge.sources import Item, read_items
from stemma.progress import Progress, ReportProgress
from stemma.store.database import Connection, Database
from stemma.store.outputs import Listing, record, record_read
from stemma.store.settings import Settings


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An item that could not be read, and why."""

    uri: str
    code: str
    reason: str


@dataclass(slots=True)
class DocumentsReport:
    """What one sync found. `read` counts items, `characters` the text now current; `version` identifies that
    text."""

    read: int = 0
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    quarantined: list[Quarantined] = field(default_factory=list)
    documents: int = 0
    characters: int = 0
    version: str = ""


@dataclass(frozen=True, slots=True)
class _Known:
    content_sha256: bytes
    converter: str
    removed: bool


def sync_documents(
    database: Database, source: Source, settings: Settings, *, progress: ReportProgress | None = None
) -> DocumentsReport:
    """Read every item of a source and write what changed.

    Each document commits by itself. One that cannot be read is quarantined and its last good version stays;
    one that is gone counts as removed. Raises what `read_items` raises when the source itself cannot be read
    (nothing is then changed), and Unavailable when the database fails.
    """
    report = DocumentsReport()
    started = time.monotonic()
    with source_lock(database, source.name, "documents") as connection:
        items = list(read_items(source, settings))
        known = _known_documents(connection, source.name)
        quarantined_before = _quarantined_uris(connection, source.name)
        for done, item in enumerate(items, start=1):
            _sync_item(connection, source.name, item, known.get(item.uri), settings, report)
            if progress is not None:
                seconds = time.monotonic() - started
                progress(Progress("reading", "documents", done, len(items), seconds))
        failed = {entry.uri for entry in report.quarantined}
        _clear_quarantine(connection, source.name, quarantined_before - failed)
        present = {item.uri for item in items}
        gone = [uri for uri, row in known.items() if not row.removed and not _is_present(uri, present, failed)]
        report.removed = _mark_removed(connection, source.name, gone)
        report.read = len(items)
        _summarize(connection, source.name, report)
    return report


@contextlib.contextmanager
def source_lock(database: Database, source: str, step: str) -> Iterator[Connection]:
    """A connection that holds the one lock of this step of this source until the end of the block.

    It autocommits, so that work inside chooses its own transactions. Raises Unavailable when the database
    fails or its disk is full.
    """
    try:
        with database.transaction() as connection:
            connection.autocommit = True
            try:
                connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"{step}:{source}",))
                try:
                    yield connection
                finally:
                    if not connection.closed:
                        connection.execute("SELECT pg_advisory_unlock_all()")
            finally:
                if not connection.closed:
                    connection.autocommit = False
    except psycopg.errors.DiskFull as error:
        raise Unavailable(
            "disk_full",
            "The disk of the database is full; what was committed before is intact.",
            hint="Free space, then run it again; it continues where it stopped.",
        ) from error
    except psycopg.OperationalError as error:
        raise Unavailable(
            "database_unreachable",
            f"The database failed: {' '.join(str(error).split())}.",
            hint="Run `stemma doctor` to see what is wrong, then run it again.",
        ) from error


def _known_documents(connection: Connection, source: str) -> dict[str, _Known]:
    rows = connection.execute(
        "SELECT uri, content_sha256, converter, removed FROM documents WHERE source = %s", (source,)
    )
    return {uri: _Known(bytes(content), converter, removed) for uri, content, converter, removed in rows}


def _quarantined_uris(connection: Connection, source: str) -> set[str]:
    return {uri for (uri,) in connection.execute("SELECT uri FROM document_quarantine WHERE source = %s", (source,))}


def _sync_item(
    connection: Connection,
    source: str,
    item: Item,
    known: _Known | None,
    settings: Settings,
    report: DocumentsReport,
) -> None:
    try:
        data = item.read()
        content_sha256 = hashlib.sha256(data).digest()
        media_type = media_type_of(data, uri=item.uri, media_type=item.media_type)
        if known and (known.content_sha256, known.converter) == (
            content_sha256,
            converter_version(media_type),
        ):
            if known.removed:
                _revive(connection, source, item.uri)
            report.added += known.removed
            report.unchanged += not known.removed
            return
        document = _about(item, convert(data, uri=item.uri, media_type=item.media_type, settings=settings))
    except Unreadable as error:
        report.quarantined.append(_quarantine(connection, source, item, error))
        return
    _write(connection, source, item.uri, document, len(data), content_sha256)
    if known is None or known.removed:
        report.added += 1
    else:
        report.changed += 1


def _about(item: Item, document: ConvertedDocument) -> ConvertedDocument:
    """Put the subject into a title that lacks it: `Introduction` of beautifulsoup4 says nothing by itself."""
    if item.subject is None or bare_name(item.subject) in bare_name(document.title):
        return document
    return dataclasses.replace(document, title=shortened(f"{item.subject}: {document.title}"))


def _write(
    connection: Connection,
    source: str,
    uri: str,
    document: ConvertedDocument,
    size: int,
    content_sha256: bytes,
) -> None:
    headings = [{"start": h.start, "level": h.level, "title": h.title} for h in document.headings]
    connection.execute(
        "INSERT INTO documents (source, uri, title, media_type, byte_size, content_sha256, converter, text,"
        " text_sha256, headings, page_starts)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (source, uri) DO UPDATE SET title = excluded.title, media_type = excluded.media_type,"
        " byte_size = excluded.byte_size, content_sha256 = excluded.content_sha256,"
        " converter = excluded.converter, text = excluded.text, text_sha256 = excluded.text_sha256,"
        " headings = excluded.headings, page_starts = excluded.page_starts, removed = false,"
        " chunked_as = NULL, read_at = now()",
        (
            source,
            uri,
            document.title,
            document.media_type,
            size,
            content_sha256,
            document.converter,
            document.text,
            hashlib.sha256(document.text.encode()).digest(),
            json.dumps(headings),
            list(document.page_starts),
        ),
    )


def _revive(connection: Connection, source: str, uri: str) -> None:
    connection.execute(
        "UPDATE documents SET removed = false, chunked_as = NULL, read_at = now() WHERE source = %s AND uri = %s",
        (source, uri),
    )


def _quarantine(connection: Connection, source: str, item: Item, error: Unreadable) -> Quarantined:
    entry = Quarantined(item.uri, error.code, str(error))
    connection.execute(
        "INSERT INTO document_quarantine (source, uri, code, reason, byte_size) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT (source, uri) DO UPDATE SET code = excluded.code, reason = excluded.reason,"
        " byte_size = excluded.byte_size, last_seen_at = now()",
        (source, item.uri, entry.code, entry.reason, item.size),
    )
    return entry


def _clear_quarantine(connection: Connection, source: str, uris: set[str]) -> None:
    connection.execute("DELETE FROM document_quarantine WHERE source = %s AND uri = ANY(%s)", (source, sorted(uris)))


def _is_present(uri: str, present: set[str], failed: set[str]) -> bool:
    """Whether the source still has it: listed, or below a folder that could not be listed this time."""
    return uri in present or any(folder.endswith("/") and uri.startswith(folder) for folder in failed)


def _mark_removed(connection: Connection, source: str, uris: list[str]) -> int:
    connection.execute(
        "UPDATE documents SET removed = true, chunked_as = NULL WHERE source = %s AND uri = ANY(%s)",
        (source, uris),
    )
    return len(uris)


def _summarize(connection: Connection, source: str, report: DocumentsReport) -> None:
    digest = hashlib.sha256()
    as_read, as_written = Listing(), Listing()
    rows = connection.execute(
        "SELECT uri, text_sha256, title, converter, length(text), content_sha256, byte_size, media_type,"
        " sha256(convert_to(headings::text || page_starts::text, 'UTF8')) FROM documents"
        ' WHERE source = %s AND NOT removed ORDER BY uri COLLATE "C"',
        (source,),
    )
    for uri, text_sha256, title, converter, characters, content_sha256, size, media_type, structure in rows:
        digest.update(json.dumps([uri, text_sha256.hex(), title, converter]).encode())
        as_read.add(uri, content_sha256.hex(), size)
        as_written.add(uri, title, media_type, converter, text_sha256.hex(), structure.hex())
        report.documents += 1
        report.characters += characters
    report.version = digest.hexdigest()
    record_read(as_read.artifact(f"source/{source}"))
    record(as_written.artifact(f"documents/{source}"))


def reconcile_documents(connection: Connection, source: str | None = None) -> list[str]:
    """Every current document of a source (None: of all) whose row contradicts itself, one sentence each.

    Checked: the text has the hash that its row claims, and headings and pages start inside it, in order.
    """
    rows = connection.execute(
        """
        SELECT source || '/' || uri, sha256(convert_to(text, 'UTF8')) = text_sha256,
            coalesce((SELECT bool_and((h->>'start')::int BETWEEN 0 AND length(text))
                FROM jsonb_array_elements(headings) h), true),
            coalesce((SELECT bool_and(p BETWEEN 0 AND length(text)) FROM unnest(page_starts) p), true)
                AND page_starts = ARRAY(SELECT p FROM unnest(page_starts) p ORDER BY p)
        FROM documents WHERE NOT removed AND (%(source)s::text IS NULL OR source = %(source)s) ORDER BY 1
        """,
        {"source": source},
    ).fetchall()
    problems = []
    for name, whole, headings_inside, pages_inside in rows:
        if not whole:
            problems.append(f"{name}: its text does not have the recorded hash")
        if not headings_inside:
            problems.append(f"{name}: a heading lies outside the text")
        if not pages_inside:
            problems.append(f"{name}: a page lies outside the text or out of order")
    return problems
