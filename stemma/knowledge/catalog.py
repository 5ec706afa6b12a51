"""Reading the catalogue: which sources, documents and quarantined items there are, and a passage of a text.

Only reads live here; each function works on a connection that its caller opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from stemma.errors import InvalidInput, NotFound
from stemma.knowledge import sources
from stemma.knowledge.models import SourceKind
from stemma.store.cursors import Page, cut_page, decode_cursor, encode_cursor
from stemma.store.database import Connection

MAX_EXCERPT = 100_000
MAX_OFFSET = 2**31 - 1 - MAX_EXCERPT
DEFAULT_EXCERPT = 2_000


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """A source with how many documents and chunks it has now, and how many items could not be read."""

    name: str
    kind: SourceKind
    locations: tuple[str, ...]
    documents: int
    chunks: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class DocumentSummary:
    """A document as listed; size in bytes as read, chunks as split now."""

    id: int
    source: str
    uri: str
    title: str
    media_type: str
    size: int
    read_at: datetime
    chunks: int


@dataclass(frozen=True, slots=True)
class DocumentView:
    """A document with one passage: `excerpt == text[start:end]`, offsets in characters (code points) of its
    text.

    `text_sha256` identifies the text; a citation of another text has other offsets. `removed` says that the
    document is gone from its source and stays only while an index cites it.
    """

    id: int
    source: str
    uri: str
    title: str
    media_type: str
    size: int
    read_at: datetime
    chunks: int
    removed: bool
    content_sha256: str
    text_sha256: str
    characters: int
    start: int
    end: int
    excerpt: str


@dataclass(frozen=True, slots=True)
class QuarantinedItem:
    """Something that could not be read, with the reason; size in bytes where it is known."""

    source: str
    uri: str
    code: str
    reason: str
    size: int | None
    first_seen_at: datetime
    last_seen_at: datetime


def list_sources(connection: Connection) -> tuple[SourceSummary, ...]:
    """All sources that are read, by name."""
    rows = connection.execute(
        "SELECT s.name, s.kind, s.locations,"
        " (SELECT count(*) FROM documents d WHERE d.source = s.name AND NOT d.removed),"
        " (SELECT count(*) FROM chunks c JOIN documents d ON d.id = c.document_id"
        "   WHERE d.source = s.name AND NOT c.retired),"
        " (SELECT count(*) FROM document_quarantine q WHERE q.source = s.name)"
        " FROM knowledge_sources s WHERE NOT s.removed ORDER BY s.name"
    )
    return tuple(SourceSummary(name, kind, tuple(locations), *counts) for name, kind, locations, *counts in rows)


def list_documents(
    connection: Connection, *, source: str | None = None, cursor: str | None = None, limit: int = 50
) -> Page[DocumentSummary]:
    """The present documents in the order of their ids, all or those of one source.

    Raises NotFound(field="source") and InvalidInput(field="cursor").
    """
    if source is not None:
        sources.get(connection, source)
    (after,) = decode_cursor("documents", cursor, int) if cursor else (0,)
    rows = (
        connection.cursor(row_factory=class_row(DocumentSummary))
        .execute(
            "SELECT d.id, d.source, d.uri, d.title, d.media_type, d.byte_size AS size, d.read_at,"
            " (SELECT count(*) FROM chunks c WHERE c.document_id = d.id AND NOT c.retired) AS chunks"
            " FROM documents d WHERE NOT d.removed AND d.id > %(after)s"
            " AND (%(source)s::text IS NULL OR d.source = %(source)s) ORDER BY d.id LIMIT %(limit)s",
            {"after": after, "source": source, "limit": limit + 1},
        )
        .fetchall()
    )
    return cut_page(rows, limit, lambda last: encode_cursor("documents", last.id))


def read_document(connection: Connection, document_id: int, *, start: int = 0, end: int | None = None) -> DocumentView:
    """One document with the passage `text[start:end]`; without `end`, 2,000 characters or what is left.

    Raises NotFound(field="id"), and InvalidInput (`span_invalid`, `span_too_long`, `span_outside_text`) for
    a span that the text does not have: a citation's span that fails here quotes another version of the
    text.
    """
    _check_span(start, end)
    view = (
        connection.cursor(row_factory=class_row(DocumentView))
        .execute(
            "SELECT d.id, d.source, d.uri, d.title, d.media_type, d.byte_size AS size, d.read_at,"
            " (SELECT count(*) FROM chunks c WHERE c.document_id = d.id AND NOT c.retired) AS chunks,"
            " d.removed, encode(d.content_sha256, 'hex') AS content_sha256,"
            " encode(d.text_sha256, 'hex') AS text_sha256, length(d.text) AS characters,"
            ' %(start)s::integer AS start, %(start)s::integer + length(excerpt) AS "end", excerpt'
            " FROM documents d, substr(d.text, %(start)s::integer + 1, %(length)s::integer) excerpt"
            " WHERE d.id = %(id)s",
            {
                "id": document_id,
                "start": start,
                "length": DEFAULT_EXCERPT if end is None else end - start,
            },
        )
        .fetchone()
    )
    if view is None:
        raise NotFound(
            "document_not_found",
            f"There is no document {document_id}.",
            field="id",
            hint="It may have been removed from its source; search again for its present citation.",
        )
    if max(start, end or 0) > view.characters:
        raise InvalidInput(
            "span_outside_text",
            f"The text has {view.characters} characters.",
            field="start" if end is None else "end",
            hint="Compare text_sha256 with the citation's document_sha256; the document may have changed.",
        )
    return view


def _check_span(start: int, end: int | None) -> None:
    if not 0 <= start <= (start if end is None else end) <= MAX_OFFSET:
        raise InvalidInput(
            "span_invalid",
            f"A span is 0 <= start <= end <= {MAX_OFFSET}.",
            field="start" if end is None else "end",
            hint="Offsets count characters of the document's text.",
        )
    if end is not None and end - start > MAX_EXCERPT:
        raise InvalidInput(
            "span_too_long",
            f"At most {MAX_EXCERPT} characters are returned at once.",
            field="end",
            hint="Read the text in several spans.",
        )


def list_quarantine(
    connection: Connection, *, source: str | None = None, cursor: str | None = None, limit: int = 50
) -> Page[QuarantinedItem]:
    """What could not be read, by source and URI.

    Raises NotFound(field="source") and InvalidInput(field="cursor").
    """
    if source is not None:
        sources.get(connection, source)
    after_source, after_uri = decode_cursor("quarantine", cursor, str, str) if cursor else ("", "")
    rows = (
        connection.cursor(row_factory=class_row(QuarantinedItem))
        .execute(
            "SELECT source, uri, code, reason, byte_size AS size, first_seen_at, last_seen_at"
            " FROM document_quarantine WHERE (source, uri) > (%(after_source)s, %(after_uri)s)"
            " AND (%(source)s::text IS NULL OR source = %(source)s) ORDER BY source, uri LIMIT %(limit)s",
            {"after_source": after_source, "after_uri": after_uri, "source": source, "limit": limit + 1},
        )
        .fetchall()
    )
    return cut_page(rows, limit, lambda last: encode_cursor("quarantine", last.source, last.uri))
