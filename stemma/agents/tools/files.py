"""Reading and writing files below the studio's home, in the folders that the agent was granted.

Whatever an agent's file grants, only some folders of the home are open to tools at all: keys, databases and settings
lie beside them. A file is written once; nothing replaces or removes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import Field

from stemma.agents.tools.model import Arguments, Found, Tool, Use
from stemma.errors import Conflict, Forbidden, InvalidInput, NotFound, TooLarge
from stemma.store.files import check_key, staged

OPEN: Final = frozenset({"drafts", "files", "inbox", "logs"})
"""The folders of the home below which files can be granted."""
MAX_READ: Final = 1 << 20
MAX_WRITTEN: Final = 1 << 18
_MOST_NAMES: Final = 200


class Place(Arguments):
    """A file or a folder."""

    path: str = Field(min_length=1, max_length=500, description="Below the studio's home, such as inbox/handbook.md")


class NewFile(Arguments):
    """A file to be written."""

    path: str = Field(min_length=1, max_length=500, description="Below the studio's home; nothing may be there yet")
    text: str = Field(max_length=MAX_WRITTEN, description="What it holds")


def _read(use: Use, wanted: Place) -> Found:
    path = _granted(use, wanted.path)
    if path.is_dir():
        names = sorted(f"{item.name}/" if item.is_dir() else item.name for item in path.iterdir() if _shown(item))
        return Found({"folder": wanted.path, "names": names[:_MOST_NAMES]}, facts={"names": len(names)})
    if not path.is_file():
        raise NotFound("file_not_found", f"There is no file {wanted.path}.", field="path")
    size = path.stat().st_size
    if size > MAX_READ:
        raise TooLarge("file_too_large", f"It has {size:,} bytes; at most {MAX_READ:,} are read.", field="path")
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise InvalidInput("file_not_text", f"{wanted.path} is not text in UTF-8.", field="path") from error
    return Found({"path": wanted.path, "text": text}, facts={"bytes": size})


def _write(use: Use, wanted: NewFile) -> Found:
    path = _granted(use, wanted.path)
    content = _encoded(wanted.text)
    with staged(path.parent) as file:
        file.write(content)
        file.flush()
        if not file.create(path):
            hint = "Name a file that is not there."
            raise Conflict("file_exists", f"There is something at {wanted.path} already.", field="path", hint=hint)
        facts = {"bytes": file.size, "sha256": file.sha256}
    return Found({"written": wanted.path, **facts}, facts=facts)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("text_invalid", "The text holds half a surrogate pair.", field="text") from error


def _shown(item: Path) -> bool:
    return not item.name.startswith(".") and not item.is_symlink()


def _granted(use: Use, asked: str) -> Path:
    """Where a path leads, links followed; raises Forbidden unless that lies in a folder that was granted."""
    home = use.studio.settings.home.resolve()
    segments = check_key(asked.rstrip("/"))
    path = home.joinpath(*segments).resolve()
    hidden = any(segment.startswith(".") for segment in segments)
    if hidden or not any(path.is_relative_to(home / folder) for folder in _folders(use)):
        hint = f"Allowed are {', '.join(_folders(use)) or 'none'}."
        raise Forbidden("path_refused", f"The path {asked} is not allowed.", field="path", hint=hint)
    return path


def _folders(use: Use) -> list[str]:
    granted = [folder.strip("/") for folder in use.grant.paths]
    return [folder for folder in granted if folder.partition("/")[0] in OPEN and ".." not in folder.split("/")]


READ: Final = Tool(
    "read_file",
    "Reads a text file of the studio in a folder that is allowed, or names what is in such a folder.",
    Place,
    ("publish:sign",),
    _read,
)
WRITE: Final = Tool(
    "write_file",
    "Writes a new text file into a folder of the studio that is allowed; it never replaces one.",
    NewFile,
    ("ingest:write",),
    _write,
    leaves_trace=True,
)
