"""Taking in a paper: its bytes are read before anything is kept, so that what cannot be read is refused at once.

A paper is known by its bytes: the same PDF again is the same paper. What it claims is found later, by the pipeline.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal
from uuid import UUID, uuid5

from stemma.access.principal import Principal
from stemma.errors import Conflict, NotFound, TooLarge
from stemma.knowledge.uploads import store_upload
from stemma.ledger.change import Change
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.papers import catalog
from stemma.papers.model import Paper, PaperKind, PaperSource
from stemma.papers.pages import Page, read_pages, title_of
from stemma.store.database import Connection, database_time
from stemma.store.files import FileStore, read_local
from stemma.store.settings import Settings

_PAPERS: Final = UUID("6f0c7a0e-3b57-4c3a-8d1e-0a5b7f4f2c11")
_RESTATED: Final = re.compile(r"restates published numbers and is\s+not the\s+original\s+paper", re.IGNORECASE)
_TITLE: Final = 300
_REFERENCE: Final = 1000

_INSERT: Final = """
    INSERT INTO p2n.papers (id, sha256, title, kind, source, source_ref, licence, file_key, pages_key, bytes, pages,
        status, error_code, error_message, vector_file, created_at, created_by, updated_at)
    VALUES (%(id)s, %(sha256)s, %(title)s, %(kind)s, %(source)s, %(source_ref)s, %(licence)s, %(file_key)s,
        %(pages_key)s, %(bytes)s, %(pages)s, %(status)s, %(error_code)s, %(error_message)s, %(vector_file)s,
        %(created_at)s, %(created_by)s, %(updated_at)s)
    ON CONFLICT (id) DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Received:
    """A PDF that was read and can be taken in. `licence` is what whoever sends it says."""

    data: bytes
    sha256: str
    title: str
    kind: PaperKind
    pages: int
    source: PaperSource
    source_ref: str
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class Ingested:
    """A paper, and whether it was there already."""

    paper: Paper
    status: Literal["created", "unchanged"]


def receive(
    data: bytes | BinaryIO, settings: Settings, *, source: PaperSource, source_ref: str, licence: str | None = None
) -> Received:
    """Read a PDF from its beginning to its end.

    Raises what `read_pages` raises, and TooLarge(file_too_large), each with field="file".
    """
    content = data if isinstance(data, bytes) else data.read(settings.max_document_bytes + 1)
    if len(content) > settings.max_document_bytes:
        raise TooLarge(
            "file_too_large",
            f"The file is larger than {settings.max_document_bytes} bytes.",
            field="file",
            hint="Raise STEMMA_MAX_DOCUMENT_BYTES.",
        )
    pages = read_pages(content, settings)
    name = Path(source_ref).stem or "paper"
    return Received(
        data=content,
        sha256=hashlib.sha256(content).hexdigest(),
        title=(title_of(pages) or name)[:_TITLE],
        kind=kind_of(pages),
        pages=len(pages),
        source=source,
        source_ref=source_ref[:_REFERENCE],
        licence=licence,
    )


def receive_file(path: Path, settings: Settings, *, licence: str | None = None) -> Received:
    """A PDF on this machine; raises NotFound, Unavailable, and what `receive` raises."""
    return receive(read_local(path), settings, source="folder", source_ref=path.name, licence=licence)


def receive_url(url: str, settings: Settings, *, licence: str | None = None) -> Received:
    """A PDF from the network; raises what the outgoing fetcher and `receive` raise. It blocks."""
    # Imports an HTTP client, which whoever reads a table can do without.
    from stemma.store.fetch import fetch

    fetched = fetch(url, settings)
    return receive(fetched.body, settings, source="url", source_ref=fetched.url, licence=licence)


def files_in(path: Path) -> tuple[Path, ...]:
    """The PDFs that a path names: itself, or those in a folder by name; raises NotFound where there is none."""
    path = path.expanduser()
    if not path.is_dir():
        return (path,)
    found = tuple(sorted(file for file in path.iterdir() if file.suffix.lower() == ".pdf" and file.is_file()))
    if not found:
        raise NotFound("no_papers_in_folder", f"There is no PDF in {path}.", field="path")
    return found


def kind_of(pages: Sequence[Page]) -> PaperKind:
    """Whether this is a paper, or a sheet that says of itself that it only restates what one printed."""
    return "claim_sheet" if _RESTATED.search(" ".join(pages[0].text.split())) else "paper"


def paper_id_of(sha256: str) -> UUID:
    """The id of the paper with these bytes."""
    return uuid5(_PAPERS, sha256)


def store(received: Received, settings: Settings) -> str:
    """Keep the bytes, durably, and put a copy into the inbox, whence they become searchable; returns the file's key.

    Raises Unavailable (`disk_full`, `storage_not_writable`).
    """
    key = f"papers/{paper_id_of(received.sha256)}/paper.pdf"
    FileStore.open_default(settings).write(key, received.data)
    words = re.sub(r"[^A-Za-z0-9]+", "-", received.title).strip("-")[:80] or "paper"
    store_upload(f"{words}-{received.sha256[:12]}.pdf", io.BytesIO(received.data), settings)
    return key


def record(connection: Connection, principal: Principal, received: Received, file_key: str) -> Change[Ingested]:
    """Make a received and stored PDF a paper; one that is there already stays as it is.

    Raises Forbidden; Conflict where somebody sends the same one now.
    """
    principal.require("papers:write")
    paper_id = paper_id_of(received.sha256)
    meta = {"sha256": received.sha256, "bytes": len(received.data), "source": received.source, "kind": received.kind}
    known = catalog.find_paper(connection, paper_id)
    if known is not None:
        entries = audited(principal, "paper.ingested", resource=subject(paper_id), meta={**meta, "status": "unchanged"})
        return Change(entries, (), lambda _: Ingested(known, "unchanged"))
    now = database_time(connection)
    paper = Paper(
        id=paper_id,
        sha256=received.sha256,
        title=received.title,
        kind=received.kind,
        source=received.source,
        source_ref=received.source_ref,
        licence=received.licence,
        file_key=file_key,
        pages_key=None,
        bytes=len(received.data),
        pages=received.pages,
        status="ingested",
        error_code=None,
        error_message=None,
        vector_file=None,
        created_at=now,
        created_by=principal.actor,
        updated_at=now,
    )
    refusal = Conflict("paper_exists", "The same paper is being taken in now.", field="file", hint="Try again.")
    insert = Statement(_INSERT, {name: getattr(paper, name) for name in Paper.__slots__}, rows=1, refusal=refusal)
    entries = audited(
        principal, "paper.ingested", resource=subject(paper_id), meta={**meta, "status": "created"}, critical=True
    )
    return Change(entries, (insert,), lambda _: Ingested(paper, "created"))


def subject(paper_id: UUID) -> str:
    """How the ledger names a paper."""
    return f"paper/{paper_id}"
