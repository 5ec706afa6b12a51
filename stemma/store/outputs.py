"""What a piece of work wrote and what it read from outside, by content: whoever writes says so, a collector listens.

An artifact is bytes with their SHA-256. Of a file these are its own bytes; a table or a folder has a listing: one JSON
line per row or file, in an order of its own, in which long values stand by their SHA-256. Without a collector nothing
is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mimetypes
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

_LISTING = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Artifact:
    """Content by name: SHA-256 (hexadecimal) and size in bytes of a file, or of the listing of a table or folder."""

    name: str
    media_type: str
    sha256: str
    size: int

    @property
    def is_listing(self) -> bool:
        """Whether it stands for a table or a folder, so that there is no file of these bytes."""
        return self.media_type == _LISTING


@dataclass(slots=True)
class Outputs:
    """What one piece of work told of, each artifact by its name, the last word counting."""

    written: dict[str, Artifact] = field(default_factory=dict)
    read: dict[str, Artifact] = field(default_factory=dict)


_collector: ContextVar[Outputs | None] = ContextVar("stemma_outputs", default=None)


@contextlib.contextmanager
def collected() -> Iterator[Outputs]:
    """Collect what is told of inside the block, on this thread; an outer collector hears nothing of it."""
    outputs = Outputs()
    token = _collector.set(outputs)
    try:
        yield outputs
    finally:
        _collector.reset(token)


def record(artifact: Artifact) -> None:
    """Say that this was written, or found to be as it would have been written."""
    outputs = _collector.get()
    if outputs is not None:
        outputs.written[artifact.name] = artifact


def record_read(artifact: Artifact) -> None:
    """Say that this was read from outside the studio: what has no receipt because nothing here made it."""
    outputs = _collector.get()
    if outputs is not None:
        outputs.read[artifact.name] = artifact


def record_file(key: str, sha256: str, size: int) -> None:
    """Say that a file was written; its key tells the media type."""
    # Finding out the media type reads the system's tables, which nobody else shall wait for.
    if _collector.get() is not None:
        record(Artifact(key, mimetypes.guess_type(key)[0] or "application/octet-stream", sha256, size))


def hashed(name: str, data: bytes) -> Artifact:
    """The artifact that a file of these bytes is."""
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Artifact(name, media_type, hashlib.sha256(data).hexdigest(), len(data))


class Listing:
    """A listing as it grows: hashed line by line, never held."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._size = 0

    def add(self, *values: str | int | None) -> None:
        """Add one line."""
        line = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        self._digest.update(line)
        self._size += len(line)

    def artifact(self, name: str) -> Artifact:
        """What has been listed so far."""
        return Artifact(name, _LISTING, self._digest.hexdigest(), self._size)


def folder_artifact(folder: Path, name: str) -> Artifact:
    """The listing (name, SHA-256, size) of the files in a folder; hidden ones are working files and do not count."""
    listing = Listing()
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            listing.add(path.name, sha256, path.stat().st_size)
    return listing.artifact(name)
