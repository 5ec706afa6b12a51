"""Where documents come from: the registry of sources, and the items that each of them holds.

An item is bytes with a name; `stemma.knowledge.convert` decides what they mean. Nothing here writes
documents.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Final, cast

from stemma.access.principal import Principal
from stemma.errors import Conflict, InvalidInput, NotFound, Unavailable
from stemma.knowledge.conversion.unreadable import Unreadable, too_large
from stemma.knowledge.models import Source
from stemma.ledger.change import Change
from stemma.ledger.journal import audited
from stemma.ledger.writer import Statement
from stemma.store.database import Connection
from stemma.store.settings import REPOSITORY, Settings

INSTALLED = Source("installed-docs", "installed")
INBOX_NAME = "inbox"

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_TEMPORARY_SUFFIXES = (".part", ".partial", ".crdownload", ".tmp", ".swp", "~")
_UPSERT: Final = (
    "INSERT INTO knowledge_sources (name, kind, locations) VALUES (%s, %s, %s)"
    " ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, locations = excluded.locations, removed = false"
)
_READ_ATTEMPTS = 5
_TIMESTAMP_TICK = 0.02


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that a source holds. `size` is in bytes; `subject` is what the text is about, where its own
    title may not say so. `read()` returns the bytes or raises Unreadable."""

    uri: str
    name: str
    media_type: str | None
    size: int | None
    read: Callable[[], bytes]
    subject: str | None = None


def inbox_source(settings: Settings) -> Source:
    """The folder whose files become searchable by themselves."""
    return Source(INBOX_NAME, "folder", (str(settings.inbox),))


def ensure_builtin(connection: Connection, settings: Settings) -> tuple[Source, ...]:
    """Register the sources that every studio has and make the inbox folder; safe to repeat."""
    settings.inbox.mkdir(parents=True, exist_ok=True)
    builtin = (INSTALLED, inbox_source(settings))
    for source in builtin:
        connection.execute(_UPSERT, _row(source))
    return builtin


def register(connection: Connection, principal: Principal, source: Source) -> Change[Source]:
    """Add a source, or give one of the same kind new locations.

    Raises InvalidInput for a bad name or a location that does not exist, Conflict when the name is taken by
    another kind of source or built in.
    """
    if _NAME.fullmatch(source.name) is None:
        raise InvalidInput(
            "source_name_invalid",
            f"{source.name!r} is not a source name.",
            field="name",
            hint="Use up to 63 lower-case letters, digits, - and _, starting with a letter or digit.",
        )
    if source.name in (INSTALLED.name, INBOX_NAME):
        raise Conflict("source_builtin", f"The source {source.name} is built in.", field="name")
    _check_locations(source)
    row = connection.execute(
        "SELECT kind FROM knowledge_sources WHERE name = %s AND NOT removed", (source.name,)
    ).fetchone()
    if row is not None and row[0] != source.kind:
        raise Conflict(
            "source_exists",
            f"The source {source.name} exists and is of kind {row[0]}.",
            field="name",
            hint="Choose another name, or remove that source first.",
        )
    meta = {"kind": source.kind, "locations": list(source.locations)}
    entries = audited(principal, "source.registered", resource=_resource(source.name), meta=meta, critical=True)
    # Nobody took the name for another kind meanwhile.
    written = Statement(
        f"{_UPSERT} WHERE knowledge_sources.removed OR knowledge_sources.kind = excluded.kind", _row(source), rows=1
    )
    return Change(entries, (written,), lambda _: source)


def remove(connection: Connection, principal: Principal, name: str) -> Change[Source]:
    """Stop reading a source; its documents count as removed and go when no index cites them any more.

    Raises NotFound for an unknown name and Conflict for a built-in source.
    """
    source = get(connection, name)
    if name in (INSTALLED.name, INBOX_NAME):
        raise Conflict("source_builtin", f"The source {name} is built in and cannot be removed.", field="name")
    entries = audited(principal, "source.removed", resource=_resource(name), meta={"kind": source.kind}, critical=True)
    statements = (
        Statement("UPDATE knowledge_sources SET removed = true WHERE name = %s AND NOT removed", (name,), rows=1),
        Statement("UPDATE documents SET removed = true, chunked_as = NULL WHERE source = %s", (name,)),
        Statement(
            "UPDATE chunks c SET retired = true FROM documents d WHERE d.id = c.document_id AND d.source = %s", (name,)
        ),
        Statement("DELETE FROM document_quarantine WHERE source = %s", (name,)),
    )
    return Change(entries, statements, lambda _: source)


def list_sources(connection: Connection) -> tuple[Source, ...]:
    """All registered sources by name."""
    rows = connection.execute(
        "SELECT name, kind, locations FROM knowledge_sources WHERE NOT removed ORDER BY name"
    ).fetchall()
    return tuple(Source(name, kind, tuple(locations)) for name, kind, locations in rows)


def get(connection: Connection, name: str) -> Source:
    """The source of that name; raises NotFound that lists the known names."""
    known = {source.name: source for source in list_sources(connection)}
    if name not in known:
        listed = ", ".join(known) or "none"
        raise NotFound(
            "source_unknown",
            f"There is no source {name!r}.",
            field="source",
            hint=f"Known sources: {listed}.",
        )
    return known[name]


def read_items(source: Source, settings: Settings) -> Iterator[Item]:
    """Every item of a source in a fixed order; of what cannot be read, `read()` raises the reason.

    Raises NotFound when the folder of a folder source is gone, so that an unplugged disk is not taken for
    deleted documents.
    """
    if source.kind == "installed":
        yield from _installed_items(source, settings)
    elif source.kind == "folder":
        for location in source.locations:
            yield from _folder_items(Path(location), settings)
    else:
        for location in sorted(source.locations):
            yield _file_item(Path(location), PurePosixPath(location).as_posix(), settings)


def _row(source: Source) -> tuple[str, str, list[str]]:
    return source.name, source.kind, list(source.locations)


def _resource(name: str) -> str:
    """How entries name a source."""
    return f"source/{name}"


def _check_locations(source: Source) -> None:
    if source.kind != "installed" and not source.locations:
        raise InvalidInput("location_missing", "The source names no folder or file.", field="locations")
    if source.kind == "folder" and len(source.locations) != 1:
        raise InvalidInput("location_invalid", "A folder source has exactly one folder.", field="locations")
    for location in source.locations:
        path = Path(location)
        exists = path.is_file() if source.kind == "files" else path.is_dir()
        if not path.is_absolute() or not exists:
            kind = "file" if source.kind == "files" else "folder"
            raise InvalidInput(
                "location_invalid", f"{location} is not the absolute path of a {kind}.", field="locations"
            )


def _installed_items(source: Source, settings: Settings) -> Iterator[Item]:
    described: dict[str, Item] = {}
    for distribution in metadata.distributions():
        item = _distribution_item(distribution)
        if item is not None:
            described.setdefault(item.uri, item)
    yield from (described[uri] for uri in sorted(described))
    for folder, prefix in [
        (REPOSITORY / "docs", "docs"),
        *((Path(place), Path(place).name) for place in source.locations),
    ]:
        if folder.is_dir():
            for item in _folder_items(folder, settings, prefix=f"{prefix}/"):
                if item.uri.endswith(".md") or prefix != "docs":
                    yield item


def _distribution_item(distribution: metadata.Distribution) -> Item | None:
    fields = cast(Message, distribution.metadata)
    name = fields.get("Name")
    if not name:
        return None
    payload = fields.get_payload()
    body = payload if isinstance(payload, str) and payload.strip() else fields.get("Description") or ""
    if body.strip() in ("", "UNKNOWN"):
        return None
    data = body.encode("utf-8", "replace")
    canonical = re.sub(r"[-_.]+", "-", name).lower()
    declared = fields.get("Description-Content-Type") or "text/x-rst"
    return Item(
        uri=f"pypi:{canonical}",
        name=name,
        media_type=declared,
        size=len(data),
        read=lambda: data,
        subject=name,
    )


def _folder_items(folder: Path, settings: Settings, *, prefix: str = "") -> Iterator[Item]:
    if not folder.is_dir():
        raise NotFound(
            "source_folder_missing",
            f"The folder {folder} does not exist.",
            field="source",
            hint="Restore the folder or remove the source; its documents stay searchable until then.",
        )
    yield from _walk(folder, folder.resolve(), prefix, settings)


def _walk(folder: Path, root: Path, prefix: str, settings: Settings) -> Iterator[Item]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        if folder.resolve() == root:
            raise Unavailable(
                "source_unreadable", f"The folder {folder} cannot be listed: {error.strerror}."
            ) from error
        yield _refused(prefix, _reason(error))
        return
    for entry in entries:
        uri = prefix + _text(entry.name)
        if is_passed_over(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), root, f"{uri}/", settings)
        elif entry.is_symlink():
            yield from _linked(Path(entry.path), root, uri, settings)
        else:
            yield _file_item(Path(entry.path), uri, settings)


def is_passed_over(name: str) -> bool:
    """Whether a folder source leaves out files of this name: hidden and half-downloaded ones."""
    return name.startswith((".", "~$")) or name.endswith(_TEMPORARY_SUFFIXES)


def _linked(link: Path, root: Path, uri: str, settings: Settings) -> Iterator[Item]:
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        yield _refused(uri, Unreadable("link_broken", "The symbolic link leads nowhere."))
        return
    if not target.is_relative_to(root):
        yield _refused(
            uri,
            Unreadable(
                "outside_folder",
                "The symbolic link leaves its source's folder.",
                hint="Copy the file instead.",
            ),
        )
    elif target.is_file():
        yield _file_item(target, uri, settings)


def _file_item(path: Path, uri: str, settings: Settings) -> Item:
    try:
        size: int | None = path.stat().st_size
    except OSError:
        size = None
    name = PurePosixPath(uri).name
    return Item(uri=uri, name=name, media_type=None, size=size, read=lambda: read_stable(path, settings))


def _refused(uri: str, reason: Unreadable) -> Item:
    def read() -> bytes:
        raise reason

    return Item(uri=uri, name=PurePosixPath(uri).name, media_type=None, size=None, read=read)


def _text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _reason(error: OSError) -> Unreadable:
    if isinstance(error, PermissionError):
        return Unreadable("permission_denied", "This process may not read it.", hint="Change its permissions.")
    if isinstance(error, FileNotFoundError):
        return Unreadable("file_missing", "It is not there any more.")
    return Unreadable("read_failed", f"Reading it failed: {error.strerror or error}.")


def read_stable(path: Path, settings: Settings) -> bytes:
    """The bytes of a regular file that did not change while they were read.

    Raises Unreadable: `too_large` (before reading), `changed_while_read` after several tries, `not_a_file`
    for pipes and devices (which are never waited for), `permission_denied`, `file_missing`, `read_failed`.
    """
    for attempt in range(_READ_ATTEMPTS):
        if attempt:
            time.sleep(_TIMESTAMP_TICK)
        try:
            data = _read_once(path, settings)
        except OSError as error:
            raise _reason(error) from error
        if data is not None:
            return data
    raise Unreadable(
        "changed_while_read",
        "The file keeps changing while it is read.",
        hint="It is read when it has come to rest.",
    )


def _read_once(path: Path, settings: Settings) -> bytes | None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise Unreadable("not_a_file", "It is a pipe, socket, device or folder, not a file.")
        if before.st_size > settings.max_document_bytes:
            raise too_large(before.st_size, settings)
        # A write within the same tick of the file system's clock as the last one would leave no trace.
        if 0 <= time.time() - before.st_mtime < _TIMESTAMP_TICK:
            return None
        data = file.read(before.st_size + 1)
        after = path.stat()
    rested = (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    return data if rested and len(data) == before.st_size == after.st_size else None
