"""Taking in one file that somebody sends: its name, its size, and its place in the inbox.

Reading what it says is the business of the documents step, which finds it in the inbox.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from stemma.access.principal import Principal
from stemma.errors import Conflict, InvalidInput, TooLarge, Unavailable, UnsupportedType
from stemma.knowledge.conversion.unreadable import Unreadable
from stemma.knowledge.convert import media_type_of
from stemma.knowledge.sources import INBOX_NAME, is_passed_over
from stemma.ledger.change import Change
from stemma.ledger.journal import audited
from stemma.store.files import Staged, staged, storage_error, sync_folder
from stemma.store.settings import Settings

UploadStatus = Literal["created", "replaced", "unchanged"]

_BLOCK = 1 << 20
_HEAD = 1024
_NAME_BYTES = 200
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that lies whole and durable in the inbox; SHA-256 hexadecimal, size in bytes."""

    name: str
    source: str
    uri: str
    sha256: str
    size: int
    status: UploadStatus


def store_upload(name: str, stream: BinaryIO, settings: Settings, *, replace: bool = False) -> Upload:
    """Read a stream to its end into the inbox; when this returns, the file outlasts a crash and a power cut.

    A file appears whole or not at all; of two uploads of one name at once, one is refused unless their
    bytes are equal or `replace` is set. Raises InvalidInput (`file_name_invalid`, `file_empty`), TooLarge
    (`file_too_large`), UnsupportedType (`unsupported_type`), Conflict (`file_exists`) and Unavailable
    (`disk_full`, `storage_not_writable`), each with field="file" where the file is to blame.
    """
    name = check_name(name)
    with staged(settings.inbox) as file:
        head = _receive(stream, file, settings)
        if file.size == 0:
            raise InvalidInput("file_empty", "The file is empty.", field="file", hint="Send a file with content.")
        _check_type(head, name)
        file.flush()
        status = _publish(file, settings.inbox / name, replace=replace)
        return Upload(name, INBOX_NAME, name, file.sha256, file.size, status)


def record_upload(principal: Principal, upload: Upload) -> Change[Upload]:
    """Put on record who sent a file that `store_upload` took in."""
    meta = {"name": upload.name, "source": upload.source, "size": upload.size, "status": upload.status}
    entries = audited(
        principal,
        "document.uploaded",
        resource=f"document/{upload.sha256}",
        meta=meta,
        critical=upload.status != "unchanged",
    )
    return Change(entries, (), lambda _: upload)


def check_name(name: str) -> str:
    """The name under which a file is kept (Unicode NFC); raises InvalidInput(field="file") for an unusable
    one.

    A name has 1 to 200 bytes of UTF-8 and no path, control characters, or leading or trailing spaces; names
    of hidden and temporary files are refused because the inbox passes them over.
    """
    normal = unicodedata.normalize("NFC", name)
    if any(character in "/\\" for character in normal):
        raise _bad_name("it holds a path")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in normal):
        raise _bad_name("it holds control characters")
    if not 0 < len(normal.encode()) <= _NAME_BYTES:
        raise _bad_name(f"it must have 1 to {_NAME_BYTES} bytes")
    if normal != normal.strip() or is_passed_over(normal):
        raise _bad_name("it is that of a hidden or temporary file, or has spaces around it")
    return normal


def _bad_name(problem: str) -> InvalidInput:
    return InvalidInput(
        "file_name_invalid",
        f"This file name cannot be used: {problem}.",
        field="file",
        hint="Rename the file.",
    )


def _receive(stream: BinaryIO, file: Staged, settings: Settings) -> bytes:
    head = b""
    while block := stream.read(_BLOCK):
        if file.size + len(block) > settings.max_document_bytes:
            raise TooLarge(
                "file_too_large",
                f"The file is larger than {settings.max_document_bytes} bytes.",
                field="file",
                hint="Split it, or raise STEMMA_MAX_DOCUMENT_BYTES.",
            )
        file.write(block)
        head = head or block[:_HEAD]
    return head


def _check_type(head: bytes, name: str) -> None:
    try:
        media_type_of(head, uri=name, media_type=None)
    except Unreadable as error:
        raise UnsupportedType(error.code, error.message, field="file", hint=error.hint) from error


def _publish(file: Staged, final: Path, *, replace: bool) -> UploadStatus:
    for _ in range(_ATTEMPTS):
        if file.create(final):
            return "created"
        try:
            present = _durable_sha256(final)
        except FileNotFoundError:
            continue
        except IsADirectoryError as error:
            raise _taken(final.name) from error
        except OSError as error:
            raise storage_error(error) from error
        if present == file.sha256:
            return "unchanged"
        if not replace:
            raise _taken(final.name)
        file.replace(final)
        return "replaced"
    raise Unavailable("file_changing", f"{final.name} keeps appearing and disappearing.", field="file")


def _taken(name: str) -> Conflict:
    return Conflict(
        "file_exists",
        f"The inbox already has a different {name}.",
        field="file",
        hint="Rename the file, or send it with replace=true.",
    )


def _durable_sha256(path: Path) -> str:
    """The SHA-256 of a file that others may have written, after making sure that it is on the disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    sync_folder(path.parent)
    return digest
