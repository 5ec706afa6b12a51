"""The console's own files: style sheets, ES modules and the vendored libraries, read once and served compressed.

Their addresses hold a hash over all of them, so that browsers keep them for ever and a change is seen at once.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Final

from fastapi import APIRouter, Header, Response
from fastapi import Path as PathParameter

from stemma.errors import NotFound

FOLDER: Final = Path(__file__).with_name("static")
ROUTE: Final = "/static/{version}/{name:path}"

_SERVED: Final = frozenset({".css", ".js", ".svg"})
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_HASH_CHARACTERS: Final = 12

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class File:
    """A static file, and the same compressed."""

    media_type: str
    plain: bytes
    compressed: bytes


@cache
def load() -> dict[str, File]:
    """Every static file that is served, by its path below the folder."""
    found = {}
    for path in sorted(path for path in FOLDER.rglob("*") if path.suffix in _SERVED):
        plain = path.read_bytes()
        media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        name = path.relative_to(FOLDER).as_posix()
        found[name] = File(media_type, plain, gzip.compress(plain, 9, mtime=0))
    return found


@cache
def version() -> str:
    """What the addresses of the files hold: another one where any file has changed."""
    digest = hashlib.sha256()
    for name, file in load().items():
        digest.update(f"{name}\0{len(file.plain)}\0".encode())
        digest.update(file.plain)
    return digest.hexdigest()[:_HASH_CHARACTERS]


def address(name: str) -> str:
    """Where a file is served; raises KeyError for one that there is not."""
    load()[name]
    return f"/static/{version()}/{name}"


@router.get(ROUTE)
async def read_file(
    asked: Annotated[str, PathParameter(alias="version")],
    name: str,
    accept_encoding: Annotated[str, Header()] = "",
) -> Response:
    """A file as it is now; under another version's address it is not to be kept."""
    file = load().get(name)
    if file is None:
        raise NotFound("file_not_found", "The console has no such file.")
    headers = {"Cache-Control": _FOR_EVER if asked == version() else "no-cache", "Vary": "Accept-Encoding"}
    if "gzip" in accept_encoding:
        headers["Content-Encoding"] = "gzip"
        return Response(file.compressed, headers=headers, media_type=file.media_type)
    return Response(file.plain, headers=headers, media_type=file.media_type)
